"""What is being explained: one number of the output image, measured in a region."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medinterp.errors import EmptyRegion, GridMismatch, InputError


@dataclass(frozen=True)
class Box:
    """A box of voxels: from ``start`` up to but not including ``stop``, along I, J and K."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along I, J and K."""
        i, j, k = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return i, j, k

    @property
    def voxels(self) -> int:
        """Number of voxels inside."""
        i, j, k = self.shape
        return i * j * k

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array (I, J, K)."""
        i, j, k = (slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))
        return i, j, k

    def joined(self, other: "Box") -> "Box":
        """Return the smallest box that holds both."""
        low = [min(pair) for pair in zip(self.start, other.start, strict=True)]
        high = [max(pair) for pair in zip(self.stop, other.stop, strict=True)]
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def clipped(self, other: "Box") -> "Box":
        """Return the part inside the other box."""
        low = [max(pair) for pair in zip(self.start, other.start, strict=True)]
        high = [min(pair) for pair in zip(self.stop, other.stop, strict=True)]
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def relative_to(self, other: "Box") -> "Box":
        """Return the box in voxels counted from the start of the other box."""
        i, j, k = (a - b for a, b in zip(self.start, other.start, strict=True))
        return Box((i, j, k), (i + self.shape[0], j + self.shape[1], k + self.shape[2]))

    def contains(self, other: "Box") -> bool:
        """Say whether the other box lies inside this one."""
        return self.joined(other) == self


@runtime_checkable
class Target(Protocol):
    """One number of the output image, per sample, in the image's unit times ``unit_factor``.

    A target knows the box of voxels it reads (``support``) and can be moved into a box (``crop``), so that it can be
    explained on a part of the volume.
    """

    @property
    def name(self) -> str:
        """What to call it in tables; free of patient data."""

    @property
    def unit_factor(self) -> str:
        """How the number follows from voxel values, for legends: "mean", "difference of means"."""

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Measure each sample of the image."""

    def support(self) -> Box:
        """Return the smallest box that holds every voxel the target reads."""

    def crop(self, box: Box) -> "Target":
        """Return the same target for the part of the image inside the box."""


@dataclass(frozen=True, eq=False)
class RegionMean:
    """The mean of the image over a region.

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
    unit_factor: str = field(default="mean", init=False)
    _support: Box = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_support", _bounding_box(self.mask, self.name))

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Return the region's mean of each sample.

        Raises:
            GridMismatch: the image has another shape than the mask.
        """
        _require_shape(image, self.mask, self.name)
        inside = self.mask[self._support.slices].to(image.device)
        values = image[(slice(None), self.channel, *self._support.slices)]
        return torch.where(inside, values, torch.zeros_like(values)).flatten(1).sum(1) / inside.sum()

    def support(self) -> Box:
        """Return the region's bounding box."""
        return self._support

    def crop(self, box: Box) -> "RegionMean":
        """Return the same region inside a box that holds it whole."""
        _require_inside(self._support, box, self.name)
        return RegionMean(self.mask[box.slices], self.name, self.channel)


@dataclass(frozen=True, eq=False)
class RegionContrast:
    """The mean over a region minus the mean over its surrounding ring.

    Args:
        mask: True inside the region, on the image's grid.
        ring: True in the surroundings it is compared with, same grid.
        name: what to call it in tables; free of patient data.
        channel: which channel of the image is measured.

    Raises:
        EmptyRegion: the mask or the ring holds no voxel.
        InputError: mask and ring overlap, or have different shapes.
    """

    mask: Bool[Tensor, "I J K"]
    ring: Bool[Tensor, "I J K"]
    name: str
    channel: int = 0
    unit_factor: str = field(default="difference of means", init=False)
    _inside: RegionMean = field(init=False, repr=False)
    _around: RegionMean = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_inside", RegionMean(self.mask, self.name, self.channel))
        object.__setattr__(self, "_around", RegionMean(self.ring, f"{self.name}, ring", self.channel))
        shared = int((self.mask & self.ring).sum())
        if shared:
            raise InputError(
                f"the target '{self.name}' shares {shared} voxels with its ring; take the region out of the ring"
            )

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Return the contrast of each sample.

        Raises:
            GridMismatch: the image has another shape than the masks.
        """
        return self._inside(image) - self._around(image)

    def support(self) -> Box:
        """Return the bounding box of region and ring together."""
        return self._inside.support().joined(self._around.support())

    def crop(self, box: Box) -> "RegionContrast":
        """Return the same region and ring inside a box that holds them whole."""
        inside, around = self._inside.crop(box), self._around.crop(box)
        return RegionContrast(inside.mask, around.mask, self.name, self.channel)


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """The sum of the image times given weights: any linear measurement.

    Args:
        weights: one weight per voxel, on the image's grid.
        name: what to call it in tables; free of patient data.
        channel: which channel of the image is measured.

    Raises:
        EmptyRegion: every weight is zero.
    """

    weights: Float[Tensor, "I J K"]
    name: str
    channel: int = 0
    unit_factor: str = field(default="weighted sum", init=False)
    _support: Box = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_support", _bounding_box(self.weights != 0, self.name))

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Return the weighted sum of each sample.

        Raises:
            GridMismatch: the image has another shape than the weights.
        """
        _require_shape(image, self.weights, self.name)
        values = image[(slice(None), self.channel, *self._support.slices)]
        weights = self.weights[self._support.slices].to(values)
        return (values * weights).flatten(1).sum(1)

    def support(self) -> Box:
        """Return the bounding box of the weights that are not zero."""
        return self._support

    def crop(self, box: Box) -> "WeightedSum":
        """Return the same weights inside a box that holds them all."""
        _require_inside(self._support, box, self.name)
        return WeightedSum(self.weights[box.slices], self.name, self.channel)


def _require_shape(image: Tensor, mask: Tensor, name: str) -> None:
    if image.shape[2:] != mask.shape:
        raise GridMismatch(
            f"the target '{name}' is on {tuple(mask.shape)} voxels, the image on {tuple(image.shape[2:])}; draw the "
            "region on the grid of the output image"
        )


def _require_inside(support: Box, box: Box, name: str) -> None:
    if not box.contains(support):
        raise InputError(f"the target '{name}' spans {support}, which does not fit in the crop {box}")


def _bounding_box(mask: Tensor, name: str) -> Box:
    """Return the smallest box that holds every True voxel."""
    low, high = [], []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        used = mask.any(dim=others[1]).any(dim=others[0]).nonzero()
        if not len(used):
            raise EmptyRegion(f"the target '{name}' holds no voxel of the scan; check its position in RAS mm")
        low.append(int(used[0]))
        high.append(int(used[-1]) + 1)
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
