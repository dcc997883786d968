"""Regions of a grid: what a target measures, given in millimetres or as a mask."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from medinterp.errors import EmptyRegion, InputError
from medinterp.volume.grid import Grid
from medinterp.volume.volume import Volume

TOLERANCE_MM = 1e-4
"""Spacings in files are rounded (1.00000001 mm): a voxel at a limit must not change sides for it."""


@dataclass(frozen=True, eq=False)
class Region:
    """A set of voxels of one grid.

    Args:
        mask: True inside, (I, J, K).
        grid: the grid the mask is on.
        name: what to call it in tables and file names; free of patient data.
    """

    mask: Bool[np.ndarray, "I J K"]
    grid: Grid
    name: str

    def __post_init__(self) -> None:
        if self.mask.shape != self.grid.shape:
            raise InputError(f"a region mask of shape {self.mask.shape} on a grid of {self.grid.shape}")
        if not self.mask.any():
            raise EmptyRegion(f"region '{self.name}' holds no voxel of the scan; check its position in RAS mm")

    @property
    def centre_mm(self) -> tuple[float, float, float]:
        """Mean position of the voxels, RAS mm."""
        x, y, z = self.grid.to_world(np.argwhere(self.mask).mean(axis=0))
        return float(x), float(y), float(z)


def sphere(grid: Grid, centre_mm: tuple[float, float, float], radius_mm: float) -> Region:
    """Return the voxels whose centres lie within ``radius_mm`` of ``centre_mm`` (RAS mm).

    Raises:
        InputError: the radius is not positive.
        EmptyRegion: no voxel centre lies that close.
    """
    if radius_mm <= 0:
        raise InputError(f"a sphere of radius {radius_mm} mm: expected a positive radius")
    centre = np.asarray(centre_mm, dtype=np.float64)
    reach = radius_mm * np.linalg.norm(np.linalg.inv(grid.affine)[:3, :3], axis=1)  # of a sphere, in voxels by axis
    middle = grid.to_index(centre)
    low = np.clip(np.floor(middle - reach), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(middle + reach) + 1, low, grid.shape).astype(int)
    mask = np.zeros(grid.shape, dtype=bool)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    mask[inside] = _distances(grid, centre, low, high) <= radius_mm + TOLERANCE_MM
    if not mask.any():
        nearest = _distances(grid, centre, np.zeros(3, dtype=int), np.asarray(grid.shape)).min()
        raise EmptyRegion(
            f"the sphere of {radius_mm:g} mm around {tuple(centre_mm)} mm (RAS) holds no voxel: the nearest one is "
            f"{nearest:.4g} mm from its centre; check the position, or take a larger radius"
        )
    return Region(mask, grid, "sphere")


def _distances(grid: Grid, centre_mm: np.ndarray, low: np.ndarray, high: np.ndarray) -> Float[np.ndarray, "I J K"]:
    """Return how far the voxels from index ``low`` up to ``high`` lie from a point, mm."""
    index = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1)
    distance: np.ndarray = np.linalg.norm(grid.to_world(index) - centre_mm, axis=-1)
    return distance


def voxel(grid: Grid, point_mm: tuple[float, float, float]) -> Region:
    """Return the one voxel nearest to a point (RAS mm); outside the scan is an error."""
    index = np.rint(grid.to_index(point_mm))
    if (index < 0).any() or (index >= grid.shape).any():
        where = ", ".join(f"{i:g}" for i in index)
        raise EmptyRegion(
            f"the point {tuple(point_mm)} mm (RAS) lies outside the scan, at voxel [{where}] of {grid.shape}"
        )
    mask = np.zeros(grid.shape, dtype=bool)
    mask[tuple(index.astype(int))] = True
    return Region(mask, grid, "voxel")


def region_from_mask(mask: Volume, scan: Volume, name: str = "mask") -> Region:
    """Return the voxels where a mask volume is above half: of one for probabilities, of its label for a label.

    Raises:
        GridMismatch: the mask is on another grid.
        InputError: it holds several labels, or values that are neither labels nor probabilities.
        EmptyRegion: the mask is empty.
    """
    scan.require_same_grid(mask, "the mask")
    values = mask.voxels[0]
    low, high = float(values.min()), float(values.max())
    if high == 0 and low == 0:
        raise EmptyRegion("the mask is zero everywhere; it must hold the region as one value above zero")
    labels = bool(((values == 0) | (values == high)).all()) and high > 0
    if not labels and not (low >= 0 and high <= 1):
        raise InputError(
            f"the mask holds values from {low:g} to {high:g}: expected zero outside and one value inside, or "
            "probabilities from 0 to 1; take one label out of a label map first"
        )
    inside = values > (0 if labels else 0.5)
    if not inside.any():
        raise EmptyRegion(f"the mask's probabilities reach only {high:g}: no voxel is above 0.5")
    return Region(inside, scan.grid, name)


def ring(region: Region, *, gap_mm: float, width_mm: float) -> Region:
    """Return the shell around a region, from ``gap_mm`` to ``gap_mm + width_mm`` outside its border voxels.

    Raises:
        EmptyRegion: the scan ends before the shell begins.
    """
    from scipy import ndimage  # slow to import, and describing scans must stay fast

    distance = ndimage.distance_transform_edt(~region.mask, sampling=region.grid.spacing_mm)
    around = (distance > gap_mm + TOLERANCE_MM) & (distance <= gap_mm + width_mm + TOLERANCE_MM)
    if not around.any():
        raise EmptyRegion(
            f"nothing of the scan lies {gap_mm:g} to {gap_mm + width_mm:g} mm around region '{region.name}', so there "
            "is no surrounding to compare it with; take a smaller region, or measure its mean"
        )
    return Region(around, region.grid, f"{region.name}-ring")
