"""Deletion and insertion: does the measurement move first where the map says it is made?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from medinterp.errors import ConfigError, InputError

Measure: TypeAlias = Callable[[Tensor], Tensor]
"""Scans (B, C, I, J, K) -> the measurement of each, (B,)."""

CONFIDENCE = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Interval:
    """A mean over draws with its 95 % interval, in the unit of the measurement."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OrderCurves:
    """What one order of replacing does, means over the draws, in the unit of the measurement.

    Args:
        deleted: the measurement after each share of the blocks was replaced, from none to all.
        inserted: the measurement after each share of the blocks was put back, from none to all.
        deletion_area: mean distance of the measurement from its value while blocks are replaced; large for a good map.
        insertion_area: mean distance while they are put back; small for a good map.
    """

    deleted: tuple[float, ...]
    inserted: tuple[float, ...]
    deletion_area: Interval
    insertion_area: Interval


@dataclass(frozen=True)
class Faithfulness:
    """Deletion and insertion curves of a map beside those of a random order and of the scan's edges.

    Args:
        fill: what replaced blocks are filled with.
        blocks: how many there are.
        block_voxels: edge of a block, in voxels.
        steps: how many points a curve has besides its start.
        draws: of filling, random order and position of the blocks; what intervals are over.
        evaluations: of the model.
        shares: of the blocks, at the points of the curves.
        map: the blocks in the order of the map's magnitude.
        random: in random order, another for each draw.
        edges: in the order of the scan's gradient magnitude.
        deletion_over_random: area of the map minus that of the random order, paired by draw; above 0 for a good map.
            Its interval, and that of ``insertion_over_random``, is the wider one of ``margin_over_chance``.
        deletion_over_edges: the same against the edges.
        insertion_over_random: area of the random order minus that of the map; above 0 for a good map.
        insertion_over_edges: the same against the edges.
    """

    fill: str
    blocks: int
    block_voxels: int
    steps: int
    draws: int
    evaluations: int
    shares: tuple[float, ...]
    map: OrderCurves
    random: OrderCurves
    edges: OrderCurves
    deletion_over_random: Interval
    deletion_over_edges: Interval
    insertion_over_random: Interval
    insertion_over_edges: Interval

    @property
    def faithful(self) -> bool:
        """Whether the measurement moves sooner in the map's order than in a random one, beyond chance, both ways."""
        return self.deletion_over_random.low > 0 and self.insertion_over_random.low > 0


@dataclass(frozen=True)
class CurveOptions:
    """How finely curves are drawn.

    Cost: ``draws`` times three orders times two directions times ``steps`` evaluations, ``batch`` at a time.

    Args:
        block: edge of the blocks that are replaced together, in voxels.
        steps: points of a curve besides its start; at most one a block.
        draws: repeats with another filling, random order and position of the blocks.
        batch: scans that are measured at once.
    """

    block: int = 4
    steps: int = 10
    draws: int = 5
    batch: int = 4

    def __post_init__(self) -> None:
        if min(self.block, self.steps, self.batch) < 1 or self.draws < 2:
            raise ConfigError(
                f"curves with blocks of {self.block} voxels, {self.steps} steps, {self.draws} draws, {self.batch} at "
                "once: expected at least 1 of each, and 2 draws"
            )


def assess_faithfulness(
    measure: Measure,
    scan: Float[Tensor, "1 C I J K"],
    fills: Iterable[Float[Tensor, "1 C I J K"]],
    found: Float[Tensor, "1 C I J K"],
    *,
    fill: str,
    generator: torch.Generator,
    options: CurveOptions = CurveOptions(),
    on_draw: Callable[[int], None] = lambda done: None,
) -> Faithfulness:
    """Replace blocks of a scan in the order of a map, and in two orders that know nothing of the model.

    Blocks are ordered by the sum over their voxels, taken by magnitude, so that gradients and contributions of either
    sign are judged alike; the area is the mean distance ``|m - m(scan)|`` over the curve, in the measurement's unit.

    Args:
        measure: the measurement as a function of the scan.
        scan: as it is.
        fills: what takes the place of replaced blocks, one image a draw, from one of the project's baselines.
        found: the map.
        fill: what the fills are called.
        generator: of random orders and positions of the blocks.
        options: how finely.
        on_draw: told after each draw.

    Raises:
        InputError: there are fewer fills than draws.

    Source:
        Petsiuk et al., "RISE", BMVC 2018, section 4 (deletion, insertion); Samek et al., IEEE TNNLS 28 (2017), eq. 12
        (area against random orders).
    """
    scores = {"map": found.detach().sum(dim=(0, 1)), "random": None, "edges": edge_magnitude(scan)}
    curves: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in scores}
    shape = (scan.shape[2], scan.shape[3], scan.shape[4])
    evaluations = count = steps = 0
    for draw, filling in zip(range(options.draws), fills, strict=False):
        blocks = _blocks(shape, options.block, generator)
        count = int(blocks.max()) + 1
        steps = min(options.steps, count)
        chance = torch.rand(count, generator=generator, device=generator.device).to(scan.device)
        for name, score in scores.items():
            per_block = chance if score is None else _per_block(score, blocks, count).abs()
            ranks = rank_steps(per_block, steps)[blocks]
            deleted = replacement_curve(measure, scan, filling, ranks, steps, batch=options.batch)
            inserted = replacement_curve(measure, filling, scan, ranks, steps, batch=options.batch)
            curves[name].append((deleted, inserted))
            evaluations += 2 * (steps + 1)
        on_draw(draw + 1)
    if len(curves["map"]) < options.draws:
        raise InputError(f"{len(curves['map'])} fillings for {options.draws} draws: expected one each")
    areas = {name: _areas(pairs) for name, pairs in curves.items()}
    drawn = {name: _order_curves(pairs, areas[name]) for name, pairs in curves.items()}
    (map_out, map_in), (random_out, random_in), (edges_out, edges_in) = (areas[n] for n in ("map", "random", "edges"))
    return Faithfulness(
        fill=fill, blocks=count, block_voxels=options.block, steps=steps, draws=options.draws, evaluations=evaluations,
        shares=tuple(step / steps for step in range(steps + 1)), **drawn,
        deletion_over_random=margin_over_chance(map_out - random_out),
        deletion_over_edges=mean_interval(map_out - edges_out),
        insertion_over_random=margin_over_chance(random_in - map_in),
        insertion_over_edges=mean_interval(edges_in - map_in),
    )  # fmt: skip


def replacement_curve(
    measure: Measure,
    start: Float[Tensor, "1 C I J K"],
    end: Float[Tensor, "1 C I J K"],
    ranks: Int[Tensor, "I J K"],
    steps: int,
    *,
    batch: int = 4,
) -> Float[Tensor, " {steps}+1"]:
    """Return the measurement while a scan turns into another, step by step; float64, no graph.

    Args:
        measure: the measurement of a batch.
        start: the scan at step 0.
        end: the scan after the last step.
        ranks: the step, from 1, at which each voxel is replaced.
        steps: how many.
        batch: scans measured at once.
    """
    points = []
    for begun in range(0, steps + 1, batch):
        at = torch.arange(begun, min(begun + batch, steps + 1), device=start.device).reshape(-1, 1, 1, 1, 1)
        points.append(measure(torch.where(ranks <= at, end.detach(), start.detach())).detach().to(torch.float64))
    return torch.cat(points)


def rank_steps(scores: Float[Tensor, " N"], steps: int) -> Int[Tensor, " N"]:
    """Return the step, from 1 to ``steps``, at which each is replaced: the highest score first, equal numbers a step.

    Raises:
        ConfigError: there are more steps than scores.
    """
    if not 1 <= steps <= len(scores):
        raise ConfigError(f"{steps} steps over {len(scores)} blocks: expected at least 1 and at most one a block")
    order = scores.argsort(descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(scores), device=scores.device) * steps // len(scores) + 1
    return ranks


def edge_magnitude(scan: Float[Tensor, "1 C I J K"]) -> Float[Tensor, "I J K"]:
    """Return the magnitude of the scan's gradient by central differences: an order that knows nothing of the model."""
    padded = functional.pad(scan.detach(), [1] * 6, mode="replicate")
    total = torch.zeros_like(scan[0, 0])
    for axis in (2, 3, 4):
        low, high = [slice(None)] * 2 + [slice(1, -1)] * 3, [slice(None)] * 2 + [slice(1, -1)] * 3
        low[axis], high[axis] = slice(None, -2), slice(2, None)
        change = (padded[tuple(high)] - padded[tuple(low)]) / 2
        total = total + change.square().sum(dim=(0, 1))
    return total.sqrt()


def mean_interval(values: Float[Tensor, " N"]) -> Interval:
    """Return the mean of at least two draws with its 95 % interval by Student's t.

    A bootstrap of so few draws would be too narrow: of five, it holds the truth in 83 % of cases.
    """
    return _student(values, (1 / len(values)) ** 0.5)


def margin_over_chance(values: Float[Tensor, " N"]) -> Interval:
    """Return the mean lead over random orders, with an interval that a map which is itself random has to pass.

    The map is one order, and a lucky one lies above the mean of others half the time; so the interval is that of one
    more draw about the mean, wider than that of the mean by sqrt(N + 1). Assumes nearly normal areas.
    """
    return _student(values, (1 + 1 / len(values)) ** 0.5)


def _student(values: Tensor, width: float) -> Interval:
    from scipy import special  # slow to import, and only needed here

    values = values.to(torch.float64)
    reach = width * float(special.stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * float(values.std())
    mean = float(values.mean())
    return Interval(mean, mean - reach, mean + reach)


def _blocks(shape: tuple[int, int, int], edge: int, generator: torch.Generator) -> Int[Tensor, "I J K"]:
    """Return the number of the block of each voxel, on a lattice of random position."""
    labels = torch.zeros(shape, dtype=torch.int64)
    for axis, size in enumerate(shape):
        offset = int(torch.randint(edge, (1,), generator=generator, device=generator.device))
        line = (torch.arange(size) + offset) // edge
        view = [1, 1, 1]
        view[axis] = -1
        labels = labels * int(line[-1] + 1) + line.reshape(view)
    numbered: Tensor = torch.unique(labels, return_inverse=True)[1]
    return numbered


def _per_block(score: Tensor, blocks: Tensor, count: int) -> Tensor:
    sums = torch.zeros(count, dtype=torch.float64, device=score.device)
    return sums.index_add(0, blocks.flatten().to(score.device), score.flatten().to(torch.float64))


def _areas(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the areas of the deletion and the insertion curves, one per draw."""
    deletion, insertion = [], []
    for deleted, inserted in pairs:
        value = deleted[0]
        deletion.append(torch.trapezoid((deleted - value).abs()) / (len(deleted) - 1))
        insertion.append(torch.trapezoid((inserted - value).abs()) / (len(inserted) - 1))
    return torch.stack(deletion), torch.stack(insertion)


def _order_curves(pairs: Sequence[tuple[Tensor, Tensor]], areas: tuple[Tensor, Tensor]) -> OrderCurves:
    deleted, inserted = (torch.stack(curves).mean(dim=0) for curves in zip(*pairs, strict=True))
    deletion, insertion = (mean_interval(area) for area in areas)
    return OrderCurves(tuple(deleted.tolist()), tuple(inserted.tolist()), deletion, insertion)
