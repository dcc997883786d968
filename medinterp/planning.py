"""What a run would do and cost, said before any of it is done: tiles, memory, time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medinterp.denoisers.tiled import BYTES_PER_VOXEL, spans
from medinterp.options import RunOptions
from medinterp.pipeline import Pipeline
from medinterp.preparation import Inputs, build_explanations, build_pipeline, choose_bundle, name_inputs, read_inputs
from medinterp.resources import check_device, peak_memory_gb, voxel_budget
from medinterp.volume import Grid, Provenance, Source, Volume

_Shape = tuple[int, int, int]
PROBE_VOXELS = 64


@dataclass(frozen=True)
class Plan:
    """What a run would do: tiles, memory and time of the denoising, before any of it is done.

    Args:
        shapes: voxels of each scan.
        tiles: the tile in which each is denoised, None for all at once.
        peak_gb: resident memory at the peak of the denoising.
        seconds: of the denoising, scaled from a small probe on this machine; 0 where only regions are explained.
    """

    shapes: Mapping[str, _Shape]
    tiles: Mapping[str, _Shape | None]
    peak_gb: float
    seconds: float

    def describe(self) -> str:
        """Return the plan as text."""
        lines = []
        for name, shape in self.shapes.items():
            tile = self.tiles[name]
            how = "in one piece" if tile is None else f"in tiles of {' x '.join(map(str, tile))}"
            lines.append(f"{name}: {' x '.join(map(str, shape))} voxels, {how}")
        if not self.seconds:
            return "\n".join([*lines, "only the targets are explained; the whole volume is not denoised"])
        return "\n".join([*lines, f"peak memory about {self.peak_gb:.1f} GB, denoising about {self.seconds:.0f} s"])


def plan(inputs: Inputs, options: RunOptions) -> Plan:
    """Say what a run would do and cost; scans, options, targets and methods are checked, the output place is not.

    Raises:
        MedinterpError: the run itself would be refused for the same reason.
    """
    device = check_device(options.device)
    scans = read_inputs(name_inputs(inputs), options)
    pipeline = build_pipeline(choose_bundle(options, scans), options, device)
    build_explanations(options)
    budget = voxel_budget(options.max_memory_gb, device)
    shapes = {m: scan.grid.shape for m, scan in scans.items()}
    tiles = {m: pipeline.tile(shape, budget) for m, shape in shapes.items()}
    crops = {m: _crops(shape, tiles[m], pipeline) for m, shape in shapes.items()}
    work = sum(math.prod(sum(axis) for axis in axes) for axes in crops.values())
    at_once = max(math.prod(max(axis) for axis in axes) for axes in crops.values())
    peak_gb = peak_memory_gb() + at_once * BYTES_PER_VOXEL / 1e9
    return Plan(shapes, tiles, peak_gb, work * _seconds_per_voxel(pipeline, str(device)) if options.whole else 0.0)


def _crops(shape: _Shape, tile: _Shape | None, pipeline: Pipeline) -> list[list[int]]:
    """Return the extents of the crops along each axis; halos are computed twice and count twice."""
    if tile is None:
        return [[length] for length in shape]
    halo = pipeline.halo or 0
    cuts = (spans(length, core, halo) for length, core in zip(shape, tile, strict=True))
    return [[cut.stop - cut.start for cut in axis] for axis in cuts]


def _seconds_per_voxel(pipeline: Pipeline, device: str) -> float:
    """Time the denoising of a small noisy block, by the path that a scan takes."""
    shape = (PROBE_VOXELS,) * 3
    noise = np.random.default_rng(0).normal(size=(2, *shape))
    magnitude = np.hypot(10 + noise[0], noise[1]).astype(np.float32)
    block = Volume(magnitude[None], Grid(shape, np.eye(4)), "a.u.", "MR", Provenance(Source("memory")))
    return pipeline.run({"probe": block}, device=device).seconds["denoise"] / magnitude.size
