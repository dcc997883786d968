"""Targets that are not linear in the image: the energy of a region, the sharpness of its edge, any function of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from medinterp.attribution.targets.base import require_inside, require_shape, squared_unit
from medinterp.attribution.targets.box import Box, bounding_box
from medinterp.attribution.targets.linear import RegionContrast, RegionMean, WeightedSum
from medinterp.errors import EmptyRegion, InputError
from medinterp.volume.region import TOLERANCE_MM


@dataclass(frozen=True, eq=False)
class RegionEnergy:
    """The mean over a region of the image squared: the energy of what was removed, or of a difference.

    Args:
        mask: True inside the region, on the image's grid.
        name: what to call it in tables; free of patient data.
        channel: which channel of the image is measured.

    Raises:
        EmptyRegion: the mask holds no voxel.
    """

    mask: Bool[Tensor, "I J K"]
    name: str
    channel: int = 0
    degree: int = field(default=2, init=False)
    linear: bool = field(default=False, init=False)
    _mean: RegionMean = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_mean", RegionMean(self.mask, self.name, self.channel))

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Return the region's mean square of each sample.

        Raises:
            GridMismatch: the image has another shape than the mask.
        """
        return self._mean(image.square())

    def unit(self, image_unit: str) -> str:
        """Return the image's unit squared."""
        return squared_unit(image_unit)

    def support(self) -> Box:
        """Return the region's bounding box."""
        return self._mean.support()

    def crop(self, box: Box) -> "RegionEnergy":
        """Return the same region inside a box that holds it whole."""
        return RegionEnergy(self._mean.crop(box).mask, self.name, self.channel)


@dataclass(frozen=True, eq=False)
class EdgeSharpness:
    """The slope of the image across a region's border over its contrast there: one over the width of the edge, in mm.

    It does not change when the image is scaled or a constant is added. An edge that rises linearly over w mm (at least
    two voxels) has sharpness 1/w; one that is a step reads as one that rises over two voxels. Where there is no
    contrast it is undefined.

    Args:
        slope: mean derivative of the image along the inward normal over the border, per mm.
        plateaus: the mean inside minus the mean outside, away from the border.
        name: what to call it in tables; free of patient data.
    """

    slope: WeightedSum
    plateaus: RegionContrast
    name: str
    degree: int = field(default=0, init=False)
    linear: bool = field(default=False, init=False)

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Return the sharpness of each sample.

        Raises:
            GridMismatch: the image has another shape than the region.
        """
        return self.slope(image) / self.plateaus(image)

    def unit(self, image_unit: str) -> str:
        """Return one over millimetres, whatever the image's unit."""
        return "1/mm"

    def support(self) -> Box:
        """Return the bounding box of border and plateaus together."""
        return self.slope.support().joined(self.plateaus.support())

    def crop(self, box: Box) -> "EdgeSharpness":
        """Return the same edge inside a box that holds it whole."""
        return EdgeSharpness(self.slope.crop(box), self.plateaus.crop(box), self.name)


def edge_sharpness(
    mask: Bool[np.ndarray, "I J K"],
    spacing_mm: tuple[float, float, float],
    name: str,
    *,
    gap_mm: float = 2.0,
    width_mm: float = 5.0,
    channel: int = 0,
) -> EdgeSharpness:
    """Return the edge sharpness of a region.

    The slope is measured on the voxels on either side of the region's border, the contrast between the voxels from
    ``gap_mm`` to ``gap_mm + width_mm`` inside and outside of it (from half its depth inward where the region is too
    thin for the gap). Assumes orthogonal voxel axes.

    Args:
        mask: True inside the region.
        spacing_mm: voxel size along I, J and K.
        name: what to call it in tables; free of patient data.
        gap_mm: how far the plateaus stay from the border.
        width_mm: how wide they are.
        channel: which channel of the image is measured.

    Raises:
        EmptyRegion: the region holds no voxel, or nothing lies outside of it at that distance.
    """
    from scipy import ndimage  # slow to import, and only needed here

    if not mask.any():
        raise EmptyRegion(f"the target '{name}' holds no voxel of the scan; check its position in RAS mm")
    box = _surroundings(mask, [(gap_mm + width_mm) / step + 2 for step in spacing_mm])
    part = mask[box.slices]
    depth = ndimage.distance_transform_edt(np.pad(part, 1, mode="edge"), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    distance = ndimage.distance_transform_edt(~part, sampling=spacing_mm)
    start_mm = min(gap_mm, float(depth.max()) / 2)
    inside = part & (depth >= start_mm - TOLERANCE_MM) & (depth <= start_mm + width_mm + TOLERANCE_MM)
    outside = ~part & (distance > gap_mm + TOLERANCE_MM) & (distance <= gap_mm + width_mm + TOLERANCE_MM)
    border = ndimage.binary_dilation(part) & ~ndimage.binary_erosion(part, border_value=1)
    if not border.any():
        raise EmptyRegion(f"the target '{name}' fills the scan and has no edge in it; draw a smaller region")
    inward = _unit_gradient(ndimage.gaussian_filter(part.astype(np.float64), 1.0), spacing_mm)
    weights = _slope_weights(torch.from_numpy(inward * border / border.sum()), spacing_mm)
    plateaus = [torch.from_numpy(_embed(shell, box, mask.shape)) for shell in (inside, outside)]
    return EdgeSharpness(
        WeightedSum(torch.from_numpy(_embed(weights.numpy().astype(np.float32), box, mask.shape)), name, channel),
        RegionContrast(plateaus[0], plateaus[1], name, channel),
        name,
    )


def _surroundings(mask: NDArray[np.bool_], margin: list[float]) -> Box:
    tight = bounding_box(torch.from_numpy(mask), "region")
    low = [max(0, start - int(np.ceil(extra))) for start, extra in zip(tight.start, margin, strict=True)]
    high = [
        min(size, stop + int(np.ceil(extra))) for stop, extra, size in zip(tight.stop, margin, mask.shape, strict=True)
    ]
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _unit_gradient(smooth: NDArray[np.float64], spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the direction in which a function rises (3, I, J, K); zero where it is flat."""
    slopes = [
        np.gradient(smooth, step, axis=axis) if smooth.shape[axis] > 1 else np.zeros_like(smooth)
        for axis, step in enumerate(spacing_mm)
    ]
    size = np.sqrt(sum(slope**2 for slope in slopes))
    return np.stack(slopes) / np.where(size > 0, size, 1.0)


def _slope_weights(directions: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
    """Return the weights whose weighted sum is ``sum(directions . gradient of the image)``, by transposition."""
    image = torch.zeros(directions.shape[1:], dtype=torch.float64, requires_grad=True)
    axes = [axis for axis in range(3) if image.shape[axis] > 1]
    with torch.enable_grad():
        gradients = torch.gradient(image, spacing=[spacing_mm[axis] for axis in axes], dim=axes)
        slope = sum((directions[axis] * along).sum() for axis, along in zip(axes, gradients, strict=True))
    (weights,) = torch.autograd.grad(torch.as_tensor(slope), image)
    return weights


def _embed(part: NDArray[np.generic], box: Box, shape: tuple[int, ...]) -> NDArray[np.generic]:
    whole = np.zeros(shape, dtype=part.dtype)
    whole[box.slices] = part
    return whole


@dataclass(frozen=True, eq=False)
class RegionFunction:
    """Any scalar function of the image in a region.

    Args:
        function: called for each sample with the voxels of the region's bounding box (C, i, j, k) and the region's
            mask in it (i, j, k); returns one number as a tensor without dimensions. Gradient methods need it to be
            differentiable.
        mask: True inside the region, on the image's grid.
        name: what to call it in tables; free of patient data.
        function_unit: unit of the number.
        linear: whether it is linear in the image.

    Raises:
        EmptyRegion: the mask holds no voxel.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    mask: Bool[Tensor, "I J K"]
    name: str
    function_unit: str = "1"
    linear: bool = False
    degree: int | None = field(default=None, init=False)
    _support: Box = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_support", bounding_box(self.mask, self.name))
        object.__setattr__(self, "degree", 1 if self.linear else None)

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Return the function of each sample.

        Raises:
            GridMismatch: the image has another shape than the mask.
            InputError: the function returned something else than one number as a tensor.
        """
        require_shape(image, self.mask, self.name)
        inside = self.mask[self._support.slices].to(image.device)
        return torch.stack([self._measure(sample[(slice(None), *self._support.slices)], inside) for sample in image])

    def _measure(self, voxels: Tensor, inside: Tensor) -> Tensor:
        try:
            number = self.function(voxels, inside)
        except Exception as error:  # it is the user's own, and may fail in any way
            raise InputError(
                f"the function of the target '{self.name}' failed on the region's voxels and mask: "
                f"{type(error).__name__} (--debug shows where)"
            ) from error
        if not isinstance(number, Tensor) or number.ndim or not number.is_floating_point():
            what = f"a tensor of shape {tuple(number.shape)}" if isinstance(number, Tensor) else type(number).__name__
            raise InputError(
                f"the function of the target '{self.name}' returned {what}: expected one floating-point number as a "
                "tensor without dimensions, such as image[:, mask].std()"
            )
        return number

    def unit(self, image_unit: str) -> str:
        """Return the unit the function was said to have."""
        return self.function_unit

    def support(self) -> Box:
        """Return the region's bounding box."""
        return self._support

    def crop(self, box: Box) -> "RegionFunction":
        """Return the same function for a box that holds the region whole."""
        require_inside(self._support, box, self.name)
        return RegionFunction(self.function, self.mask[box.slices], self.name, self.function_unit, self.linear)
