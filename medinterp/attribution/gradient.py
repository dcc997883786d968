"""Saliency, gradient x input and integrated gradients, computed by Captum."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from captum import attr
from torch import Tensor

from medinterp.attribution.baselines import Baseline, Blurred
from medinterp.attribution.measurement import Measurement, seen_by
from medinterp.attribution.result import Attribution, Forward, completeness_residual, sum_of
from medinterp.attribution.targets import Target
from medinterp.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saliency:
    """The signed gradient: how much the measurement moves when one voxel of the scan rises by one unit."""

    name: str = "saliency"

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Explain the measurement by its gradient.

        Raises:
            MethodNotValid: there is no gradient, or it is zero everywhere.

        Source:
            Simonyan et al., "Deep inside convolutional networks", ICLR workshop 2014.
        """
        measurement = Measurement(seen_by(target, forward), target, inputs, sigmas)
        gradients = attr.Saliency(measurement).attribute(measurement.leaves(), abs=False)
        return measurement.attribution(gradients, "gradient", self.name, value=measurement.last_value)


@dataclass(frozen=True)
class InputXGradient:
    """The gradient times the scan: how much of the measurement each voxel carries.

    Complete (nothing left over) on a network that is piecewise linear through the origin in scan and noise level
    together; elsewhere the residual says how much is missing.
    """

    name: str = "input_x_gradient"

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Explain the measurement by gradient x input.

        Raises:
            MethodNotValid: there is no gradient, or every product is zero.

        Source:
            Shrikumar et al., "Not just a black box", 2016, section 3.
        """
        measurement = Measurement(seen_by(target, forward), target, inputs, sigmas)
        products = attr.InputXGradient(measurement).attribute(measurement.leaves())
        return measurement.attribution(products, "contribution", self.name, value=measurement.last_value)


@dataclass(frozen=True)
class IntegratedGradients:
    """The gradient averaged along the path from a baseline to the scan, times their difference.

    Gauss-Legendre points, doubled until completeness and the change of the map are both within ``tolerance``, since
    completeness alone can be met by accident. If the last doubling does not reach it, the map is returned with the
    residual and convergence it has, a warning is logged, and the certificate says so.

    Args:
        baseline: where the path starts.
        steps: numbers of path points to try, rising; the baseline's own when None. A single number switches the
            adaptation off.
        tolerance: for the completeness residual and for the relative change of the map.
        batch: path points evaluated at once; one at a time needs the least memory.

    Source:
        Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017, eq. 1.
    """

    baseline: Baseline = Blurred()  # noqa: RUF009 - frozen, so one shared instance is safe
    steps: tuple[int, ...] | None = None
    tolerance: float = 0.01
    batch: int = 1
    name: str = "integrated_gradients"

    def __post_init__(self) -> None:
        steps = self._steps
        if not steps or min(steps) < 1 or list(steps) != sorted(set(steps)) or self.batch < 1:
            raise ConfigError(
                f"integrated gradients with steps {steps} and batch {self.batch}: expected rising positive numbers of "
                "path points, such as (8, 16, 32, 64), and a positive batch"
            )

    @property
    def reach(self) -> int | None:
        """Voxels around a voxel that its baseline depends on."""
        return self.baseline.reach

    @property
    def _steps(self) -> tuple[int, ...]:
        return self.baseline.steps if self.steps is None else self.steps

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Explain the measurement's change from the baseline to the scan.

        Raises:
            MethodNotValid: there is no gradient, or every contribution is zero.
        """
        measurement = Measurement(seen_by(target, forward), target, inputs, sigmas)
        value = measurement.value_at(measurement.tensors)
        start_images, start_sigmas = self.baseline(forward, inputs, sigmas)
        start = tuple(start_images[name].detach() for name in measurement.names)
        start += tuple(start_sigmas[name].detach() for name in measurement.names)
        baseline_value = measurement.value_at(start)
        contributions, change = self._refine(measurement, start, value - baseline_value)
        return measurement.attribution(
            contributions, "contribution", self.name, value=value, baseline_value=baseline_value, convergence=change
        )

    def _refine(
        self, measurement: Measurement, start: tuple[Tensor, ...], expected: float
    ) -> tuple[tuple[Tensor, ...], float | None]:
        """Double the path points until both criteria hold; return the contributions and the last relative change."""
        before: tuple[Tensor, ...] | None = None
        change: float | None = None
        for steps in self._steps:
            now = self._integrate(measurement, start, steps)
            residual = completeness_residual(expected, 0.0, sum(sum_of(part) for part in now), now[0].dtype)
            change = None if before is None else relative_change(now, before)
            if change is not None and max(change, residual) <= self.tolerance:
                return now, change
            before = now
        if change is not None:
            logger.warning(
                "integrated gradients of '%s' did not converge at %d path points: residual %.2g, change %.2g, "
                "tolerance %.2g",
                *(measurement.target.name, self._steps[-1], residual, change, self.tolerance),
            )
        return now, change

    def _integrate(self, measurement: Measurement, start: tuple[Tensor, ...], steps: int) -> tuple[Tensor, ...]:
        method = attr.IntegratedGradients(measurement)
        contributions: tuple[Tensor, ...] = method.attribute(
            measurement.tensors, start, n_steps=steps, method="gausslegendre", internal_batch_size=self.batch
        )
        return tuple(part.detach() for part in contributions)


def relative_change(now: tuple[Tensor, ...], before: tuple[Tensor, ...]) -> float:
    """Return ||now - before|| / ||now|| over all tensors together; 0 where both are zero."""
    difference = sum(sum_of((a - b) ** 2) for a, b in zip(now, before, strict=True))
    size = sum(sum_of(a**2) for a in now)
    return float((difference / max(size, torch.finfo(torch.float64).tiny)) ** 0.5)
