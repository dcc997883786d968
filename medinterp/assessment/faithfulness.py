"""Deletion and insertion: does the measurement move first where the map says it is made?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from medinterp.assessment.intervals import CONFIDENCE, Interval, chance_of, mean_interval
from medinterp.errors import ConfigError, InputError

Measure: TypeAlias = Callable[[Tensor], Tensor]
"""Scans (B, C, I, J, K) -> the measurement of each, (B,)."""


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
        draws: of filling and position of the blocks; what intervals are over.
        orders: random ones, in all.
        evaluations: of the model.
        shares: of the blocks, at the points of the curves.
        map: the blocks in the order of the map's magnitude.
        random: in random orders, others for each draw.
        edges: in the order of the scan's gradient magnitude.
        deletion_over_random: area of the map minus the mean of the random orders, by draw; above 0 for a good map.
        deletion_over_edges: the same against the edges.
        insertion_over_random: mean area of the random orders minus that of the map; above 0 for a good map.
        insertion_over_edges: the same against the edges.
        deletion_p: chance that a map which is itself random does as well; see ``chance_of``.
        insertion_p: the same.
    """

    fill: str
    blocks: int
    block_voxels: int
    steps: int
    draws: int
    orders: int
    evaluations: int
    shares: tuple[float, ...]
    map: OrderCurves
    random: OrderCurves
    edges: OrderCurves
    deletion_over_random: Interval
    deletion_over_edges: Interval
    insertion_over_random: Interval
    insertion_over_edges: Interval
    deletion_p: float
    insertion_p: float

    @property
    def faithful(self) -> bool:
        """Whether the measurement moves sooner in the map's order than in a random one, beyond chance, both ways."""
        return max(self.deletion_p, self.insertion_p) <= 1 - CONFIDENCE


@dataclass(frozen=True)
class CurveOptions:
    """How finely curves are drawn.

    Cost: see ``evaluations``.

    Args:
        block: edge of the blocks that are replaced together, in voxels.
        steps: points of a curve besides its start; at most one a block.
        draws: repeats with another filling and position of the blocks.
        orders: random orders in each; with fewer than 19 in all, no map can be told from chance.
        batch: scans that are measured at once.
    """

    block: int = 4
    steps: int = 10
    draws: int = 5
    orders: int = 4
    batch: int = 4

    def __post_init__(self) -> None:
        if min(self.block, self.steps, self.orders, self.batch) < 1 or self.draws < 2:
            raise ConfigError(
                f"curves with blocks of {self.block} voxels, {self.steps} steps, {self.draws} draws, {self.orders} "
                f"random orders, {self.batch} at once: expected at least 1 of each, and 2 draws"
            )

    def evaluations(self, steps: int) -> int:
        """Return how often the model is evaluated for curves of so many steps, fillings aside."""
        return 2 * (steps + 1) * self.draws * (self.orders + 2)


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
    own, edges = found.detach().sum(dim=(0, 1)), edge_magnitude(scan)
    curves: list[_Draw] = []
    for draw, filling in zip(range(options.draws), fills, strict=False):
        blocks = _blocks((scan.shape[2], scan.shape[3], scan.shape[4]), options.block, generator)
        count = int(blocks.max()) + 1
        chance = torch.rand(options.orders, count, generator=generator, device=generator.device).to(scan.device)
        walk = _Walk(measure, scan, filling, blocks, min(options.steps, count), options.batch)
        curves.append(
            _Draw(
                blocks=count,
                map=walk.both_ways(_per_block(own, blocks, count).abs()),
                random=[walk.both_ways(order) for order in chance],
                edges=walk.both_ways(_per_block(edges, blocks, count)),
            )
        )
        on_draw(draw + 1)
    if len(curves) < options.draws:
        raise InputError(f"{len(curves)} fillings for {options.draws} draws: expected one each")
    return _compared(curves, fill, options)


@dataclass(frozen=True, eq=False)
class _Walk:
    """A scan, a filling and a division into blocks, between which any order can be walked."""

    measure: Measure
    scan: Tensor
    filling: Tensor
    blocks: Tensor
    steps: int
    batch: int

    def both_ways(self, scores: Tensor) -> Tensor:
        """Return the curves of deletion and insertion in the order of the blocks' scores, (2, steps + 1)."""
        ranks = rank_steps(scores, self.steps)[self.blocks]
        ends = (self.scan, self.filling), (self.filling, self.scan)
        return torch.stack(
            [replacement_curve(self.measure, *pair, ranks, self.steps, batch=self.batch) for pair in ends]
        )


@dataclass(frozen=True, eq=False)
class _Draw:
    """The curves of one draw, each (2, steps + 1): deletion and insertion."""

    blocks: int
    map: Tensor
    random: Sequence[Tensor]
    edges: Tensor


def _compared(draws: Sequence[_Draw], fill: str, options: CurveOptions) -> Faithfulness:
    own, edges = torch.stack([d.map for d in draws]), torch.stack([d.edges for d in draws])
    random = torch.stack([torch.stack(list(d.random)) for d in draws])  # draws, orders, 2, points
    steps = own.shape[-1] - 1
    map_area, edge_area, random_area = _areas(own), _areas(edges), _areas(random)
    over_random, over_edges = map_area - random_area.mean(dim=1), map_area - edge_area
    lead = map_area[:, None] - random_area
    return Faithfulness(
        fill=fill, blocks=draws[-1].blocks, block_voxels=options.block, steps=steps, draws=len(draws),
        orders=random.shape[0] * random.shape[1],
        evaluations=options.evaluations(steps),
        shares=tuple(step / steps for step in range(steps + 1)),
        map=_order_curves(own, map_area), random=_order_curves(random.flatten(0, 1), random_area.flatten(0, 1)),
        edges=_order_curves(edges, edge_area),
        deletion_over_random=mean_interval(over_random[:, 0]), deletion_over_edges=mean_interval(over_edges[:, 0]),
        insertion_over_random=mean_interval(-over_random[:, 1]), insertion_over_edges=mean_interval(-over_edges[:, 1]),
        deletion_p=chance_of(lead[..., 0]), insertion_p=chance_of(-lead[..., 1]),
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


def _areas(curves: Float[Tensor, "*draws 2 points"]) -> Float[Tensor, "*draws 2"]:
    """Return the mean distance of deletion and insertion from the measurement of the scan, over the way."""
    value = curves[..., :1, :1]  # deletion begins at the scan
    return torch.trapezoid((curves - value).abs(), dim=-1) / (curves.shape[-1] - 1)


def _order_curves(curves: Float[Tensor, "draws 2 points"], areas: Float[Tensor, "draws 2"]) -> OrderCurves:
    deleted, inserted = curves.mean(dim=0).tolist()
    return OrderCurves(tuple(deleted), tuple(inserted), mean_interval(areas[:, 0]), mean_interval(areas[:, 1]))
