"""The answer of an attribution method, and the roles it needs: a forward and an attributor."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.attribution.targets import Target
from medinterp.errors import NonFinite

Image: TypeAlias = Float[Tensor, "B C I J K"]
Sigma: TypeAlias = Float[Tensor, "#B #C #I #J #K"]
Forward: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
"""(inputs, sigmas) -> image: the very function that made the image; pure and differentiable.

It may carry a string attribute ``explained`` that says what its image is ("posterior mean at the scan's own noise,
1 step"); attributors copy it into their result. A whole number ``degree`` says by which power of a the image grows when
scan and noise level are scaled by a, 1 where it is missing.
"""

Kind: TypeAlias = Literal["contribution", "gradient"]


@dataclass(frozen=True, eq=False)
class Attribution:
    """Which voxels of which input made one measurement what it is.

    Args:
        maps: one (1, C, I, J, K) map per input. A contribution is in the measurement's unit per voxel, a gradient in
            the measurement's unit per unit of the input.
        kind: "contribution" (the maps and the noise shares sum to the measurement) or "gradient" (weights).
        noise_share: part of the measurement owed to the assumed noise level of each input.
        value: the measurement.
        baseline_value: the measurement at the baseline, 0 where that is the origin.
        residual: completeness: ``|value - baseline_value - sum of contributions - sum of noise shares|`` relative to
            ``|value - baseline_value|``; for gradients, computed from gradient x input.
        convergence: relative change of the maps at the last doubling of path points, None without a path.
        evaluations: how often the forward was evaluated (a batch of n counts n).
        method: name of the attributor.
        target: name of the target.
        explained: what the explained image is.
        statistics: further numbers of the method, by name.
        baseline: name of what the scan was compared with; empty where the method compares with nothing.

    Raises:
        NonFinite: a map or a number holds NaN or infinity.
    """

    maps: Mapping[str, Tensor]
    kind: Kind
    noise_share: Mapping[str, float]
    value: float
    baseline_value: float
    residual: float
    convergence: float | None
    evaluations: int
    method: str
    target: str
    explained: str
    statistics: Mapping[str, float] = field(default_factory=dict)
    baseline: str = ""

    def __post_init__(self) -> None:
        for name in ("maps", "noise_share", "statistics"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        numbers = {"value": self.value, "baseline value": self.baseline_value, "residual": self.residual}
        numbers |= {f"noise share of {name}": share for name, share in self.noise_share.items()} | dict(self.statistics)
        bad = [name for name, number in numbers.items() if not math.isfinite(number)]
        bad += [f"map of {name}" for name, image in self.maps.items() if not bool(torch.isfinite(image).all())]
        if bad:
            raise NonFinite(
                f"the {self.method} of '{self.target}' is NaN or infinite in: {', '.join(bad)}; check that the model "
                "and its input are finite around the region, and that sigma is positive there"
            )

    def total(self) -> float:
        """Return the sum of all maps, in float64: for a contribution, the part owed to the voxels."""
        return sum(sum_of(image) for image in self.maps.values())


@runtime_checkable
class Attributor(Protocol):
    """A method that explains one measurement on one scan (a batch of one).

    An attributor that looks at input voxels beyond the network's own reach says so in an attribute ``reach``: how many
    voxels, or None when it needs the whole volume. Without it, 0 is assumed.
    """

    @property
    def name(self) -> str:
        """What the method is called in tables and on the command line."""

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Explain the target's measurement on ``forward(inputs, sigmas)``."""


def image_forward(forward: Forward) -> Forward:
    """Return the forward of the output image: what a view of that image (what was removed, its variance) looks at.

    A view says so in an attribute ``image_forward``; any other forward is its own.
    """
    behind: Forward = getattr(forward, "image_forward", forward)
    return behind


def degree_of(target: Target, forward: Forward) -> int | None:
    """Return by which power of a the measurement grows when scan and noise level are scaled by a; None if by none.

    Of a homogeneous denoiser; by Euler's theorem gradient x input, summed over scan and noise level, is the degree
    times the measurement.
    """
    return None if target.degree is None else target.degree * int(getattr(forward, "degree", 1))


def sum_of(tensor: Tensor) -> float:
    """Return a sum accumulated in float64, so that adding up millions of voxels loses nothing."""
    return float(tensor.sum(dtype=torch.float64))


def completeness_residual(value: float, baseline_value: float, accounted: float, dtype: torch.dtype) -> float:
    """Return the relative part of ``value - baseline_value`` that ``accounted`` leaves unexplained.

    The denominator has a floor at the rounding error of the two values, so that it is finite where they agree.
    """
    change = value - baseline_value
    rounding = torch.finfo(dtype).eps * max(abs(value), abs(baseline_value))
    return abs(change - accounted) / max(abs(change), rounding, torch.finfo(torch.float32).tiny)
