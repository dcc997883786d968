"""A measurement as a game between supervoxels: those that are absent show a baseline in the scan's place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medinterp.attribution.baselines import Baseline
from medinterp.attribution.measurement import Measurement
from medinterp.attribution.result import Attribution, Forward, image_forward
from medinterp.attribution.shapley import Coalition, Shares
from medinterp.attribution.supervoxels import Supervoxels
from medinterp.attribution.targets import Target
from medinterp.errors import GridMismatch, MethodNotValid, ModelError


@dataclass(frozen=True)
class RegionShare:
    """One row of a region table: what one region of one input was found to bring.

    Args:
        input_name: which input.
        label: the region's number in the division it came from.
        name: the region's name.
        centre_mm: its mean position, RAS mm.
        volume_mm3: its size.
        value: its share of the measurement, in the measurement's unit.
        standard_error: of the value over random draws; None where nothing was drawn.
    """

    input_name: str
    label: int
    name: str
    centre_mm: tuple[float, float, float]
    volume_mm3: float
    value: float
    standard_error: float | None = None


@dataclass(frozen=True, eq=False)
class RegionAttribution(Attribution):
    """An attribution by regions: the map spreads each region's share evenly over its voxels, the table holds it whole.

    Args:
        regions: one row per input and region, in the measurement's unit; 0 for what cannot matter.
        divided_by: how the scan was divided.
    """

    regions: tuple[RegionShare, ...] = ()
    divided_by: str = ""


def by_regions(
    found: Attribution,
    regions: tuple[RegionShare, ...],
    baseline: str,
    divided_by: str,
    statistics: Mapping[str, float],
) -> RegionAttribution:
    """Return an attribution with its region table and further statistics."""
    kept = {option.name: getattr(found, option.name) for option in fields(found)}
    kept |= {"statistics": {**found.statistics, **statistics}, "baseline": baseline}
    return RegionAttribution(**kept, regions=regions, divided_by=divided_by)


class Watched(Mapping[str, Tensor]):
    """Inputs by name that note which of them were looked at: one that never was cannot have mattered."""

    def __init__(self, tensors: Mapping[str, Tensor], seen: set[str]) -> None:
        self._tensors, self._seen = tensors, seen

    def __getitem__(self, name: str) -> Tensor:
        self._seen.add(name)
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class WatchedForward:
    """A forward that counts its evaluations and notes which inputs it looks at.

    Args:
        forward: the function that made the image.
    """

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.explained = str(getattr(forward, "explained", "output image"))
        self.seen: set[str] = set()
        self.evaluations = 0

    @property
    def image_forward(self) -> Forward:
        """The forward of the output image where this one looks at a view of it, watched as well."""
        behind = image_forward(self.forward)
        return self if behind is self.forward else partial(self._watch, behind)

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        """Return the image."""
        return self._watch(self.forward, inputs, sigmas)

    def _watch(self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        self.evaluations += 1
        return forward(Watched(inputs, self.seen), Watched(sigmas, self.seen))


class SupervoxelGame:
    """The measurement as a function of which supervoxels of which inputs are present.

    One coalition is evaluated at a time, without a graph, so that memory does not grow with their number; what was
    evaluated once is remembered. Where the baseline has another noise level than the scan, an absent supervoxel has
    that one too.

    Args:
        forward: the function that made the image.
        inputs: one scan per name, on the grid of the supervoxels.
        sigmas: its noise level.
        target: what is measured.
        supervoxels: the players of every input.
        baseline: what absent ones show.

    Raises:
        GridMismatch: inputs and supervoxels have different shapes.
        MethodNotValid: the forward looks at no input that a supervoxel belongs to.
    """

    def __init__(
        self,
        forward: Forward,
        inputs: Mapping[str, Tensor],
        sigmas: Mapping[str, Tensor],
        target: Target,
        supervoxels: Supervoxels,
        baseline: Baseline,
    ) -> None:
        self._watched = WatchedForward(forward)
        self.measurement = Measurement(self._watched, target, inputs, sigmas)
        self.supervoxels, self.baseline = supervoxels, baseline
        _require_one_grid(inputs, supervoxels)
        self._labels = supervoxels.labels.long().to(self.measurement.tensors[0].device)
        with torch.no_grad():
            images, levels = baseline(self._watched, inputs, sigmas)
        names = self.measurement.names
        self.fill = tuple(images[name].detach() for name in names) + tuple(levels[name].detach() for name in names)
        pairs = zip(self.fill, self.measurement.tensors, strict=True)
        self.replaced = tuple(not torch.equal(fill.expand_as(scan), scan) for fill, scan in pairs)
        self._known: dict[bytes, float] = {}
        self.value, self.baseline_value = self._ends()
        self.counts = torch.bincount(self._labels.flatten(), minlength=len(supervoxels) + 1)
        present = [label for label in range(1, len(supervoxels) + 1) if int(self.counts[label])]
        self.players = tuple((name, label) for name in names if name in self._relevant for label in present)
        if not self.players:
            raise MethodNotValid(
                f"the model looks at none of the inputs {', '.join(names)}, or no supervoxel lies near '{target.name}'"
            )
        self._known[np.packbits(np.zeros(len(self.players), dtype=bool)).tobytes()] = self.baseline_value

    def _ends(self) -> tuple[float, float]:
        """Return the measurement of the scan and of the baseline, and note which inputs were looked at on the way."""
        self._watched.seen.clear()
        value = self.measurement.value_at(self.measurement.tensors)
        baseline_value = self.measurement.value_at(self.tensors({name: frozenset() for name in self.measurement.names}))
        self._relevant = frozenset(self._watched.seen)
        return value, baseline_value

    def __call__(self, present: Coalition) -> float:
        """Return the measurement when only these players are present."""
        if present.all():
            return self.value
        key = np.packbits(present).tobytes()
        if key not in self._known:
            kept = {
                name: frozenset(
                    label for (owner, label), here in zip(self.players, present, strict=True) if here and owner == name
                )
                for name in self.measurement.names
            }
            self._known[key] = self.measurement.value_at(self.tensors(kept))
        return self._known[key]

    def tensors(self, kept: Mapping[str, frozenset[int]]) -> tuple[Tensor, ...]:
        """Return all images, then all noise levels, where of each input only the named labels are the scan's."""
        mixed = []
        names = self.measurement.names
        for position, (scan, fill) in enumerate(zip(self.measurement.tensors, self.fill, strict=True)):
            if not self.replaced[position]:
                mixed.append(scan)
                continue
            keep = torch.zeros(len(self.supervoxels) + 1, dtype=torch.bool, device=scan.device)
            keep[[0, *kept[names[position % len(names)]]]] = True
            mixed.append(torch.where(keep[self._labels], scan, fill))
        return tuple(mixed)

    def as_features(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return scans, fillings and player numbers as Captum takes them: images, and noise levels if they change too.

        Feature 0 is what no player owns; its filling is the scan itself. A player has the same number in its image and
        in its noise level, so that both are replaced at once.
        """
        names = self.measurement.names
        count = 2 * len(names) if any(self.replaced[len(names) :]) else len(names)
        scans, fills, masks = [], [], []
        for position in range(count):
            scan = self.measurement.tensors[position]
            owned = [player for player in self.players if player[0] == names[position % len(names)]]
            numbers = torch.zeros(len(self.supervoxels) + 1, dtype=torch.long, device=scan.device)
            for player in owned:
                numbers[player[1]] = 1 + self.players.index(player)
            mask = numbers[self._labels]
            whole = scan.expand(*scan.shape[:2], *mask.shape)
            scans.append(whole)
            fills.append(torch.where(mask > 0, self.fill[position], whole))
            masks.append(mask[None, None])
        return tuple(scans), tuple(fills), tuple(masks)

    def read(self, maps: Sequence[Tensor]) -> NDArray[np.float64]:
        """Return each player's number from maps that hold it at every voxel of the player."""
        names, values = self.measurement.names, []
        for name, label in self.players:
            first = int((self._labels.flatten() == label).nonzero()[0])
            values.append(float(maps[names.index(name)][0, 0].flatten()[first]))
        return np.array(values)

    def attribution(self, shares: Shares, method: str) -> RegionAttribution:
        """Return the players' shares as maps and a table.

        Raises:
            MethodNotValid: every share is exactly zero.
            ModelError: the model looked at another input for one coalition than for the others.
        """
        if self._watched.seen - self._relevant:
            raise ModelError(
                f"the model looked at {sorted(self._watched.seen)} for one coalition and at {sorted(self._relevant)} "
                "for others; a model that switches inputs off must still take them as arguments"
            )
        self.measurement.evaluations = self._watched.evaluations
        maps = tuple(self._map(name, shares) for name in self.measurement.names)
        silent = tuple(torch.zeros_like(level) for level in self.measurement.tensors[len(maps) :])
        found = self.measurement.attribution(
            maps + silent, "contribution", method, value=self.value, baseline_value=self.baseline_value
        )
        table = self._table(shares)
        return by_regions(
            found, table, self.baseline.name, self.supervoxels.made_by, _statistics(shares, len(self.players))
        )

    def _map(self, name: str, shares: Shares) -> Tensor:
        """Return one input's map: each share spread evenly over the region's voxels."""
        like = self.measurement.tensors[self.measurement.names.index(name)]
        density = torch.zeros(len(self.supervoxels) + 1, dtype=torch.float64, device=like.device)
        for (owner, label), value in zip(self.players, shares.values.tolist(), strict=True):
            if owner == name:
                density[label] = value / (int(self.counts[label]) * like.shape[1])
        return density[self._labels].to(like.dtype).expand(like.shape).clone()

    def _table(self, shares: Shares) -> tuple[RegionShare, ...]:
        errors = [None] * len(self.players) if shares.standard_errors is None else shares.standard_errors.tolist()
        found = {
            player: (value, error)
            for player, value, error in zip(self.players, shares.values.tolist(), errors, strict=True)
        }
        nothing = (0.0, None if shares.standard_errors is None else 0.0)
        return tuple(
            RegionShare(
                name, region.label, region.name, region.centre_mm, region.volume_mm3, *found.get((name, label), nothing)
            )
            for name in self.measurement.names
            for label, region in enumerate(self.supervoxels.regions, start=1)
        )


def _statistics(shares: Shares, players: int) -> dict[str, float]:
    statistics = {"players": float(players), "coalitions": float(shares.coalitions)}
    if shares.standard_errors is not None:
        statistics["largest_standard_error"] = float(shares.standard_errors.max())
    if shares.determination is not None:
        statistics["determination"] = shares.determination
    return statistics


def _require_one_grid(inputs: Mapping[str, Tensor], supervoxels: Supervoxels) -> None:
    shapes = {name: tuple(image.shape[2:]) for name, image in inputs.items()}
    expected = tuple(supervoxels.labels.shape)
    if set(shapes.values()) != {expected}:
        raise GridMismatch(
            f"supervoxels on {expected} voxels, inputs on {shapes}: divide the very grid the inputs are on"
        )
