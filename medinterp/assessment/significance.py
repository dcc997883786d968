"""Which voxels of a map are different from zero over repeats or subjects, with errors counted over the whole map."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medinterp.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Significance:
    """A map's tests against zero, voxel by voxel.

    Args:
        t: one-sample t statistic, with the sign of the mean; 0 where all repeats are 0.
        effect: mean over standard deviation, which does not grow with the number of repeats.
        familywise: voxels found at a level at which a map without any effect shows a single one in ``alpha`` of cases.
        false_discovery: voxels found such that at most ``alpha`` of them, on average, have no effect.
        threshold: |t| above which a voxel is in ``familywise``.
        alpha: the level of both.
        repeats: how many maps.
        flips: how many sign patterns the threshold came from.
    """

    t: Float[Tensor, "*shape"]
    effect: Float[Tensor, "*shape"]
    familywise: Bool[Tensor, "*shape"]
    false_discovery: Bool[Tensor, "*shape"]
    threshold: float
    alpha: float
    repeats: int
    flips: int

    def numbers(self) -> "SignificanceNumbers":
        """Return the numbers without the volumes, for the record."""
        at = self.effect[self.familywise].abs()
        return SignificanceNumbers(
            alpha=self.alpha,
            repeats=self.repeats,
            flips=self.flips,
            threshold_t=self.threshold,
            voxels=self.t.numel(),
            familywise_voxels=int(self.familywise.sum()),
            false_discovery_voxels=int(self.false_discovery.sum()),
            median_effect=float(at.median()) if at.numel() else None,
        )


@dataclass(frozen=True)
class SignificanceNumbers:
    """How many voxels of a map differ from zero over the repeats; "non-zero for this scan", never "important".

    Args:
        alpha: level.
        repeats: how many maps.
        flips: sign patterns of the permutation test.
        threshold_t: |t| a voxel needs when errors are counted over the whole map.
        voxels: of the map that were tested.
        familywise_voxels: found with errors counted over the whole map.
        false_discovery_voxels: found at that false discovery rate.
        median_effect: mean over standard deviation, median of the former voxels; None where there are none.
    """

    alpha: float
    repeats: int
    flips: int
    threshold_t: float
    voxels: int
    familywise_voxels: int
    false_discovery_voxels: int
    median_effect: float | None


def sign_flip_test(
    maps: Float[Tensor, "N ..."], *, generator: torch.Generator, alpha: float = 0.05, flips: int = 500
) -> Significance:
    """Test every voxel of repeated maps against zero by flipping the signs of whole maps.

    Assumes that the repeats are independent, and distributed symmetrically about zero where there is no effect. Over
    repeated noise on one scan it says "non-zero for this scan": t grows with the number of repeats, so that with enough
    of them every voxel that the network looks at is found. Read the effect sizes. Over subjects it says what holds for
    their population.

    The largest |t| of the map under each of ``flips`` random sign patterns, the one seen included, gives the familywise
    threshold. The false discovery rate is controlled by Benjamini & Hochberg's rule on Student's t.

    Args:
        maps: the repeats.
        generator: of the sign patterns.
        alpha: level.
        flips: how many sign patterns; below 1 / alpha nothing can be found.

    Raises:
        ConfigError: there are fewer than 6 maps (2^5 sign patterns up to a common sign, too few for 5 %), the level is
            not in (0, 1), or there are too few flips for it.

    Source:
        Nichols & Holmes, Human Brain Mapping 15 (2002) (max-T); Benjamini & Hochberg, JRSS B 57 (1995) (FDR).
    """
    repeats = len(maps)
    if repeats < 6 or not 0 < alpha < 1 or flips * alpha < 1:
        raise ConfigError(
            f"a sign-flip test of {repeats} maps at level {alpha} with {flips} flips: expected at least 6 maps, a "
            "level such as 0.05, and at least one flip over the level"
        )
    flat = maps.detach().flatten(1).to(torch.float64)
    squares = flat.square().sum(dim=0)
    t = _t_statistic(flat.sum(dim=0), squares, repeats)
    largest = [t.abs().max()]
    for _ in range(flips - 1):
        signs = 2.0 * torch.randint(2, (repeats,), generator=generator, device=generator.device) - 1
        flipped = signs.to(flat) @ flat
        largest.append(_t_statistic(flipped, squares, repeats).abs().max())
    ranked = torch.stack(largest).sort(descending=True).values
    threshold = float(ranked[math.floor(alpha * flips)])  # t above it is among the alpha largest of all patterns
    shape = maps.shape[1:]
    return Significance(
        t=t.reshape(shape).to(maps),
        effect=(t / math.sqrt(repeats)).reshape(shape).to(maps),
        familywise=(t.abs() > threshold).reshape(shape),
        false_discovery=_benjamini_hochberg(_two_sided(t, repeats - 1), alpha).reshape(shape),
        threshold=threshold,
        alpha=alpha,
        repeats=repeats,
        flips=flips,
    )


def _t_statistic(total: Tensor, squares: Tensor, repeats: int) -> Tensor:
    """Return t from sums; flipping signs leaves the sum of squares as it is."""
    mean = total / repeats
    variance = (squares - repeats * mean.square()).clamp_min(1e-12 * squares) / (repeats - 1)
    return torch.where(squares > 0, mean / (variance / repeats).clamp_min(1e-300).sqrt(), 0.0)


def _two_sided(t: Tensor, freedom: int) -> Tensor:
    """Return the two-sided p value of Student's t."""
    from scipy import special  # slow to import, and only needed here

    p = special.betainc(freedom / 2, 0.5, (freedom / (freedom + t.square())).cpu().numpy())
    return torch.as_tensor(p, device=t.device)


def _benjamini_hochberg(p: Float[Tensor, " N"], alpha: float) -> Bool[Tensor, " N"]:
    """Return which hypotheses are rejected such that the expected share of false ones is at most alpha."""
    ordered, order = p.sort()
    line = alpha * torch.arange(1, len(p) + 1, dtype=p.dtype, device=p.device) / len(p)
    below = (ordered <= line).nonzero()
    rejected = torch.zeros(len(p), dtype=torch.bool, device=p.device)
    if len(below):
        rejected[order[: int(below[-1]) + 1]] = True
    return rejected
