"""Noise schedules: which noise levels a sampler visits on its way from the scan's own noise to none."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

from medinterp.errors import ConfigError


@runtime_checkable
class Schedule(Protocol):
    """Choose the noise levels of a sampler."""

    def __call__(self, steps: int, *, start: float) -> Float64[Tensor, "{steps}+1"]:  # noqa: F821 - a shape, not a name
        """Return ``steps`` + 1 levels, strictly decreasing, from ``start`` to exactly 0."""
        ...


@dataclass(frozen=True)
class PowerSchedule:
    """Levels start (1 - i/steps)^power: the smallest level shrinks as steps are added, so samplers converge fully.

    On the linear Gaussian oracle (noise 0.7) Heun's relative error with power 2 is 5 % at 5 steps, 2 % at 10,
    0.6 % at 20, 0.14 % at 40; with power 1 it is 30, 15, 5, 1.4 %.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        if not self.power >= 1:
            raise ConfigError(f"schedule power {self.power}: expected 1 (even steps) or more; 2 is a good choice")

    def __call__(self, steps: int, *, start: float) -> Float64[Tensor, "{steps}+1"]:  # noqa: F821 - a shape, not a name
        """Return ``steps`` + 1 levels, strictly decreasing, from ``start`` to exactly 0."""
        return _finish(start * torch.linspace(1, 0, _count(steps) + 1, dtype=torch.float64) ** self.power, start)


@dataclass(frozen=True)
class LinearSchedule:
    """Levels evenly spaced from ``start`` to 0: simple, but few of them are small, where the detail is decided."""

    def __call__(self, steps: int, *, start: float) -> Float64[Tensor, "{steps}+1"]:  # noqa: F821 - a shape, not a name
        """Return ``steps`` + 1 levels, strictly decreasing, from ``start`` to exactly 0."""
        return PowerSchedule(1.0)(steps, start=start)


@dataclass(frozen=True)
class KarrasSchedule:
    """Levels evenly spaced in sigma^(1/rho), down to a smallest level, then 0.

    The smallest level is fixed, so the error of the last step (one evaluation at that level) does not vanish with
    more steps: on the linear Gaussian oracle 0.3 % for ``end`` 0.01, 2.5 % for 0.03.

    Args:
        rho: how strongly the levels crowd towards the small end.
        end: smallest non-zero level as a share of ``start``.

    Source:
        Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, eq. 5.
    """

    rho: float = 7.0
    end: float = 0.01

    def __post_init__(self) -> None:
        if not self.rho >= 1:
            raise ConfigError(f"schedule rho {self.rho}: expected 1 or more; 7 is the published choice")
        if not 0 < self.end < 1:
            raise ConfigError(f"schedule end {self.end}: expected a share of the start, between 0 and 1")

    def __call__(self, steps: int, *, start: float) -> Float64[Tensor, "{steps}+1"]:  # noqa: F821 - a shape, not a name
        """Return ``steps`` + 1 levels, strictly decreasing, from ``start`` to exactly 0."""
        way = torch.linspace(0, 1, _count(steps), dtype=torch.float64)
        levels = start * (1 + way * (self.end ** (1 / self.rho) - 1)) ** self.rho
        return _finish(torch.cat([levels, torch.zeros(1, dtype=torch.float64)]), start)


def _count(steps: int) -> int:
    if steps < 1:
        raise ConfigError(f"{steps} steps: a schedule needs at least one")
    return steps


def _finish(levels: Tensor, start: float) -> Tensor:
    """Pin the first level to ``start`` (rounding aside) and refuse a start that leaves no room to fall."""
    if not 0 < start < float("inf"):
        raise ConfigError(f"schedule start {start}: expected a positive, finite noise level")
    levels[0] = start
    if not bool((levels.diff() < 0).all()):
        raise ConfigError(f"{len(levels) - 1} steps from {start} cannot be told apart in float64; use fewer steps")
    return levels
