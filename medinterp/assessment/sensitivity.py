"""Infidelity and max-sensitivity: does a map predict what changes do, and does it stay when the scan hardly changes?"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.assessment.faithfulness import Measure
from medinterp.assessment.intervals import Interval, mean_interval
from medinterp.errors import ConfigError


@dataclass(frozen=True)
class Infidelity:
    """How far the map's prediction of a change is from the change that happens.

    Args:
        value: mean squared difference, in the measurement's unit squared, with its 95 % interval over the changes.
        rms: its root, in the measurement's unit.
        relative: over the mean squared change itself: 0 where the map predicts everything, 1 where it is as good as
            predicting nothing, more where it is worse; None where nothing changed.
        best_scale: the factor on the map that would predict best; 1 for a map in the right unit, None where the map
            predicts no change.
        relative_at_best: ``relative`` with that factor, for maps whose size is arbitrary.
        changes: how many were tried.
    """

    value: Interval
    rms: float
    relative: float | None
    best_scale: float | None
    relative_at_best: float | None
    changes: int


@dataclass(frozen=True)
class MaxSensitivity:
    """How far the map moves, at most, when the scan moves a little.

    Args:
        value: largest ||map(y') - map(y)|| found, in the unit of the map.
        relative: over ||map(y)||; no unit. A lower bound of the supremum, since only ``changes`` places were tried.
        radius: half edge of the cube around the scan in which y' was drawn, in the unit of the scan.
        radius_sigmas: the same in noise levels of the scan, None when not known.
        changes: how many places were tried.
    """

    value: float
    relative: float | None
    radius: float
    radius_sigmas: float | None
    changes: int


def multiplier(
    found: Float[Tensor, "1 C I J K"],
    scan: Float[Tensor, "1 C I J K"],
    baseline: Float[Tensor, "1 C I J K"] | None,
) -> Float[Tensor, "1 C I J K"]:
    """Return the map as effect per unit of the scan, as infidelity needs it.

    A gradient is that already. A contribution is divided by the scan's distance from the baseline it was counted from;
    where the scan is the baseline, no effect can be told from it, and 0 is returned.

    Args:
        found: the map.
        scan: where it was made.
        baseline: what contributions were counted from, zeros for gradient x input; None for a gradient.
    """
    if baseline is None:
        return found.detach()
    distance = (scan - baseline).detach()
    return torch.where(distance == 0, 0.0, found.detach() / torch.where(distance == 0, 1.0, distance))


def infidelity(
    measure: Measure,
    scan: Float[Tensor, "1 C I J K"],
    effect: Float[Tensor, "1 C I J K"],
    changes: Iterable[Float[Tensor, "_ C I J K"]],
) -> Infidelity:
    """Compare what a map predicts with what happens: the mean of ``(sum(I effect) - (m(y) - m(y - I)))^2``.

    In the measurement's unit squared.

    Args:
        measure: the measurement as a function of the scan.
        scan: y.
        effect: the map, in the measurement's unit per unit of the scan; see ``multiplier``.
        changes: batches of changes I, in the unit of the scan.

    Raises:
        ConfigError: there are fewer than two changes.

    Source:
        Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019, definition 2.1; the best scale
        is that of its section 2.
    """
    value = measure(scan).detach().to(torch.float64)
    predicted, happened = [], []
    for change in changes:
        predicted.append((change.to(torch.float64) * effect.to(torch.float64)).flatten(1).sum(dim=1).detach())
        happened.append(value - measure((scan - change).detach()).detach().to(torch.float64))
    if sum(len(part) for part in predicted) < 2:
        raise ConfigError("the infidelity over fewer than 2 changes: expected at least 2")
    told, seen = torch.cat(predicted), torch.cat(happened)
    squared = (told - seen).square()
    size, power = float(seen.square().mean()), float(told.square().mean())
    product, interval = float((told * seen).mean()), mean_interval(squared)
    return Infidelity(
        value=replace(interval, low=max(0.0, interval.low)),  # a mean of squares lies not below
        rms=float(squared.mean().sqrt()),
        relative=float(squared.mean()) / size if size else None,
        best_scale=product / power if power else None,
        relative_at_best=max(0.0, 1 - product**2 / (power * size)) if power and size else None,
        changes=len(seen),
    )


def block_changes(
    scan: Float[Tensor, "1 C I J K"],
    fill: Float[Tensor, "1 C I J K"],
    *,
    block: int,
    changes: int,
    batch: int,
    generator: torch.Generator,
) -> Iterable[Float[Tensor, "_ C I J K"]]:
    """Yield changes that replace one cube of the scan by a fill, at random places; the fill is never zero by default.

    The three-dimensional form of the square removal of Yeh et al.

    Args:
        scan: y.
        fill: what a cube is replaced by.
        block: edge of the cube in voxels, cut to the scan.
        changes: how many.
        batch: at once.
        generator: of the places.

    Source:
        Yeh et al., NeurIPS 2019, section 2.2 ("square removal").
    """
    difference = (scan - fill).detach()
    masks = []
    for _ in range(changes):
        mask = torch.zeros_like(scan[:, :1])
        cube: list[slice] = []
        for size in scan.shape[2:]:
            edge = min(block, size)
            start = int(torch.randint(size - edge + 1, (1,), generator=generator, device=generator.device))
            cube.append(slice(start, start + edge))
        mask[(slice(None), slice(None), *cube)] = 1
        masks.append(mask)
        if len(masks) == batch:
            yield difference * torch.cat(masks)
            masks = []
    if masks:
        yield difference * torch.cat(masks)


def max_sensitivity(
    explain: Callable[[Tensor], Tensor],
    scan: Float[Tensor, "1 C I J K"],
    found: Float[Tensor, "M I J K"],
    *,
    radius: float,
    changes: int,
    generator: torch.Generator,
    sigma: float | None = None,
    on_draw: Callable[[int], None] = lambda done: None,
) -> MaxSensitivity:
    """Return how far the map moves at most over random scans within ``radius`` of the scan, voxel by voxel.

    In the unit of the map: the measurement's for contributions, per unit of the scan for gradients. One explanation a
    change.

    Args:
        explain: scan to map, all inputs and channels as they are compared.
        scan: y.
        found: the map of y.
        radius: largest change of a voxel, in the unit of the scan.
        changes: how many scans are tried.
        generator: of the changes, uniform in the cube.
        sigma: the scan's noise level, to say the radius in noise levels.
        on_draw: told after each change.

    Raises:
        ConfigError: radius or number of changes is not positive.

    Source:
        Yeh et al., NeurIPS 2019, definition 3.1 and its Monte-Carlo form; the ball is that of the maximum norm.
    """
    if not radius > 0 or changes < 1:
        raise ConfigError(f"a max-sensitivity within {radius} over {changes} changes: expected positive numbers")
    largest, size = 0.0, float(found.to(torch.float64).norm())
    for done in range(1, changes + 1):
        noise = torch.rand(scan.shape, generator=generator, dtype=scan.dtype, device=generator.device)
        moved = explain((scan + radius * (2 * noise.to(scan.device) - 1)).detach())
        largest = max(largest, float((moved - found).detach().to(torch.float64).norm()))
        on_draw(done)
    return MaxSensitivity(
        value=largest,
        relative=largest / size if size else None,
        radius=radius,
        radius_sigmas=radius / sigma if sigma else None,
        changes=changes,
    )
