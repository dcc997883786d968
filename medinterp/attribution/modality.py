"""The modality ledger: what each input brought to every output voxel at once, by the exact Shapley value."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.errors import ConfigError, InputError, NonFinite

Subset: TypeAlias = frozenset[str]
Pair: TypeAlias = tuple[str, str]
SubsetGame: TypeAlias = Callable[[Subset, torch.Generator], Float[Tensor, "B C I J K"]]
"""What is reached with only these modalities present, as a volume; random numbers come from the generator alone.

"Present" is the game's own business: a fuser over the subset, a joint network with its availability mask, or a baseline
in the place of the absent. With a conditional prior (absent modalities integrated out given the present ones) the
shares are conditional Shapley values.
"""
Measured: TypeAlias = Callable[[Float[Tensor, "B C I J K"]], Float[Tensor, " B"]]
"""A measurement of a volume, such as a target; it may be nonlinear."""

MAX_MODALITIES = 6


@dataclass(frozen=True, eq=False)
class Ledger:
    """Who brought what.

    Args:
        total: what all modalities reach minus what none reaches, per voxel.
        credits: each modality's share of it; they sum to it.
        interactions: for each pair what the two reach together beyond what each adds on its own, averaged over the
            company of the others (Shapley interaction index), in the unit of the volume.
        target_credits: each modality's share of a measurement, when one was given; exact for any target.
        target_total: the measurement with all minus with none.
        gap: largest difference between the credits' sum and the total, over the largest magnitude of the total.
        evaluations: how often the game was played: 2 to the power of the modalities.
    """

    total: Tensor
    credits: Mapping[str, Tensor]
    interactions: Mapping[Pair, Tensor]
    target_credits: Mapping[str, float]
    target_total: float
    gap: float
    evaluations: int

    def redundancy(self, pair: Pair) -> Tensor:
        """Return where two modalities say the same: the part of the interaction that runs against the total."""
        return (-self.interactions[pair] * torch.sign(self.total)).clamp_min(0)

    def synergy(self, pair: Pair) -> Tensor:
        """Return where two modalities reach more together than apart, in the direction of the total."""
        return (self.interactions[pair] * torch.sign(self.total)).clamp_min(0)


def modality_ledger(
    game: SubsetGame, names: Sequence[str], *, generator: torch.Generator, target: Measured | None = None
) -> Ledger:
    """Play every subset of the modalities once and share the result, per voxel and for a measurement.

    All subsets draw the same random numbers (the generator's state is put back before each), so that differences are
    owed to the modalities. Volumes are summed in float64 and only sums are kept, not the 2^M volumes.

    Args:
        game: what a subset reaches.
        names: of the modalities.
        generator: where the game's random numbers come from; it is left as after one game.
        target: a measurement to share as well; it may be nonlinear.

    Raises:
        ConfigError: there are none, or more than 6.
        NonFinite: a subset's volume is not finite.

    Source:
        Shapley, "A value for n-person games", 1953; Grabisch & Roubens, "An axiomatic approach to the concept of
        interaction among players", Int J Game Theory 28 (1999), eq. 2 for pairs.
    """
    if not 1 <= len(names) <= MAX_MODALITIES or len(set(names)) < len(names):
        raise ConfigError(
            f"a ledger of {', '.join(names) or 'nothing'}: expected 1 to {MAX_MODALITIES} different names"
        )
    begin = generator.get_state()
    pairs = list(combinations(names, 2))
    credits: dict[str, Tensor] = {}
    interactions: dict[Pair, Tensor] = {}
    measured = dict.fromkeys(names, 0.0)
    ends: dict[Subset, Tensor] = {}
    values: dict[Subset, float] = {}
    for subset in subsets(names):
        generator.set_state(begin)
        reached = game(subset, generator).to(torch.float64)
        if not bool(torch.isfinite(reached).all()):
            raise NonFinite(f"with only {sorted(subset) or 'no modality'} present the result is NaN or infinite")
        values[subset] = 0.0 if target is None else float(target(reached)[0])
        for name in names:
            factor = _share_factor(name in subset, len(subset), len(names))
            credits[name] = credits.get(name, torch.zeros_like(reached)).add_(reached, alpha=factor)
            measured[name] += factor * values[subset]
        for pair in pairs:
            factor = _pair_factor(len(subset & set(pair)), len(subset), len(names))
            interactions[pair] = interactions.get(pair, torch.zeros_like(reached)).add_(reached, alpha=factor)
        if len(subset) in (0, len(names)):
            ends[subset] = reached
    total = ends[frozenset(names)] - ends[frozenset()]
    missing = torch.stack(list(credits.values())).sum(dim=0) - total
    gap = float(missing.abs().max() / total.abs().max().clamp_min(1e-300))
    change = values[frozenset(names)] - values[frozenset()]
    return Ledger(total, credits, interactions, measured, change, gap, len(values))


def information_ledger(variance: SubsetGame, names: Sequence[str], *, generator: torch.Generator) -> Ledger:
    """Share, in bits per voxel, what the modalities tell of the truth: half the log of how the variance shrinks.

    Defined where a posterior variance is known for every subset, the empty one (the prior's variance) included. Here
    the signs of interactions are redundancy (below zero: both tell the same) and synergy.

    Args:
        variance: the posterior variance given a subset of the modalities.
        names: of the modalities.
        generator: where its random numbers come from.

    Raises:
        InputError: a variance is not positive: information is not defined there.
    """

    def bits(subset: Subset, draw: torch.Generator) -> Tensor:
        spread = variance(subset, draw).to(torch.float64)
        if not bool((spread > 0).all()):
            raise InputError("a posterior variance of zero or less: the information share in bits is not defined")
        return -0.5 * torch.log2(spread)

    return modality_ledger(bits, names, generator=generator)


def subsets(names: Sequence[str]) -> Iterator[Subset]:
    """Yield every subset, the empty one first and the whole last."""
    for size in range(len(names) + 1):
        yield from (frozenset(chosen) for chosen in combinations(names, size))


def _share_factor(present: bool, size: int, players: int) -> float:  # noqa: FBT001 - a formula's case
    """Return the factor of one subset's value in a player's Shapley value."""
    without = size - 1 if present else size
    weight = factorial(without) * factorial(players - without - 1) / factorial(players)
    return weight if present else -weight


def _pair_factor(here: int, size: int, players: int) -> float:
    """Return the factor of one subset's value in a pair's interaction index; ``here`` of the two are in it."""
    others = size - here
    weight = factorial(others) * factorial(players - others - 2) / factorial(players - 1)
    return -weight if here == 1 else weight
