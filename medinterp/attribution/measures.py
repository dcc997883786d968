"""Kinds of measurement by name: how to measure any region, before it is known where the region lies."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from medinterp.attribution.result import Forward
from medinterp.attribution.targets import (
    ClassLogit,
    ClassRegionScore,
    RegionContrast,
    RegionEnergy,
    RegionFunction,
    RegionMean,
    Target,
    edge_sharpness,
)
from medinterp.attribution.targets.base import squared_unit
from medinterp.attribution.targets.network import Network
from medinterp.attribution.views import DenoiserForward, Difference, Removed, Variance
from medinterp.denoisers.base import Denoiser
from medinterp.errors import ConfigError
from medinterp.volume import Region, ring

READ = "read"
"""Key of a field's metadata that says how its text is read: "import" (module:attribute) or "denoiser" (by name)."""


class Measure(ABC):
    """A kind of measurement: given a region it becomes a target, given a forward it says which image is measured.

    To explain one: ``attributor(measure.view(forward), inputs, sigmas, measure.target(region))``, with
    ``measure.radius(radius)`` as the radius of a crop. A plug-in's measure is a frozen dataclass that derives from this
    class and stands in the entry-point group ``medinterp.targets``.

    Attributes:
        name: its name in the registry.
        linear: whether it is a linear function of the output image alone, so that a map of a fused image divides
            exactly over the modalities.
    """

    name: ClassVar[str]
    linear: bool = False

    @abstractmethod
    def target(self, region: Region) -> Target:
        """Return the measurement of one region.

        Raises:
            EmptyRegion: the scan holds no voxel of the surroundings it needs.
        """

    @property
    def of_image(self) -> bool:
        """Whether it looks at the output image itself, so that the scan before has such a number too."""
        return type(self).view is Measure.view

    @property
    def taken_off(self) -> str | None:
        """Name of the scan whose own image is taken off the fused one before it is measured; None for none."""
        return None

    def unit(self, image_unit: str) -> str:
        """Return the unit of the number, for an output image in the given unit; the image's own unless overridden."""
        return image_unit

    def view(self, forward: Forward) -> Forward:
        """Return the forward of the image that is measured; the output image's own unless overridden."""
        return forward

    def radius(self, radius: int | None) -> int | None:
        """Return how far that image looks into the inputs where the output image looks ``radius`` voxels far."""
        return radius


@dataclass(frozen=True)
class Mean(Measure):
    """The region's mean."""

    name: ClassVar[str] = "mean"
    linear: bool = field(default=True, init=False)

    def target(self, region: Region) -> RegionMean:
        """Return the mean of one region."""
        return RegionMean(_mask(region), region.name)


@dataclass(frozen=True)
class FusedMinusSingle(Mean):
    """The region's mean of the fused image minus that of one scan alone, fused with nothing: what the others add.

    Args:
        single: name of that scan.
    """

    single: str
    name: ClassVar[str] = "fused_minus_single"

    @property
    def taken_off(self) -> str:
        """Name of the scan whose own image is taken off."""
        return self.single


@dataclass(frozen=True)
class Contrast(Measure):
    """The region's mean minus that of the ring around it.

    Args:
        gap_mm: how far the ring stays from the region.
        width_mm: how wide it is.
    """

    gap_mm: float = 2.0
    width_mm: float = 5.0
    name: ClassVar[str] = "contrast"
    linear: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        _require_ring(self.name, self.gap_mm, self.width_mm)

    def target(self, region: Region) -> RegionContrast:
        """Return the contrast of one region."""
        around = ring(region, gap_mm=self.gap_mm, width_mm=self.width_mm)
        return RegionContrast(_mask(region), _mask(around), region.name)


@dataclass(frozen=True)
class Sharpness(Measure):
    """The slope across the region's border over the contrast there, in 1/mm; see ``edge_sharpness``.

    Args:
        gap_mm: how far the plateaus of the contrast stay from the border.
        width_mm: how wide they are.
    """

    gap_mm: float = 2.0
    width_mm: float = 5.0
    name: ClassVar[str] = "edge_sharpness"

    def __post_init__(self) -> None:
        _require_ring(self.name, self.gap_mm, self.width_mm)

    def unit(self, image_unit: str) -> str:
        """Return one over millimetres."""
        return "1/mm"

    def target(self, region: Region) -> Target:
        """Return the sharpness of one region's edge."""
        spacing = region.grid.spacing_mm
        return edge_sharpness(region.mask, spacing, region.name, gap_mm=self.gap_mm, width_mm=self.width_mm)


@dataclass(frozen=True)
class RemovedEnergy(Measure):
    """The mean square, over the region, of what the model removed from one input.

    Args:
        input_name: which input; may be left out where there is only one.
    """

    input_name: str | None = None
    name: ClassVar[str] = "removed_energy"

    def unit(self, image_unit: str) -> str:
        """Return the image's unit squared."""
        return squared_unit(image_unit)

    def target(self, region: Region) -> RegionEnergy:
        """Return the energy of one region."""
        return RegionEnergy(_mask(region), region.name)

    def view(self, forward: Forward) -> Forward:
        """Return the forward of what is removed."""
        return Removed(forward, self.input_name)


@dataclass(frozen=True)
class ReferenceDifference(Measure):
    """The region's mean minus what a reference denoiser makes of it.

    Args:
        reference: the other denoiser. Those of other libraries have no gradient: ask a perturbation method.
        input_name: which input it denoises; may be left out where there is only one.
    """

    reference: Denoiser = field(metadata={READ: "denoiser"})
    input_name: str | None = None
    name: ClassVar[str] = "reference_difference"

    def target(self, region: Region) -> RegionMean:
        """Return the mean difference over one region."""
        return RegionMean(_mask(region), region.name)

    def view(self, forward: Forward) -> Forward:
        """Return the forward of the difference."""
        label = f"reference denoiser {type(self.reference).__name__}"
        return Difference(forward, DenoiserForward(self.reference, self.input_name, label))

    def radius(self, radius: int | None) -> int | None:
        """Return the larger of the two radii; None (anywhere) where the reference does not say its own."""
        other = getattr(self.reference, "radius", None)
        return None if radius is None or other is None else max(radius, int(other))


@dataclass(frozen=True)
class PosteriorVariance(Measure):
    """The mean over the region of what the model leaves uncertain: its posterior variance; see ``views.Variance``.

    Args:
        input_name: which input; may be left out where there is only one.
        stride: distance of the probes in voxels: 2, 4 or 8.
    """

    input_name: str | None = None
    stride: int = 2
    name: ClassVar[str] = "posterior_variance"

    def unit(self, image_unit: str) -> str:
        """Return the image's unit squared."""
        return squared_unit(image_unit)

    def target(self, region: Region) -> RegionMean:
        """Return the mean variance over one region."""
        return RegionMean(_mask(region), region.name)

    def view(self, forward: Forward) -> Forward:
        """Return the forward of the variance map."""
        return Variance(forward, self.input_name, self.stride)


@dataclass(frozen=True)
class Custom(Measure):
    """Any scalar function of the region's voxels; see ``RegionFunction``.

    Args:
        function: from the voxels of the region's bounding box (C, i, j, k) and its mask (i, j, k) to one number.
        function_unit: unit of the number.
        linear: whether it is linear in the image.
    """

    function: Callable[[Tensor, Tensor], Tensor] = field(metadata={READ: "import"})
    function_unit: str = "1"
    linear: bool = False
    name: ClassVar[str] = "custom"

    def unit(self, image_unit: str) -> str:
        """Return the unit the function was said to have."""
        return self.function_unit

    def target(self, region: Region) -> RegionFunction:
        """Return the function of one region."""
        return RegionFunction(self.function, _mask(region), region.name, self.function_unit, self.linear)


@dataclass(frozen=True)
class ClassScore(Measure):
    """The score (logit) a downstream network gives one class when it sees the whole cleaned image.

    Args:
        network: from the image to scores, in ``eval()``: (B, classes) of a classifier, or (B, classes, I, J, K) of a
            segmentation network, which is averaged over the region.
        index: which class.
        of_region: whether the network segments; a classifier's score does not use the region.
        prepare: the intensity scaling the network was trained with.
    """

    network: Network = field(metadata={READ: "import"})
    index: int = 0
    of_region: bool = True
    prepare: Network | None = field(default=None, metadata={READ: "import"})
    name: ClassVar[str] = "class_score"

    def unit(self, image_unit: str) -> str:
        """Return that of a ratio."""
        return "1"

    def target(self, region: Region) -> Target:
        """Return the score of one region, or of the whole image on the region's grid."""
        if self.of_region:
            name = f"{region.name}, class {self.index}"
            return ClassRegionScore(self.network, self.index, _mask(region), name, self.prepare)
        return ClassLogit(self.network, self.index, region.grid.shape, f"class {self.index}", self.prepare)


def _mask(region: Region) -> Tensor:
    return torch.from_numpy(region.mask.copy())


def _require_ring(name: str, gap_mm: float, width_mm: float) -> None:
    if gap_mm < 0 or width_mm <= 0:
        raise ConfigError(
            f"the measure {name} with a gap of {gap_mm} mm and a width of {width_mm} mm: expected a gap of at least 0 "
            "and a positive width"
        )
