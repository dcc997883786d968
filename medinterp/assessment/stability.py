"""Whether a map comes back when the scan is measured again: repeats with new noise at the scan's own level."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.errors import ConfigError, InputError

TOP_SHARE = 0.05
"""Share of the voxels with the largest magnitude that repeats are compared on."""


@dataclass(frozen=True)
class Stability:
    """How alike the maps of repeated scans are; plain numbers, for the record.

    Args:
        draws: how many repeats.
        top_voxels: k, the number of voxels of largest magnitude that are compared.
        top_dice: mean Dice overlap of the top-k voxels of two repeats; 1 when always the same.
        top_dice_by_chance: what maps that have nothing to do with each other would show: k over the number of voxels.
        sign_agreement: probability that a voxel has the same sign in two repeats, averaged over the voxels with the
            magnitude of the certified map as weight; 0.5 for maps that have nothing to do with each other, 1 when
            always the same.
        relative_sd: ||voxel sd|| / ||voxel mean||; 0 when every repeat gives the same map, None where the mean is zero.
    """

    draws: int
    top_voxels: int
    top_dice: float
    top_dice_by_chance: float
    sign_agreement: float
    relative_sd: float | None


@dataclass(frozen=True, eq=False)
class Repeats:
    """The maps of repeated scans, voxel by voxel.

    Args:
        mean: over the repeats, in the map's unit.
        sd: standard deviation over the repeats, in the map's unit.
        stability: how alike they are.
    """

    mean: Float[Tensor, "M I J K"]
    sd: Float[Tensor, "M I J K"]
    stability: Stability


def noise_draws(
    clean: Float[Tensor, "B C I J K"],
    sigma: Float[Tensor, "#B #C #I #J #K"],
    *,
    draws: int,
    generator: torch.Generator,
) -> Iterator[Float[Tensor, "B C I J K"]]:
    """Yield what the scanner could as well have measured: the cleaned scan with fresh noise of the scan's own level.

    Noise added to the scan as it is would double its variance; put onto the cleaned scan it has the scan's own. Assumes
    Gaussian noise, independent from voxel to voxel, and that the cleaned scan stands for the truth.

    Args:
        clean: the cleaned scan.
        sigma: the scan's noise level, a scalar or a map.
        draws: how many.
        generator: of the noise; its state moves on.
    """
    for _ in range(draws):
        noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=generator.device)
        yield clean.detach() + sigma.detach() * noise.to(clean.device)


def compare_repeats(
    found: Float[Tensor, "M I J K"], repeats: Iterable[Float[Tensor, "M I J K"]], *, top_share: float = TOP_SHARE
) -> Repeats:
    """Return mean, spread and agreement of repeated maps; memory does not grow with their number.

    Overlap and agreement are means over all pairs of repeats, from how often each voxel was on top, above and below
    zero. They compare the repeats with each other: ``found``, the certified map, only gives the weights.

    Args:
        found: the certified map.
        repeats: maps of the same shape, one after another.
        top_share: share of the voxels that k stands for; at least one voxel.

    Raises:
        ConfigError: there are fewer than two repeats, or the share is not in (0, 1).
        InputError: a repeat has another shape.
    """
    if not 0 < top_share < 1:
        raise ConfigError(f"the top {top_share} of the voxels: expected a share between 0 and 1, such as 0.05")
    voxels = found.numel()
    k = max(1, round(top_share * voxels))
    mean, squares, top, above, below = (torch.zeros(voxels, dtype=torch.float64, device=found.device) for _ in range(5))
    draws = 0
    for repeat in repeats:
        if repeat.shape != found.shape:
            raise InputError(f"a repeat of shape {tuple(repeat.shape)} of a map of shape {tuple(found.shape)}")
        values = repeat.detach().flatten().to(torch.float64)
        draws += 1
        change = values - mean
        mean += change / draws  # Welford: sums of squares of nearly equal maps would cancel
        squares += change * (values - mean)
        top[values.abs().topk(k).indices] += 1
        above += values > 0
        below += values < 0
    if draws < 2:
        raise ConfigError(f"the stability over {draws} repeats: expected at least 2")
    sd, pairs = (squares / (draws - 1)).sqrt(), draws * (draws - 1)
    weight = found.detach().flatten().to(torch.float64).abs()
    neither = draws - above - below
    agreed = (above * (above - 1) + below * (below - 1) + neither * (neither - 1)) / pairs
    size, total = float(mean.norm()), float(weight.sum())
    stability = Stability(
        draws=draws,
        top_voxels=k,
        top_dice=float((top * (top - 1)).sum()) / (pairs * k),
        top_dice_by_chance=k / voxels,
        sign_agreement=float((weight * agreed).sum()) / total if total else float(agreed.mean()),
        relative_sd=float(sd.norm()) / size if size else None,
    )
    shape = found.shape
    return Repeats(mean.reshape(shape).to(found), sd.reshape(shape).to(found), stability)


def repeat_map(
    explain: Callable[[Tensor], Tensor],
    scans: Iterable[Float[Tensor, "B C I J K"]],
    on_draw: Callable[[int], None] = lambda done: None,
) -> Iterator[Float[Tensor, "M I J K"]]:
    """Yield the map of every repeated scan, telling after each how many are done."""
    for done, scan in enumerate(scans, start=1):
        yield explain(scan)
        on_draw(done)
