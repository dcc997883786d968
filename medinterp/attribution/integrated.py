"""Integrated gradients: the change from a baseline to the scan, divided over the voxels along a straight path."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
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
COARSE = 8
"""Intervals of the first division; half as many could miss what happens on a twelfth of the path."""
USUAL = 18
"""Points that the adaptive division usually takes: the mean of 40 cases (`python -m benchmarks.attribution`)."""


@dataclass(frozen=True)
class IntegratedGradients:
    """The gradient averaged along the path from a baseline to the scan, times their difference.

    The path is divided into 4, then 8 intervals. Where the map still changes by more than ``change``, or the parts
    leave over more than ``tolerance``, each interval is halved, and again those in which the gradient bends most: no
    gradient is evaluated twice. A network with ReLUs is linear between its kinks, so that the gradient of an interval
    with one kink is that of its left end before the kink and of its right end after it; the measurement at both ends
    says where the kink lies. Both ends weighted so, the parts of that interval sum to the measurement's change exactly;
    without a kink this is the trapezoidal rule. The ray from zero, on which our networks' gradient is constant, takes
    one evaluation, and is divided in thirds where that leaves something over. If the finest division does not reach the
    criteria, the map is returned with the residual and convergence it has, a warning is logged, and the certificate
    says so.

    Args:
        baseline: where the path starts.
        steps: this many Gauss-Legendre points, as Captum places them, in place of the adaptive division.
        tolerance: largest completeness residual.
        change: largest relative change of the map at the last division.
        most: finest division: intervals of one over this number.

    Source:
        Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017, eq. 1.
    """

    baseline: Baseline = Blurred()  # noqa: RUF009 - frozen, so one shared instance is safe
    steps: int | None = None
    tolerance: float = 0.01
    change: float = 0.05
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
        if self.steps is not None:
            cost = Cost(self.steps + 2, self.steps)
        else:
            cost = Cost(self.most + 3, self.most + 1, usual=1 if isinstance(self.baseline, Ray) else USUAL)
        return Capabilities("gradient", complete=True, random=False, cost=cost)

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
        if isinstance(self.baseline, Ray):
            return self._along_ray(measurement, start)
        path = _Path(measurement, start)
        points = [path.at(n / COARSE) for n in range(COARSE + 1)]
        ends = {0.0: points[0].value, 1.0: points[-1].value}
        pieces = list(pairwise(points))
        before, now = _total(pairwise(points[::2])), _total(pieces)
        change = relative_change(now, before)
        if self._left_over(now, ends) > self.tolerance or change > self.change:
            allowed = _Allowed(self.change * _norm(now), self.tolerance * abs(ends[1.0] - ends[0.0]), 1 / self.most)
            now, error = path.refined(pieces, allowed)
            change = error / max(_norm(now), torch.finfo(torch.float64).tiny)
        self._warn(measurement.target.name, self._left_over(now, ends), change)
        return self._found(measurement, now, ends, change)

    def _along_ray(self, measurement: Measurement, start: Tensors) -> Attribution:
        """Take the gradient in the middle of the ray; divide it in thirds, whose middles avoid its end at zero."""
        ends = _ends(measurement, start)
        path, intervals, change = _Path(measurement, start), 1, None
        total = now = path.at(0.5).parts
        while self._left_over(now, ends) > self.tolerance or (change is not None and change > self.change):
            if 3 * intervals > self.most:
                break
            for n in range(intervals):
                for third in (1 / 6, 5 / 6):
                    total = _sum(total, path.at((n + third) / intervals).parts)
            intervals *= 3
            before, now = now, tuple(part / intervals for part in total)
            change = relative_change(now, before)
        self._warn(measurement.target.name, self._left_over(now, ends), change or 0.0)
        return self._found(measurement, now, ends, change)

    def _left_over(self, parts: Tensors, ends: Mapping[float, float]) -> float:
        return completeness_residual(ends[1.0], ends[0.0], sum(sum_of(part) for part in parts), parts[0].dtype)

    def _warn(self, name: str, residual: float, change: float) -> None:
        if residual > self.tolerance or change > self.change:
            logger.warning(
                "integrated gradients of '%s' did not converge in intervals of 1/%d: residual %.2g (at most %.2g), "
                "change %.2g (at most %.2g)",
                *(name, self.most, residual, self.tolerance, change, self.change),
            )


@dataclass(frozen=True, eq=False)
class _Point:
    """A point of the path: its place, the measurement there, the parts (gradient x difference), and their sum."""

    place: float
    value: float
    parts: Tensors
    slope: float


Piece: TypeAlias = tuple[_Point, _Point]


@dataclass(frozen=True)
class _Allowed:
    """What may be left uncertain over the whole path, and the shortest interval."""

    change: float
    residual: float
    shortest: float


@dataclass(frozen=True, eq=False)
class _Path:
    """The straight path from a baseline to the scan."""

    measurement: Measurement
    start: Tensors

    def at(self, place: float) -> _Point:
        """Evaluate one point."""
        ends = list(zip(self.start, self.measurement.tensors, strict=True))
        gradients = self.measurement.gradients_at(tuple(torch.lerp(b, x, place) for b, x in ends))
        parts = tuple((x - b) * gradient for (b, x), gradient in zip(ends, gradients, strict=True))
        return _Point(place, self.measurement.last_value, parts, sum(sum_of(part) for part in parts))

    def refined(self, pieces: Sequence[Piece], allowed: _Allowed) -> tuple[Tensors, float]:
        """Halve intervals, those that are still uncertain again and again; return the map and its last change.

        What is allowed is shared out by length as errors of independent intervals add up, in the square.
        """
        total, square = tuple(torch.zeros_like(part) for part in pieces[0][0].parts), 0.0
        waiting = list(reversed(pieces))
        while waiting:
            left, right = waiting.pop()
            length = right.place - left.place
            middle = self.at((left.place + right.place) / 2)
            halves = (left, middle), (middle, right)
            made = _sum(_whole(*halves[0]), _whole(*halves[1]))
            error = _norm(_sum(made, _whole(left, right), -1.0))
            rest = abs(right.value - left.value - sum(sum_of(part) for part in made))
            if (
                error > allowed.change * length**0.5 or rest > allowed.residual * length
            ) and length > 2 * allowed.shortest:
                waiting += reversed(halves)
                continue
            total, square = _sum(total, made), square + error**2
        return total, square**0.5


def _whole(left: _Point, right: _Point) -> Tensors:
    """Return the parts of an interval: both ends weighted so that they sum to the measurement's change, if they can."""
    length = right.place - left.place
    wanted, bend = (right.value - left.value) / length, left.slope - right.slope
    share = 0.5 if bend == 0 else min(max((wanted - right.slope) / bend, 0.0), 1.0)
    pairs = zip(left.parts, right.parts, strict=True)
    return tuple(length * (share * one + (1 - share) * other) for one, other in pairs)


def _total(pieces: Iterable[Piece]) -> Tensors:
    return reduce(_sum, (_whole(*piece) for piece in pieces))


def _sum(one: Tensors, other: Tensors, factor: float = 1.0) -> Tensors:
    return tuple(torch.add(a, b, alpha=factor) for a, b in zip(one, other, strict=True))


def _norm(tensors: Tensors) -> float:
    return sum(sum_of(tensor**2) for tensor in tensors) ** 0.5


def _ends(measurement: Measurement, start: Tensors) -> dict[float, float]:
    """Return the measurement on the baseline and on the scan, by their place on the path."""
    return {1.0: measurement.value_at(measurement.tensors), 0.0: measurement.value_at(start)}


def relative_change(now: Tensors, before: Tensors) -> float:
    """Return ||now - before|| / ||now|| over all tensors together; 0 where both are zero."""
    difference = sum(sum_of((a - b) ** 2) for a, b in zip(now, before, strict=True))
    size = sum(sum_of(a**2) for a in now)
    return float((difference / max(size, torch.finfo(torch.float64).tiny)) ** 0.5)
