"""Targets that are linear in the image: the mean of a region, its contrast to a ring, any weighted sum."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medinterp.attribution.targets.base import require_inside, require_shape
from medinterp.attribution.targets.box import Box, bounding_box
from medinterp.errors import InputError


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
    degree: int = field(default=1, init=False)
    linear: bool = field(default=True, init=False)
    _support: Box = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_support", bounding_box(self.mask, self.name))

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Return the region's mean of each sample.

        Raises:
            GridMismatch: the image has another shape than the mask.
        """
        require_shape(image, self.mask, self.name)
        inside = self.mask[self._support.slices].to(image.device)
        values = image[(slice(None), self.channel, *self._support.slices)]
        return torch.where(inside, values, torch.zeros_like(values)).flatten(1).sum(1) / inside.sum()

    def unit(self, image_unit: str) -> str:
        """Return the image's own unit."""
        return image_unit

    def support(self) -> Box:
        """Return the region's bounding box."""
        return self._support

    def crop(self, box: Box) -> "RegionMean":
        """Return the same region inside a box that holds it whole."""
        require_inside(self._support, box, self.name)
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
    degree: int = field(default=1, init=False)
    linear: bool = field(default=True, init=False)
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

    def unit(self, image_unit: str) -> str:
        """Return the image's own unit."""
        return image_unit

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
    degree: int = field(default=1, init=False)
    linear: bool = field(default=True, init=False)
    _support: Box = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_support", bounding_box(self.weights != 0, self.name))

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Return the weighted sum of each sample.

        Raises:
            GridMismatch: the image has another shape than the weights.
        """
        require_shape(image, self.weights, self.name)
        values = image[(slice(None), self.channel, *self._support.slices)]
        weights = self.weights[self._support.slices].to(values)
        return (values * weights).flatten(1).sum(1)

    def unit(self, image_unit: str) -> str:
        """Return the image's own unit."""
        return image_unit

    def support(self) -> Box:
        """Return the bounding box of the weights that are not zero."""
        return self._support

    def crop(self, box: Box) -> "WeightedSum":
        """Return the same weights inside a box that holds them all."""
        require_inside(self._support, box, self.name)
        return WeightedSum(self.weights[box.slices], self.name, self.channel)
