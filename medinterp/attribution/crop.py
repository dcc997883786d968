"""Explaining a region on the part of the volume it depends on, with the same answer as on the whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from medinterp.attribution.gradient import Saliency
from medinterp.attribution.result import Attribution, Attributor, Forward, sum_of
from medinterp.attribution.targets import Box, Target
from medinterp.errors import ConfigError, GridMismatch

Gradients = dict[Box, Attribution]
"""The gradients of one measurement of one model on one scan, by the crop they were found on."""


_LITTLE_MORE = 1.5
"""An exact crop that is larger by no more than this is not avoided."""


@dataclass(frozen=True)
class CropOptions:
    """Details of explaining on a crop that rarely need changing.

    Args:
        stride: crops start on a multiple of it (the voxels between two positions of the network's coarsest level).
        measure_halo: measure the error of a smaller halo by explaining once more on a larger crop (``reference_box``).
        affordable_voxels: largest volume to spend on that measurement where all of it matters.
        gradients: kept between calls that differ in the method alone, so that those that read a gradient share one.
    """

    stride: int = 8
    measure_halo: bool = True
    affordable_voxels: int = 128**3
    gradients: Gradients | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.stride < 1 or self.affordable_voxels < 0:
            raise ConfigError(
                f"a crop with stride {self.stride} and at most {self.affordable_voxels} affordable voxels: expected a "
                "stride of at least 1 and a number of voxels of at least 0"
            )


def crop_box(support: Box, halo: int, stride: int, shape: tuple[int, int, int]) -> Box:
    """Return the box around ``support`` grown by ``halo``, starting and ending on multiples of ``stride``.

    It ends at the volume's own border where it would pass it, since the network pads there as on the whole volume.

    Raises:
        ConfigError: the halo is negative.
    """
    if halo < 0:
        raise ConfigError(f"a crop with a margin of {halo} voxels: expected at least 0")
    start = [max(low - halo, 0) // stride * stride for low in support.start]
    stop = [min(-(-(high + halo) // stride) * stride, size) for high, size in zip(support.stop, shape, strict=True)]
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def exact_box(
    attributor: Attributor, target: Target, shape: tuple[int, int, int], radius: int | None, stride: int
) -> Box:
    """Return the crop that holds everything an explanation depends on.

    Args:
        attributor: the method; its ``reach``, if it has one, is how far its baseline looks.
        target: what is measured.
        shape: voxels of the whole scan.
        radius: voxels around an output voxel that can influence it; None when all of them can.
        stride: crops start on a multiple of it.
    """
    reach = getattr(attributor, "reach", 0)
    if radius is None or reach is None:
        return Box((0, 0, 0), shape)
    return crop_box(target.support(), radius + reach, stride, shape)


def reference_box(
    target: Target, halo: int, exact: Box, shape: tuple[int, int, int], radius: int | None, options: CropOptions
) -> Box:
    """Return the crop on which the error of a smaller halo is measured: a stride's voxels more, or the exact one.

    For the shipped network a stride more tells the true error within a tenth of it: from 12 voxels on it falls tenfold
    with every 8 more. Where there is no radius, something looks at all of the volume at once, and what lies near says
    little of what lies far: there the exact crop is taken as long as it can be afforded.

    Args:
        target: what is measured.
        halo: the smaller one.
        exact: the crop that holds everything.
        shape: voxels of the whole scan.
        radius: voxels around an output voxel that can influence it; None when all of them can.
        options: alignment, and what can be afforded.
    """
    more = crop_box(target.support(), halo + options.stride, options.stride, shape).clipped(exact)
    affordable = options.affordable_voxels if radius is None else _LITTLE_MORE * more.voxels
    return exact if exact.voxels <= affordable else more


def explain_region(
    attributor: Attributor,
    forward: Forward,
    inputs: Mapping[str, Tensor],
    sigmas: Mapping[str, Tensor],
    target: Target,
    *,
    radius: int | None,
    halo: int | None = None,
    options: CropOptions = CropOptions(),
) -> Attribution:
    """Explain a target on a crop around it; the maps come back on the full grid, zero outside the crop.

    Without a halo the answer is that of the whole volume (1e-5 relative in float32), provided that the forward does not
    depend on where it runs and that ``radius`` is true of it. Statistics added: ``crop_voxels``, ``halo_error``
    (relative change of the maps against the larger crop, 0 when exact), ``halo_value_error`` (of the measurement) and
    ``halo_reference_voxels`` (size of the larger crop); the last three are absent when a smaller halo was not measured,
    the first of them also for methods over regions, whose map is not made a second time.

    Args:
        attributor: the method.
        forward: the function that made the image; called on cropped inputs.
        inputs: whole scans by name.
        sigmas: their noise levels; a scalar, or a map on the same grid.
        target: what is measured, on the whole grid.
        radius: voxels around an output voxel that can influence it: the network's receptive radius times the number of
            denoiser evaluations one after another. None when all of them can: the exact crop is the whole volume.
        halo: voxels kept around the region, an approximation when fewer than the radius; None for the exact answer.
        options: alignment, and how a smaller halo's error is measured.

    Raises:
        ConfigError: radius or halo is negative.
        GridMismatch: the inputs have different shapes, or not the target's.
    """
    run = _CroppedRun(attributor, forward, inputs, sigmas, target, options)
    exact = run.exact_box(radius)
    box = exact if halo is None else run.box(halo, within=exact)
    found = run.explain(box)
    statistics = {"crop_voxels": float(box.voxels)}
    if box == exact:
        statistics |= {"halo_error": 0.0, "halo_value_error": 0.0, "halo_reference_voxels": float(exact.voxels)}
    elif halo is not None and options.measure_halo:
        larger = reference_box(target, halo, exact, run.whole.shape, radius, options)
        statistics["halo_reference_voxels"] = float(larger.voxels)
        if run.by_regions:  # to make the map again would take hundreds of evaluations: the number alone must do
            statistics["halo_value_error"] = _relative_error(found.value, run.value(larger))
            found = replace(found, evaluations=found.evaluations + 1)
        else:
            reference = run.explain(larger)
            statistics["halo_error"] = _map_error(found, box, reference, larger)
            statistics["halo_value_error"] = _relative_error(found.value, reference.value)
            found = replace(found, evaluations=found.evaluations + reference.evaluations)
    maps = {name: _embed(image, box, run.whole) for name, image in found.maps.items()}
    return replace(found, maps=maps, statistics={**found.statistics, **statistics})


@dataclass(frozen=True)
class _CroppedRun:
    """Everything that stays the same between two crops of one explanation."""

    attributor: Attributor
    forward: Forward
    inputs: Mapping[str, Tensor]
    sigmas: Mapping[str, Tensor]
    target: Target
    options: CropOptions

    def __post_init__(self) -> None:
        shapes = {name: tuple(image.shape[2:]) for name, image in self.inputs.items()}
        if len(set(shapes.values())) != 1:
            raise GridMismatch(f"inputs of shapes {shapes}: expected one grid; resample them onto one first")
        if not self.whole.contains(self.target.support()):
            raise GridMismatch(
                f"the target '{self.target.name}' spans {self.target.support()}, outside the inputs' {self.whole}"
            )

    @property
    def whole(self) -> Box:
        i, j, k = next(iter(self.inputs.values())).shape[2:]
        return Box((0, 0, 0), (i, j, k))

    def exact_box(self, radius: int | None) -> Box:
        return exact_box(self.attributor, self.target, self.whole.shape, radius, self.options.stride)

    def box(self, halo: int, *, within: Box) -> Box:
        return crop_box(self.target.support(), halo, self.options.stride, self.whole.shape).clipped(within)

    @property
    def by_regions(self) -> bool:
        return hasattr(self.attributor, "crop")

    def explain(self, box: Box) -> Attribution:
        method, target, (inputs, sigmas) = crop_method(self.attributor, box), self.target.crop(box), self._cut_to(box)
        read: Callable[..., Attribution] | None = getattr(method, "of_gradient", None)
        gradients = self.options.gradients
        if gradients is None or read is None:
            return method(self.forward, inputs, sigmas, target)
        if box not in gradients:
            gradients[box] = Saliency()(self.forward, inputs, sigmas, target)
        return read(gradients[box], inputs, target, self.forward)

    def value(self, box: Box) -> float:
        return float(self.target.crop(box)(self.forward(*self._cut_to(box)))[0].detach())

    def _cut_to(self, box: Box) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        inputs = {name: _cut(image, box, self.whole) for name, image in self.inputs.items()}
        return inputs, {name: _cut(sigma, box, self.whole) for name, sigma in self.sigmas.items()}


def crop_method(attributor: Attributor, box: Box) -> Attributor:
    """Return a method for the part of the scan inside a box: itself unless its regions have a place on the grid."""
    crop: Callable[[Box], Attributor] | None = getattr(attributor, "crop", None)
    return attributor if crop is None else crop(box)


def _cut(tensor: Tensor, box: Box, whole: Box) -> Tensor:
    """Return the box of a tensor; axes of length one that broadcast over the volume stay as they are."""
    for axis, (part, size) in enumerate(zip(box.slices, whole.shape, strict=True), start=2):
        if tensor.shape[axis] not in (1, size):
            raise GridMismatch(f"a noise level of shape {tuple(tensor.shape)} on a scan of {whole.shape} voxels")
        if tensor.shape[axis] == size:
            tensor = tensor.narrow(axis, part.start, part.stop - part.start)
    return tensor


def _embed(image: Tensor, box: Box, whole: Box) -> Tensor:
    """Return the box's image in a larger box of zeros."""
    larger = image.new_zeros(*image.shape[:2], *whole.shape)
    larger[(slice(None), slice(None), *box.relative_to(whole).slices)] = image
    return larger


def _map_error(found: Attribution, box: Box, reference: Attribution, larger: Box) -> float:
    """Return the relative difference of the maps against the run on a larger crop."""
    difference, total = 0.0, 0.0
    for name, image in reference.maps.items():
        difference += sum_of((image - _embed(found.maps[name], box, larger)) ** 2)
        total += sum_of(image**2)
    return (difference / max(total, torch.finfo(torch.float64).tiny)) ** 0.5


def _relative_error(value: float, reference: float) -> float:
    return abs(value - reference) / max(abs(reference), torch.finfo(torch.float64).tiny)
