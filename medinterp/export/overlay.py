"""Overlays from maps: where a signed map is strong, in clusters, and how strongly to colour it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Integer
from numpy.typing import NDArray
from scipy import ndimage

from medinterp.errors import InputError
from medinterp.volume import Grid, Overlay, Segment, Segmentation, Volume
from medinterp.volume.overlay import middlemost

MOST_CLUSTERS = 30
SHARE_ABOVE_THRESHOLD = 0.5
SHARE_BEYOND_COLOURS = 0.1
_NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Clusters:
    """The clusters of a map and what had to be left out of them.

    Args:
        segmentation: the clusters that were kept, strongest first.
        threshold: magnitude from which a voxel belongs to a cluster, in the map's unit.
        found: clusters at this threshold that are large enough, kept or not.
        too_small: clusters below the smallest volume asked for.
        share: part of the map's total magnitude that the kept clusters hold, 0 to 1.
    """

    segmentation: Segmentation
    threshold: float
    found: int
    too_small: int
    share: float

    @property
    def dropped(self) -> int:
        """How many clusters were large enough and still left out, because only the strongest are kept."""
        return self.found - len(self.segmentation.segments)


def find_clusters(map: Volume, *, threshold: float, min_volume_mm3: float = 0.0) -> Segmentation:
    """Return the connected pieces of a map where its magnitude reaches a threshold, each sign for itself.

    The 30 clusters of largest absolute total are kept; ``search_clusters`` also says how many were left out.

    Raises:
        InputError: the threshold is negative or not a number, or the map has several channels.
    """
    return search_clusters(map, threshold=threshold, min_volume_mm3=min_volume_mm3).segmentation


def search_clusters(
    map: Volume, *, threshold: float, min_volume_mm3: float = 0.0, most: int = MOST_CLUSTERS
) -> Clusters:
    """Find signed clusters with 26 neighbours, strongest absolute total first, and say how many were left out.

    A voxel belongs to a cluster when its magnitude is at least ``threshold`` and not zero. Positive and negative
    voxels never share a cluster.

    Raises:
        InputError: the threshold is negative or not a number, or the map has several channels.
    """
    if not threshold >= 0:
        raise InputError(f"cluster threshold {threshold}: expected a magnitude, zero or more, in the map's unit")
    values = _one_channel(map)
    pieces = [piece for sign in (1, -1) for piece in _pieces(values, sign, threshold)]
    large = [p for p in pieces if p.flat.size * map.grid.voxel_volume_mm3 >= min_volume_mm3]
    kept = sorted(large, key=lambda p: (-abs(p.total), int(p.flat[0])))[:most]
    everything = float(np.abs(values).sum(dtype=np.float64))
    share = sum(abs(p.total) for p in kept) / everything if everything > 0 else 0.0
    return Clusters(_segmentation(kept, map.grid), threshold, len(large), len(pieces) - len(large), share)


def no_clusters(map: Volume) -> Clusters:
    """Return the empty set of clusters, for a map that is shown without any."""
    return Clusters(_segmentation([], map.grid), float("inf"), 0, 0, 0.0)


def default_threshold(map: Volume) -> float:
    """Return the magnitude whose voxels, it and above, are the fewest that hold half of the map's total magnitude.

    The rule needs no unit and no assumption on how the values are distributed: the clusters at this threshold are
    "where half of the explanation sits". A map that is zero everywhere gives 0.
    """
    return _holding(SHARE_ABOVE_THRESHOLD, map)


def colour_limit(map: Volume) -> float:
    """Return the value at the end of the colour table: its voxels and those beyond it hold a tenth of the map.

    A few extreme voxels would otherwise leave the rest without colour; and a share of the voxels, such as a percentile,
    would depend on how many of them are next to nothing. A map of zeros gives 1.
    """
    return _holding(SHARE_BEYOND_COLOURS, map) or 1.0


def _holding(share: float, map: Volume) -> float:
    """Return the largest magnitude at which the voxels, it and above, hold a share of the map's total magnitude."""
    magnitude = np.abs(_one_channel(map))
    magnitude = np.sort(magnitude[magnitude > 0])[::-1]
    if magnitude.size == 0:
        return 0.0
    held = np.cumsum(magnitude, dtype=np.float64)
    return float(magnitude[np.searchsorted(held, share * held[-1])])


def make_overlay(
    base: Volume, map: Volume, *, name: str, description: str, signed: bool, clusters: Clusters | None = None
) -> Overlay:
    """Return a map as an overlay on its scan, with its colour limit and its clusters.

    Args:
        base: the scan underneath.
        map: one-channel map on the scan's grid.
        name: short name for file names and viewers.
        description: one sentence for legends.
        signed: a diverging colour table around zero, else a sequential one from zero.
        clusters: what ``search_clusters`` found; searched at the default threshold when left out.

    Raises:
        GridMismatch: map and base are on different grids.
    """
    found = search_clusters(map, threshold=default_threshold(map)) if clusters is None else clusters
    return Overlay(base, map, name, description, signed, colour_limit(map), found.segmentation)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Voxels of one connected piece, as positions in the flattened map, and what they sum to."""

    flat: Integer[np.ndarray, " n"]
    sign: int
    total: float
    peak: int
    peak_value: float


def _one_channel(map: Volume) -> Float32[np.ndarray, "I J K"]:
    if map.voxels.shape[0] != 1:
        raise InputError(f"a map of {map.voxels.shape[0]} channels: expected one; make one map per channel")
    return map.voxels[0]


def _pieces(values: Float32[np.ndarray, "I J K"], sign: int, threshold: float) -> Iterator[_Piece]:
    """Yield the connected pieces of one sign."""
    # The threshold is rounded to the map's own precision, or a value equal to it could fall below it.
    inside: Bool[np.ndarray, "I J K"] = (sign * values >= np.float32(threshold)) & (sign * values > 0)
    labels, count = ndimage.label(inside, structure=_NEIGHBOURS_26)
    if count == 0:
        return
    flat = np.flatnonzero(inside)
    by_label = np.argsort(labels.ravel()[flat], kind="stable")
    ends = np.cumsum(np.bincount(labels.ravel()[flat], minlength=count + 1)[1:])
    for members in np.split(flat[by_label], ends[:-1]):
        yield _piece(values.ravel()[members], members, sign, values.shape)


def _piece(values: NDArray[np.float32], members: NDArray[np.intp], sign: int, shape: tuple[int, int, int]) -> _Piece:
    magnitude = np.abs(values)
    peak = middlemost(members[magnitude == magnitude.max()], shape)
    peak_value = float(values[np.searchsorted(members, peak)])
    return _Piece(members, sign, float(values.sum(dtype=np.float64)), peak, peak_value)


def _segmentation(pieces: list[_Piece], grid: Grid) -> Segmentation:
    """Number the pieces, name them by sign, and describe them in millimetres."""
    labels = np.zeros(grid.shape, dtype=np.int16)
    segments = []
    for label, piece in enumerate(pieces, start=1):
        labels.ravel()[piece.flat] = label
        number = sum(p.sign == piece.sign for p in pieces[:label])
        x, y, z = grid.to_world(np.array(np.unravel_index(piece.peak, grid.shape)))
        segments.append(
            Segment(
                label=label,
                name=f"{'positive' if piece.sign > 0 else 'negative'} {number}",
                sign=piece.sign,
                peak_mm=(float(x), float(y), float(z)),
                peak_value=piece.peak_value,
                volume_mm3=piece.flat.size * grid.voxel_volume_mm3,
                total=piece.total,
            )
        )
    return Segmentation(labels, grid, tuple(segments))
