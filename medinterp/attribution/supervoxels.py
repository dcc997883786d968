"""Supervoxels: a scan divided into regions that are removed or kept together, on its own grid and in millimetres."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from medinterp.attribution.targets import Box
from medinterp.errors import ConfigError, EmptyRegion, InputError, PluginError
from medinterp.volume import Grid, Region, Volume


@dataclass(frozen=True)
class Supervoxel:
    """One region of a division.

    Args:
        label: its number in the division it came from (an atlas's own).
        name: what to call it in tables; free of patient data.
        centre_mm: mean position of its voxels, RAS mm.
        volume_mm3: its size.
        voxels: the same, in voxels.
    """

    label: int
    name: str
    centre_mm: tuple[float, float, float]
    volume_mm3: float
    voxels: int


@dataclass(frozen=True, eq=False)
class Supervoxels:
    """A division of a grid into regions; what belongs to none of them is never touched.

    Args:
        labels: 0 outside of all, else 1 + the position in ``regions``, (I, J, K).
        regions: every region; those of a crop are still described whole.
        made_by: how the division was made, for the record.
    """

    labels: Int[Tensor, "I J K"]
    regions: tuple[Supervoxel, ...]
    made_by: str

    def __post_init__(self) -> None:
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high > len(self.regions):
            raise InputError(
                f"supervoxel labels from {low} to {high} for {len(self.regions)} regions: expected 0 (none) to their "
                "number"
            )

    def __len__(self) -> int:
        return len(self.regions)

    def crop(self, box: Box) -> "Supervoxels":
        """Return the division inside a box; regions outside of it keep their place in the table."""
        return Supervoxels(self.labels[box.slices], self.regions, self.made_by)


def label_supervoxels(
    labels: Int[np.ndarray, "I J K"], grid: Grid, made_by: str, names: Mapping[int, str] | None = None
) -> Supervoxels:
    """Return the regions of a label map; 0 is none of them.

    Args:
        labels: any whole numbers, on the grid.
        grid: where the labels are.
        made_by: how they were made, for the record.
        names: of labels; "region <label>" where there is none.

    Raises:
        EmptyRegion: every label is 0.
        InputError: the labels do not fit the grid, or one is negative.
    """
    if labels.shape != grid.shape or labels.min() < 0:
        raise InputError(
            f"labels of shape {labels.shape}, the smallest {labels.min()}, on a grid of {grid.shape}: expected whole "
            "numbers from 0 on every voxel of the grid"
        )
    found, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape) + (1 if found[0] != 0 else 0)
    found = found[found != 0]
    if not len(found):
        raise EmptyRegion("the supervoxels hold no voxel of the scan: every label is 0")
    counts = np.bincount(compact.ravel(), minlength=len(found) + 1)[1:]
    centres = grid.to_world(_mean_positions(compact, counts))
    known = {} if names is None else names
    regions = tuple(
        Supervoxel(
            int(label),
            known.get(int(label), f"region {label}"),
            (float(centre[0]), float(centre[1]), float(centre[2])),
            float(count) * grid.voxel_volume_mm3,
            int(count),
        )
        for label, centre, count in zip(found, centres, counts, strict=True)
    )
    return Supervoxels(torch.from_numpy(compact.astype(np.int32)), regions, made_by)


def _mean_positions(labels: NDArray[np.integer[Any]], counts: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return the mean voxel index of every label from 1 on, (N, 3)."""
    means = []
    for axis, size in enumerate(labels.shape):
        view = [1, 1, 1]
        view[axis] = -1
        along = np.broadcast_to(np.arange(size, dtype=np.float64).reshape(view), labels.shape)
        means.append(np.bincount(labels.ravel(), weights=along.ravel(), minlength=len(counts) + 1)[1:] / counts)
    return np.stack(means, axis=-1)


def block_supervoxels(grid: Grid, edge_mm: float = 10.0) -> Supervoxels:
    """Return a regular grid of blocks, as near to cubes of ``edge_mm`` as whole voxels allow.

    Raises:
        ConfigError: the edge is not positive.
    """
    _require_positive("the edge of a block", edge_mm)
    steps = [max(1, round(edge_mm / spacing)) for spacing in grid.spacing_mm]
    labels = np.zeros(grid.shape, dtype=np.int64)
    for axis, (size, step) in enumerate(zip(grid.shape, steps, strict=True)):
        view = [1, 1, 1]
        view[axis] = -1
        labels = labels * -(-size // step) + (np.arange(size) // step).reshape(view)
    return label_supervoxels(labels + 1, grid, f"blocks of {edge_mm:g} mm")


def slic_supervoxels(
    scan: Volume, size_mm: float = 10.0, compactness: float = 0.1, mask: Bool[np.ndarray, "I J K"] | None = None
) -> Supervoxels:
    """Return regions of about ``size_mm`` that follow the scan's edges: SLIC in three dimensions, on mm spacing.

    Intensities are scaled by the scan's 1st and 99th percentile, so that ``compactness`` means the same for every unit
    and scanner; the first channel is used.

    Args:
        scan: what to divide.
        size_mm: edge of a cube of a region's mean size.
        compactness: 1 gives nearly blocks, 0.01 follows intensity almost alone.
        mask: where to divide; outside of it nothing is touched.

    Raises:
        ConfigError: size or compactness is not positive, or the size is below a voxel.
        InputError: the scan has no contrast to follow.
        PluginError: scikit-image is not installed.

    Source:
        Achanta et al., "SLIC superpixels", IEEE PAMI 34 (2012); scikit-image's implementation.
    """
    _require_positive("the size of a supervoxel", size_mm)
    _require_positive("the compactness of supervoxels", compactness)
    image = scan.voxels[0].astype(np.float64)
    low, high = np.percentile(image, (1, 99))
    if high <= low:
        raise InputError("the scan has no contrast between its 1st and 99th percentile; divide it into blocks instead")
    volume_mm3 = scan.grid.voxel_volume_mm3 * (image.size if mask is None else int(mask.sum()))
    count = max(1, round(volume_mm3 / size_mm**3))
    if count > image.size:
        raise ConfigError(f"supervoxels of {size_mm} mm are smaller than a voxel of {scan.grid.spacing_mm} mm")
    labels = _segmentation().slic(
        np.clip((image - low) / (high - low), 0, 1), n_segments=count, compactness=compactness,
        spacing=scan.grid.spacing_mm, mask=mask, start_label=1, channel_axis=None,
    )  # fmt: skip
    made_by = f"SLIC of {size_mm:g} mm, compactness {compactness:g}"
    return label_supervoxels(np.asarray(labels, dtype=np.int64), scan.grid, made_by)


def _segmentation() -> Any:
    try:
        return importlib.import_module("skimage.segmentation")
    except ImportError as error:
        raise PluginError(
            "supervoxels that follow edges need scikit-image, which is not installed; run: pip install scikit-image, "
            "or divide the scan into blocks"
        ) from error


def atlas_supervoxels(atlas: Volume, scan: Volume, names: Mapping[int, str] | None = None) -> Supervoxels:
    """Return the regions of the user's own label map; 0 is none of them.

    Args:
        atlas: whole numbers, on the scan's grid.
        scan: what is explained.
        names: of labels.

    Raises:
        GridMismatch: the atlas is on another grid.
        InputError: its values are not whole numbers from 0, or it has several channels.
        EmptyRegion: every label is 0.
    """
    scan.require_same_grid(atlas, "the atlas")
    labels = np.rint(atlas.voxels[0]).astype(np.int64)
    if atlas.voxels.shape[0] != 1 or not np.array_equal(labels, atlas.voxels[0]):
        raise InputError(
            f"an atlas with {atlas.voxels.shape[0]} channels, values from {atlas.voxels.min():g} to "
            f"{atlas.voxels.max():g}: expected one channel of whole numbers; an interpolated atlas must be resampled "
            "again with nearest neighbours"
        )
    return label_supervoxels(labels, scan.grid, "atlas", names)


def shell_supervoxels(region: Region, edges_mm: Sequence[float] = (3.0, 6.0, 12.0, 24.0)) -> Supervoxels:
    """Return the region and the shells around it, up to given distances, and the rest of the scan.

    A handful of regions that answer how far a measurement looks, and few enough for exact Shapley values.

    Args:
        region: the innermost.
        edges_mm: outer edges of the shells, rising; one that holds no voxel is left out.

    Raises:
        ConfigError: the edges are not positive and rising.
    """
    from scipy import ndimage  # slow to import, and only needed here

    edges = list(edges_mm)
    if not edges or min(edges) <= 0 or edges != sorted(set(edges)):
        raise ConfigError(f"shells up to {edges} mm: expected rising positive distances, such as 3, 6, 12, 24")
    distance = ndimage.distance_transform_edt(~region.mask, sampling=region.grid.spacing_mm)
    labels = np.where(region.mask, 1, 2 + np.searchsorted(edges, distance))
    bounds = [0.0, *edges]
    names = {1: region.name, len(edges) + 2: f"beyond {edges[-1]:g} mm"}
    names |= {n + 2: f"{low:g} to {high:g} mm" for n, (low, high) in enumerate(pairwise(bounds))}
    listed = ", ".join(f"{edge:g}" for edge in edges)
    return label_supervoxels(labels.astype(np.int64), region.grid, f"shells up to {listed} mm", names)


def windows(
    shape: tuple[int, int, int], size: tuple[int, int, int], step: tuple[int, int, int], within: Box
) -> dict[int, Box]:
    """Return where a window that slides over a volume touches a box of it, by number, counted from 1 over the volume.

    The first axis runs fastest; the last stop along an axis ends at the volume's border.
    """
    stops = [
        [(low, min(low + window, length)) for low in range(0, max(0, length - window) + step_, step_)]
        for length, window, step_ in zip(shape, size, step, strict=True)
    ]
    touching = [
        [n for n, (low, high) in enumerate(axis) if low < within.stop[a] and high > within.start[a]]
        for a, axis in enumerate(stops)
    ]
    found = {}
    for k, j, i in product(*reversed(touching)):
        (a, b), (c, d), (e, f) = stops[0][i], stops[1][j], stops[2][k]
        found[1 + i + len(stops[0]) * (j + len(stops[1]) * k)] = Box((a, c, e), (b, d, f))
    return found


def _require_positive(what: str, number: float) -> None:
    if not number > 0:
        raise ConfigError(f"{what} is {number}: expected a positive number")
