"""SmoothGrad and GradientSHAP: gradients averaged over noisy copies of the scan, every draw from a given generator."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from medinterp.attribution.baselines import Baseline, Blurred
from medinterp.attribution.capabilities import Capabilities, Cost
from medinterp.attribution.integrated import relative_change
from medinterp.attribution.measurement import Measurement, seen_by
from medinterp.attribution.result import Attribution, Forward, sum_of
from medinterp.attribution.targets import Target
from medinterp.errors import ConfigError


@dataclass(frozen=True, eq=False)
class SmoothGrad:
    """The gradient averaged over copies of the scan with more noise: what stays when the scan is measured again.

    By default the added noise is the scan's own (its level, per voxel where it is a map), so that the copies are scans
    that could have been measured, at twice the variance; the level that the forward is told stays as it is.

    Args:
        draws: noisy copies, one at a time in memory.
        scale: standard deviation of the added noise, in the scan's own.
        generator: source of the noise; its state is copied at each call, so that a call repeats. None: seeded with 0.

    Source:
        Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017.
    """

    draws: int = 16
    scale: float = 1.0
    generator: torch.Generator | None = None
    name: str = "smoothgrad"

    def __post_init__(self) -> None:
        _require_draws(self.draws, self.scale)

    @property
    def capabilities(self) -> Capabilities:
        """What it needs and costs: one gradient a draw."""
        return Capabilities("gradient", complete=False, random=True, cost=Cost(self.draws + 1, self.draws))

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Return the mean gradient; its relative standard error is in the statistics.

        Raises:
            MethodNotValid: there is no gradient, or it is zero everywhere.
        """
        measurement = Measurement(seen_by(target, forward), target, inputs, sigmas)
        value = measurement.value_at(measurement.tensors)
        generator, mean = repeated(self.generator, measurement.tensors[0].device), RunningMean(self.draws)
        for _ in range(self.draws):
            mean.add(measurement.gradients_at(with_noise(measurement, measurement.tensors, generator, self.scale)))
        found = measurement.attribution(
            mean.value(), "gradient", self.name, value=value, convergence=mean.change_since_half()
        )
        return replace(found, statistics={"standard_error": mean.standard_error()})


@dataclass(frozen=True, eq=False)
class GradientShap:
    """Expected gradients: integrated gradients over many baselines, one random point of each path.

    The baselines are noisy copies of one: at the scan's own level, they differ as repeated scans do. Points are spread
    evenly over the path (one in each of ``draws`` equal parts), which costs nothing and lowers the variance. Complete
    on average: the residual falls with the number of draws.

    Args:
        baseline: what the scan is compared with.
        draws: paths.
        scale: standard deviation of the noise added to the baseline, in the scan's own.
        generator: as of SmoothGrad.

    Source:
        Lundberg & Lee, "A unified approach to interpreting model predictions", NeurIPS 2017; Erion et al., "Improving
        performance of deep learning models with axiomatic attribution priors", Nature Machine Intelligence 2021, eq. 3.
    """

    baseline: Baseline = field(default_factory=Blurred)
    draws: int = 16
    scale: float = 1.0
    generator: torch.Generator | None = None
    name: str = "gradient_shap"

    def __post_init__(self) -> None:
        _require_draws(self.draws, self.scale)

    @property
    def reach(self) -> int | None:
        """Voxels around a voxel that its baseline depends on."""
        return self.baseline.reach

    @property
    def capabilities(self) -> Capabilities:
        """What it needs and costs: one gradient and one baseline a draw."""
        return Capabilities("gradient", complete=True, random=True, cost=Cost(2 * self.draws + 2, self.draws))

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Explain the measurement's change from the mean over the baselines to the scan.

        Raises:
            MethodNotValid: there is no gradient, or every contribution is zero.
        """
        measurement = Measurement(seen_by(target, forward), target, inputs, sigmas)
        value = measurement.value_at(measurement.tensors)
        images, levels = self.baseline(forward, inputs, sigmas)
        start = tuple(images[name].detach() for name in measurement.names)
        start += tuple(levels[name].detach() for name in measurement.names)
        generator, mean, total = repeated(self.generator, start[0].device), RunningMean(self.draws), 0.0
        for place in spread_points(self.draws, generator):
            other = with_noise(measurement, start, generator, self.scale)
            total += measurement.value_at(other)
            point = tuple(torch.lerp(b, x, place) for x, b in zip(measurement.tensors, other, strict=True))
            slopes = measurement.gradients_at(point)
            mean.add(tuple((x - b) * g for x, b, g in zip(measurement.tensors, other, slopes, strict=True)))
        found = measurement.attribution(
            mean.value(),
            "contribution",
            self.name,
            value=value,
            baseline_value=total / self.draws,
            baseline=self.baseline.name,
            convergence=mean.change_since_half(),
        )
        return replace(found, statistics={"standard_error": mean.standard_error()})


def repeated(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    """Return a copy of a generator, so that drawing from it leaves the original as it is; None: one seeded with 0."""
    if generator is None:
        return torch.Generator(device).manual_seed(0)
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    return copy


def spread_points(count: int, generator: torch.Generator) -> list[float]:
    """Return points between 0 and 1 in random order, one drawn evenly from each of ``count`` equal parts."""
    order = torch.randperm(count, generator=generator, device=generator.device)
    inside = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)
    points: list[float] = ((order + inside) / count).tolist()
    return points


def with_noise(
    measurement: Measurement, tensors: tuple[Tensor, ...], generator: torch.Generator, scale: float
) -> tuple[Tensor, ...]:
    """Return images with noise of ``scale`` times the scan's own level added; the noise levels are as they were."""
    count = len(measurement.names)
    noisy = []
    for image, sigma in zip(tensors[:count], measurement.tensors[count:], strict=True):
        draw = torch.randn(image.shape, generator=generator, dtype=image.dtype, device=generator.device)
        noisy.append(image + scale * sigma * draw.to(image.device))
    return (*noisy, *tensors[count:])


class RunningMean:
    """The mean of maps as they come, and how far it can be trusted, without keeping them.

    Args:
        expected: how many maps will come; the mean of the first half is remembered.
    """

    def __init__(self, expected: int) -> None:
        self._half, self._count = expected // 2, 0
        self._mean: tuple[Tensor, ...] = ()
        self._spread: tuple[Tensor, ...] = ()
        self._first: tuple[Tensor, ...] = ()

    def add(self, maps: tuple[Tensor, ...]) -> None:
        """Take in one more map of each tensor (Welford's update)."""
        self._count += 1
        if self._count == 1:
            self._mean = tuple(torch.zeros_like(image) for image in maps)
            self._spread = tuple(torch.zeros_like(image) for image in maps)
        steps = tuple(image - mean for image, mean in zip(maps, self._mean, strict=True))
        self._mean = tuple(mean + step / self._count for mean, step in zip(self._mean, steps, strict=True))
        self._spread = tuple(
            spread + step * (image - mean)
            for spread, step, image, mean in zip(self._spread, steps, maps, self._mean, strict=True)
        )
        if self._count == self._half:
            self._first = self._mean

    def value(self) -> tuple[Tensor, ...]:
        """Return the mean."""
        return self._mean

    def change_since_half(self) -> float | None:
        """Return the relative change of the mean since half of the maps; None with a single map."""
        return relative_change(self._mean, self._first) if self._first else None

    def standard_error(self) -> float:
        """Return the norm of the mean's standard error over the norm of the mean; 0 with a single map."""
        if self._count < 2:
            return 0.0
        variance = sum(sum_of(spread) for spread in self._spread) / (self._count - 1) / self._count
        size = sum(sum_of(mean**2) for mean in self._mean)
        return float((variance / max(size, torch.finfo(torch.float64).tiny)) ** 0.5)


def _require_draws(draws: int, scale: float) -> None:
    if draws < 1 or not scale >= 0:
        raise ConfigError(f"{draws} draws with noise of {scale} times the scan's own: expected at least one, and >= 0")
