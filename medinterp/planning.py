"""What a run would do and cost, said before any of it is done: tiles, crops, memory, time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medinterp.assessment.full import CheckOptions
from medinterp.attribution import Box
from medinterp.attribution.capabilities import Cost, capabilities
from medinterp.attribution.crop import crop_method
from medinterp.certification import full_effort
from medinterp.denoisers.footprint import gradient_numbers
from medinterp.denoisers.network import BiasFreeUNet
from medinterp.denoisers.tiled import BYTES_PER_VOXEL, spans
from medinterp.explanation import PROOF_HALO, Case, Explanation
from medinterp.options import RunOptions
from medinterp.pipeline import Pipeline
from medinterp.preparation import (
    Inputs,
    build_explanations,
    build_pipeline,
    check_explanations,
    choose_bundle,
    name_inputs,
    read_inputs,
)
from medinterp.rates import Rates, seconds_per_voxel
from medinterp.resources import check_device, memory_budget, peak_memory_gb
from medinterp.sampling.trajectory import MOST_STATES
from medinterp.volume import Volume

_Shape = tuple[int, int, int]
CERTIFICATE = 1.0
"""Maps that a certificate makes again, on a crop close to the region: with random weights."""


@dataclass(frozen=True)
class PlannedWork:
    """What a computation on a crop would cost.

    Args:
        crop: voxels that it computes on.
        forward: evaluations of the model.
        backward: gradients through it.
        peak_gb: memory beyond the loaded scans and model; None where only a run can tell.
        seconds: None where only a run can tell.
    """

    crop: _Shape
    forward: int
    backward: int
    peak_gb: float | None
    seconds: float | None

    def describe(self) -> str:
        """Return it in words."""
        size = " x ".join(map(str, self.crop))
        work = f"{self.forward} evaluations" + (f" and {self.backward} gradients" if self.backward else "")
        cost = "" if self.seconds is None else f", about {self.seconds:.0f} s"
        cost += "" if self.peak_gb is None else f" and {self.peak_gb:.1f} GB"
        return f"{work} on {size} voxels{cost}"


@dataclass(frozen=True)
class PlannedExplanation:
    """What one explanation would do and cost.

    Args:
        what: measure, method and target.
        work: the map and its basic certificate.
        checks: what a full certificate adds; None for a basic one.
    """

    what: str
    work: PlannedWork
    checks: PlannedWork | None = None

    @property
    def parts(self) -> tuple[PlannedWork, ...]:
        """The map, and the checks if any."""
        return (self.work,) if self.checks is None else (self.work, self.checks)

    @property
    def peak_gb(self) -> float:
        """Memory at the peak, as far as it is known."""
        return max(part.peak_gb or 0.0 for part in self.parts)

    @property
    def seconds(self) -> float | None:
        """Seconds of all of it; None where only a run can tell."""
        known = [part.seconds for part in self.parts if part.seconds is not None]
        return math.fsum(known) if len(known) == len(self.parts) else None

    def describe(self) -> str:
        """Return the explanation's line of the plan, and that of its full certificate."""
        checks = "" if self.checks is None else f"\n  its full certificate: {self.checks.describe()}"
        return f"{self.what}: {self.work.describe()}{checks}"


@dataclass(frozen=True)
class Plan:
    """What a run would do: tiles, crops, memory and time, before any of it is done.

    Args:
        shapes: voxels of each scan.
        tiles: the tile in which each is denoised, None for all at once.
        peak_gb: resident memory at the peak of denoising and explaining.
        seconds: of the denoising, scaled from a small probe on this machine; 0 where only regions are explained.
        explanations: what each explanation would do; of a fused image, for its first input.
    """

    shapes: Mapping[str, _Shape]
    tiles: Mapping[str, _Shape | None]
    peak_gb: float
    seconds: float
    explanations: Sequence[PlannedExplanation] = ()

    @property
    def explaining_seconds(self) -> float | None:
        """Seconds of all explanations, None where those of one are not known."""
        known = [e.seconds for e in self.explanations if e.seconds is not None]
        return math.fsum(known) if len(known) == len(self.explanations) else None

    def describe(self) -> str:
        """Return the plan as text."""
        lines = []
        for name, shape in self.shapes.items():
            tile = self.tiles[name]
            how = "in one piece" if tile is None else f"in tiles of {' x '.join(map(str, tile))}"
            whole = f", {how}" if self.seconds else ", only what matters to the targets"
            lines.append(f"{name}: {' x '.join(map(str, shape))} voxels{whole}")
        lines += [explanation.describe() for explanation in self.explanations]
        denoising = f", denoising about {self.seconds:.0f} s" if self.seconds else ""
        explaining = "" if self.explaining_seconds is None else f", explaining about {self.explaining_seconds:.0f} s"
        explaining = explaining if self.explanations else ""
        return "\n".join([*lines, f"peak memory about {self.peak_gb:.1f} GB{denoising}{explaining}; files come on top"])


def plan(inputs: Inputs, options: RunOptions) -> Plan:
    """Say what a run would do and cost; scans, options, targets and methods are checked, the output place is not.

    Raises:
        MedinterpError: the run itself would be refused for the same reason.
    """
    device = check_device(options.device)
    scans = read_inputs(name_inputs(inputs), options)
    pipeline = build_pipeline(choose_bundle(options, scans), options, device)
    explanations = build_explanations(options)
    budget = memory_budget(options.max_memory_gb, device)
    shapes = {m: scan.grid.shape for m, scan in scans.items()}
    tiles = {m: pipeline.tile(shape, budget) for m, shape in shapes.items()}
    crops = {m: _crops(shape, tiles[m], pipeline) for m, shape in shapes.items()}
    work = sum(math.prod(sum(axis) for axis in axes) for axes in crops.values())
    at_once = max(math.prod(max(axis) for axis in axes) for axes in crops.values()) if options.whole else 0
    check_explanations(pipeline, scans, explanations, options, budget)
    planned = _explaining(pipeline, scans, explanations, options)
    extra = max([at_once * pipeline.bytes_per_voxel / 1e9, *(e.peak_gb for e in planned)])
    extra += _states_gb(shapes, pipeline)
    seconds = work * seconds_per_voxel(pipeline, str(device)) if options.whole else 0.0
    return Plan(shapes, tiles, peak_memory_gb() + extra, seconds, planned)


def _states_gb(shapes: Mapping[str, _Shape], pipeline: Pipeline) -> float:
    """Return what the states between scan and image take where they are kept."""
    states = min(pipeline.steps - 1, MOST_STATES) if pipeline.trajectory else 0
    return states * 4 * sum(map(math.prod, shapes.values())) / 1e9


def _explaining(
    pipeline: Pipeline,
    scans: Mapping[str, Volume],
    explanations: Sequence[Explanation],
    options: RunOptions,
) -> list[PlannedExplanation]:
    """Return what the explanations of the first scan would do; those of a fused image cost it once for each input."""
    if not explanations:
        return []
    name, scan = next(iter(scans.items()))
    rates, found = Rates.probe(pipeline), []
    shared: set[tuple[int, int, int | None]] = set()
    for explanation in explanations:
        case, halo = pipeline.case(name, scan, explanation, seed=options.seed, whole=options.whole)
        declared = capabilities(crop_method(case.attributor, case.crop(halo)))  # on a crop fewer regions count
        cost = Cost(1, 1) if declared is None else declared.cost
        if declared is not None and declared.may_stray:
            cost = replace(cost, forward=cost.forward + 1, backward=cost.backward + 1)
        measurement = (id(explanation.locate), id(explanation.measure), explanation.halo)
        reads = hasattr(case.attributor, "of_gradient")
        again = reads and measurement in shared
        shared |= {measurement} if reads else set()
        what = f"{explanation.measure.name} of {case.target.name} by {explanation.method.name}"
        checks = None if explanation.checks is None else _checking(case, explanation.checks, rates)
        found.append(PlannedExplanation(what, _mapping(case, halo, cost, rates, again=again), checks))
    return found


def _mapping(case: Case, halo: int | None, cost: Cost, rates: "Rates", *, again: bool) -> PlannedWork:
    """Return what a map and its basic certificate take; ``again``: all of it was found for another method."""
    needed, seconds = case.gradient_bytes(halo), None
    forward, backward = _usual(cost)
    if case.network is not None:
        numbers = float(_numbers(case.network, case, case.crop(halo)))
        numbers += CERTIFICATE * _numbers(case.network, case, case.crop(PROOF_HALO))
        if case.reference(halo) != case.crop(halo):  # the error of a smaller halo is measured by a second map
            numbers += _numbers(case.network, case, case.reference(halo))
        seconds = 0.0 if again else rates.seconds(*_times(case, forward, backward), numbers)
    return PlannedWork(case.crop(halo).shape, forward, backward, None if needed is None else needed / 1e9, seconds)


def _checking(case: Case, options: CheckOptions, rates: "Rates") -> PlannedWork:
    """Return what a full certificate takes: maps on the scan around the region, and evaluations in batches there."""
    box, near = case.around(PROOF_HALO)
    effort, declared = full_effort(near, options), capabilities(near.attributor)
    forward, backward = (effort.explanations * n for n in _usual(Cost(1, 1) if declared is None else declared.cost))
    evaluations = forward + effort.evaluations
    if case.network is None:
        return PlannedWork(box.shape, evaluations, backward, None, None)
    batch = options.curves.batch * math.prod(box.shape) * BYTES_PER_VOXEL
    kept = 8 * case.image.numel()  # mean and spread of the repeats, on the scan's own grid
    peak_gb = (max(near.gradient_bytes(None) or 0, batch) + kept) / 1e9
    numbers = float(_numbers(case.network, near, near.crop(None)))
    batched = effort.evaluations * case.evaluations.count
    seconds = rates.seconds(*_times(case, forward, backward), numbers, batched=batched)
    return PlannedWork(box.shape, evaluations, backward, peak_gb, seconds)


def _times(case: Case, forward: int, backward: int) -> tuple[int, int]:
    """Return how often the prior is evaluated and differentiated for so many images and gradients of them."""
    again = backward if case.plain and not case.evaluations.single else 0  # with a checkpoint a step
    return (forward + again) * case.evaluations.count, backward * case.evaluations.count


def _usual(cost: Cost) -> tuple[int, int]:
    """Return the evaluations and gradients that a map usually takes."""
    return (cost.forward, cost.backward) if cost.usual is None else (cost.usual, cost.usual)


def _numbers(network: BiasFreeUNet, case: Case, crop: Box) -> int:
    return gradient_numbers(network, crop.shape, case.looked_at(crop))


def _crops(shape: _Shape, tile: _Shape | None, pipeline: Pipeline) -> list[list[int]]:
    """Return the extents of the crops along each axis; halos are computed twice and count twice."""
    if tile is None:
        return [[length] for length in shape]
    halo = pipeline.halo or 0
    cuts = (spans(length, core, halo) for length, core in zip(shape, tile, strict=True))
    return [[cut.stop - cut.start for cut in axis] for axis in cuts]
