"""Occlusion: a window slides over the scan, what it covers is replaced, and the measurement's fall is noted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from medinterp.attribution.baselines import Baseline
from medinterp.attribution.capabilities import Capabilities, Cost
from medinterp.attribution.game import RegionAttribution, RegionShare, WatchedForward, by_regions
from medinterp.attribution.measurement import Measurement
from medinterp.attribution.perturbation import MEMORY, cropped, reach_of
from medinterp.attribution.result import Forward
from medinterp.attribution.supervoxels import windows
from medinterp.attribution.targets import Box, Target
from medinterp.errors import ConfigError, GridMismatch
from medinterp.volume import Grid


@dataclass(frozen=True, eq=False)
class Occlusion:
    """How much the measurement falls when a window is replaced, averaged over the windows that cover a voxel.

    The fall is divided by the voxels of the window, so that without overlap the map adds up to the sum of all falls;
    the region table holds each window's whole fall. One evaluation a window, one at a time. Where windows are whole it
    is Captum's occlusion over the window's voxels; Captum cannot be told where a crop lies, and would slide over other
    positions there. On a crop only windows that touch it are in the table: the others cannot matter.

    Args:
        grid: of the whole scan.
        baseline: what is put into the window.
        window_mm: edge of the window, rounded to whole voxels.
        step_mm: how far it moves each time; its own edge where None, so that windows do not overlap.
        part: the box of the grid that the inputs are a crop of; all of it where None.

    Source:
        Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, section 2.
    """

    grid: Grid
    baseline: Baseline
    window_mm: float = 10.0
    step_mm: float | None = None
    part: Box | None = None
    name: ClassVar[str] = "occlusion"

    def __post_init__(self) -> None:
        step = self.window_mm if self.step_mm is None else self.step_mm
        if not 0 < step <= self.window_mm:
            raise ConfigError(
                f"a window of {self.window_mm} mm that moves {step} mm each time: expected positive numbers, and a "
                "step of at most the window, or voxels would be left out"
            )

    @property
    def reach(self) -> int | None:
        """Voxels around a voxel that what replaces it depends on."""
        return reach_of(self.baseline)

    def crop(self, box: Box) -> "Occlusion":
        """Return the same windows for the part of the scan inside a box, in voxels of what it is now a crop of."""
        i, j, k = self.box.start
        start = (box.start[0] + i, box.start[1] + j, box.start[2] + k)
        stop = (box.stop[0] + i, box.stop[1] + j, box.stop[2] + k)
        return replace(self, part=Box(start, stop), baseline=cropped(self.baseline, box))

    @property
    def capabilities(self) -> Capabilities:
        """What it costs: an evaluation a window of every input, the two ends and the baseline."""
        return Capabilities("perturbation", complete=False, random=False, cost=Cost(len(self.stops()) + 3, 0, MEMORY))

    def stops(self) -> dict[int, Box]:
        """Return where the window stops, by number, in voxels of the whole grid; only stops that touch the crop."""
        step_mm = self.window_mm if self.step_mm is None else self.step_mm
        return windows(self.grid.shape, self._voxels(self.window_mm), self._voxels(step_mm), self.box)

    @property
    def box(self) -> Box:
        """The box of the grid that the inputs fill."""
        return Box((0, 0, 0), self.grid.shape) if self.part is None else self.part

    def _voxels(self, length_mm: float) -> tuple[int, int, int]:
        i, j, k = (max(1, round(length_mm / spacing)) for spacing in self.grid.spacing_mm)
        return i, j, k

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> RegionAttribution:
        """Explain the measurement by what it loses with each window.

        Raises:
            GridMismatch: an input is not on the grid (or its crop).
            MethodNotValid: no window changes the measurement.
        """
        shapes = {name: tuple(image.shape[2:]) for name, image in inputs.items()}
        if set(shapes.values()) != {self.box.shape}:
            raise GridMismatch(f"windows over {self.box.shape} voxels, inputs of {shapes}: expected the same")
        run = _Run(self, forward, inputs, sigmas, target)
        slid = [run.slide(name) for name in run.measurement.names]
        silent = [torch.zeros_like(level) for level in run.measurement.tensors[len(slid) :]]
        run.measurement.evaluations = run.watched.evaluations
        found = run.measurement.attribution(
            (*(image for image, _ in slid), *silent),
            "contribution",
            self.name,
            value=run.value,
            baseline_value=run.baseline_value,
        )
        rows = tuple(row for _, table in slid for row in table)
        divided_by = f"windows of {self.window_mm:g} mm"
        return by_regions(found, rows, self.baseline.name, divided_by, {"windows": float(len(run.stops))})


class _Run:
    """One explanation: the scan, what replaces it, and the measurement of both."""

    def __init__(
        self,
        method: Occlusion,
        forward: Forward,
        inputs: Mapping[str, Tensor],
        sigmas: Mapping[str, Tensor],
        target: Target,
    ) -> None:
        self.grid, self.box, self.stops = method.grid, method.box, method.stops()
        self.watched = WatchedForward(forward)
        self.measurement = Measurement(self.watched, target, inputs, sigmas)
        names = self.measurement.names
        with torch.no_grad():  # the filling is a fixed point of comparison
            images, levels = method.baseline(self.watched, inputs, sigmas)
        self.fill = tuple(images[name] for name in names) + tuple(levels[name] for name in names)
        self.watched.seen.clear()
        self.value = self.measurement.value_at(self.measurement.tensors)
        self.baseline_value = self.measurement.value_at(self.fill)
        self.seen = frozenset(self.watched.seen)

    def slide(self, name: str) -> tuple[Tensor, list[RegionShare]]:
        """Return the map and the table of one input; zeros for one that the model never looked at."""
        image = self.measurement.tensors[self.measurement.names.index(name)]
        spread, covered = torch.zeros_like(image[0, 0]), torch.zeros_like(image[0, 0])
        table = []
        for number, stop in self.stops.items():
            inside = stop.clipped(self.box).relative_to(self.box)
            fall = self._fall(name, inside) if name in self.seen else 0.0
            spread[inside.slices] += fall / (inside.voxels * image.shape[1])
            covered[inside.slices] += 1
            table.append(self._row(name, number, stop, fall))
        return (spread / covered).expand(image.shape).clone(), table

    def _fall(self, name: str, inside: Box) -> float:
        """Return what the measurement loses when one window of one input is replaced."""
        names, mixed = self.measurement.names, list(self.measurement.tensors)
        for position in (names.index(name), names.index(name) + len(names)):
            scan, fill = mixed[position], self.fill[position]
            if not torch.equal(fill, scan):
                whole = (*scan.shape[:2], *self.box.shape)
                mixed[position] = scan.expand(whole).clone()
                mixed[position][(..., *inside.slices)] = fill.expand(whole)[(..., *inside.slices)]
        return self.value - self.measurement.value_at(tuple(mixed))

    def _row(self, name: str, number: int, stop: Box, fall: float) -> RegionShare:
        x, y, z = self.grid.to_world((np.array(stop.start) + np.array(stop.stop) - 1) / 2)
        volume_mm3 = stop.voxels * self.grid.voxel_volume_mm3
        return RegionShare(name, number, f"window {number}", (float(x), float(y), float(z)), volume_mm3, fall)
