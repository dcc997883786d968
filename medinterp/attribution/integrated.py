"""Integrated gradients: the change from a baseline to the scan, divided over the voxels along a straight path."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from captum import attr
from torch import Tensor

from medinterp.attribution.baselines import Baseline, Blurred, Ray
from medinterp.attribution.capabilities import Capabilities, Cost
from medinterp.attribution.measurement import Measurement, seen_by
from medinterp.attribution.result import Attribution, Forward, completeness_residual, sum_of
from medinterp.attribution.targets import Target
from medinterp.errors import ConfigError

logger = logging.getLogger(__name__)
Tensors: TypeAlias = tuple[Tensor, ...]
LEAST = 8
"""Intervals before the division may stop: two coarse ones can agree because both miss the same bend."""


@dataclass(frozen=True)
class IntegratedGradients:
    """The gradient averaged along the path from a baseline to the scan, times their difference.

    The path is divided into 1, 2, 4, ... intervals until what the parts leave over is within ``tolerance`` and the map
    changed by no more than ``change`` at the last doubling, since completeness alone can be met by accident. The
    trapezoidal rule keeps every gradient it has paid for when it doubles, and a sum of them is all that it holds in
    memory; the gradient of a network with ReLUs jumps along the path, so that rules of higher order gain nothing. The
    ray from zero, on which our networks' gradient is constant, takes one evaluation, and is divided in thirds where
    that leaves something over. If the last division does not reach it, the map is returned with the residual and
    convergence it has, a warning is logged, and the certificate says so.

    Args:
        baseline: where the path starts.
        steps: this many Gauss-Legendre points, as Captum places them, in place of the adaptive division.
        tolerance: largest completeness residual.
        change: largest relative change of the map at the last division.
        most: intervals after which it gives up.

    Source:
        Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017, eq. 1.
    """

    baseline: Baseline = Blurred()  # noqa: RUF009 - frozen, so one shared instance is safe
    steps: int | None = None
    tolerance: float = 0.01
    change: float = 0.1
    most: int = 64
    name: str = "integrated_gradients"

    def __post_init__(self) -> None:
        steps = 1 if self.steps is None else self.steps
        if not all(number > 0 for number in (steps, self.most, self.tolerance, self.change)):
            raise ConfigError(
                f"integrated gradients with {self.steps} steps, at most {self.most} intervals, tolerance "
                f"{self.tolerance} and change {self.change}: expected positive numbers"
            )

    @property
    def reach(self) -> int | None:
        """Voxels around a voxel that its baseline depends on."""
        return self.baseline.reach

    @property
    def capabilities(self) -> Capabilities:
        """What it costs at most: the last division, and both ends where they are no points of it."""
        points = self.most + 1 if self.steps is None else self.steps
        return Capabilities("gradient", complete=True, random=False, cost=Cost(points + 2, points))

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Explain the measurement's change from the baseline to the scan.

        Raises:
            MethodNotValid: there is no gradient, or every contribution is zero.
        """
        measurement = Measurement(seen_by(target, forward), target, inputs, sigmas)
        start_images, start_sigmas = self.baseline(forward, inputs, sigmas)
        start = tuple(start_images[name].detach() for name in measurement.names)
        start += tuple(start_sigmas[name].detach() for name in measurement.names)
        if self.steps is None:
            return self._divide(measurement, start)
        method = attr.IntegratedGradients(measurement)
        contributions: Tensors = method.attribute(
            measurement.tensors, start, n_steps=self.steps, method="gausslegendre", internal_batch_size=1
        )
        return self._found(measurement, contributions, _ends(measurement, start), None)

    def _found(
        self, measurement: Measurement, contributions: Tensors, ends: Mapping[float, float], change: float | None
    ) -> Attribution:
        return measurement.attribution(
            contributions, "contribution", self.name, value=ends[1.0], baseline_value=ends[0.0],
            baseline=self.baseline.name, convergence=change,
        )  # fmt: skip

    def _divide(self, measurement: Measurement, start: Tensors) -> Attribution:
        """Divide the path until both criteria hold, or as often as is allowed."""
        ray = isinstance(self.baseline, Ray)
        ends = _ends(measurement, start) if ray else {}
        total = tuple(torch.zeros_like(tensor) for tensor in measurement.tensors)
        now: Tensors = total
        change: float | None = None
        for points, intervals in _thirds() if ray else _halves():
            for place, weight in points:
                at = tuple(torch.lerp(b, x, place) for b, x in zip(start, measurement.tensors, strict=True))
                slopes = measurement.gradients_at(at)
                ends.setdefault(place, measurement.last_value)
                total = tuple(kept + weight * slope for kept, slope in zip(total, slopes, strict=True))
            before, now = (
                now,
                tuple(
                    (x - b) * slope / intervals for x, b, slope in zip(measurement.tensors, start, total, strict=True)
                ),
            )
            residual = completeness_residual(ends[1.0], ends[0.0], sum(sum_of(part) for part in now), now[0].dtype)
            if intervals > 1:
                change = relative_change(now, before)
            settled = ray if change is None else change <= self.change and (ray or intervals >= LEAST)
            if residual <= self.tolerance and settled:
                return self._found(measurement, now, ends, change)
            if intervals * (3 if ray else 2) > self.most:
                break
        logger.warning(
            "integrated gradients of '%s' did not converge in %d intervals: residual %.2g (tolerance %.2g), change "
            "%.2g (at most %.2g)",
            *(measurement.target.name, intervals, residual, self.tolerance, change or 0.0, self.change),
        )
        return self._found(measurement, now, ends, change)


def _ends(measurement: Measurement, start: Tensors) -> dict[float, float]:
    """Return the measurement on the baseline and on the scan, by their place on the path."""
    return {1.0: measurement.value_at(measurement.tensors), 0.0: measurement.value_at(start)}


def _halves() -> Iterator[tuple[list[tuple[float, float]], int]]:
    """Yield new points of the trapezoidal rule, each with its weight, and the number of intervals, which doubles."""
    yield [(0.0, 0.5), (1.0, 0.5)], 1
    intervals = 1
    while True:
        yield [((n + 0.5) / intervals, 1.0) for n in range(intervals)], 2 * intervals
        intervals *= 2


def _thirds() -> Iterator[tuple[list[tuple[float, float]], int]]:
    """Yield new points of the midpoint rule, and the number of intervals, which triples: no point lies at an end."""
    yield [(0.5, 1.0)], 1
    intervals = 1
    while True:
        yield [((n + third) / intervals, 1.0) for n in range(intervals) for third in (1 / 6, 5 / 6)], 3 * intervals
        intervals *= 3


def relative_change(now: Tensors, before: Tensors) -> float:
    """Return ||now - before|| / ||now|| over all tensors together; 0 where both are zero."""
    difference = sum(sum_of((a - b) ** 2) for a, b in zip(now, before, strict=True))
    size = sum(sum_of(a**2) for a in now)
    return float((difference / max(size, torch.finfo(torch.float64).tiny)) ** 0.5)
