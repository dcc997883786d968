"""Regions of a grid: what a target measures, given in millimetres or as a mask."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from medinterp.errors import EmptyRegion, InputError
from medinterp.volume.grid import Grid
from medinterp.volume.volume import Volume


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
    """Return the voxels whose centres lie within ``radius_mm`` of ``centre_mm`` (RAS mm)."""
    if radius_mm <= 0:
        raise InputError(f"a sphere of radius {radius_mm} mm: expected a positive radius")
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    inside = np.linalg.norm(grid.to_world(index) - np.asarray(centre_mm), axis=-1) <= radius_mm
    return Region(inside, grid, "sphere")


def voxel(grid: Grid, point_mm: tuple[float, float, float]) -> Region:
    """Return the one voxel nearest to a point (RAS mm); outside the scan is an error."""
    index = np.rint(grid.to_index(point_mm)).astype(int)
    if (index < 0).any() or (index >= grid.shape).any():
        raise EmptyRegion(f"the point {tuple(point_mm)} mm (RAS) lies outside the scan, at voxel {index.tolist()}")
    mask = np.zeros(grid.shape, dtype=bool)
    mask[tuple(index)] = True
    return Region(mask, grid, "voxel")


def region_from_mask(mask: Volume, scan: Volume, name: str = "mask") -> Region:
    """Return the voxels where a mask volume is above 0.5; it must be on the scan's grid.

    Raises:
        GridMismatch: the mask is on another grid.
        EmptyRegion: the mask is empty.
    """
    scan.require_same_grid(mask, "the mask")
    return Region(mask.voxels[0] > 0.5, scan.grid, name)


def ring(region: Region, *, gap_mm: float, width_mm: float) -> Region:
    """Return the shell around a region, from ``gap_mm`` to ``gap_mm + width_mm`` outside its border voxels."""
    from scipy import ndimage  # slow to import, and describing scans must stay fast

    distance = ndimage.distance_transform_edt(~region.mask, sampling=region.grid.spacing_mm)
    return Region((distance > gap_mm) & (distance <= gap_mm + width_mm), region.grid, f"{region.name}-ring")
