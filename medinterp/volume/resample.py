"""Bringing a volume onto another grid: one interpolation, asked for by name and written into its provenance."""

from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64

from medinterp.volume.grid import Grid
from medinterp.volume.provenance import Step
from medinterp.volume.volume import Volume

Method = Literal["linear", "nearest"]
_ROUNDING = 1e-5  # of a voxel: a point this far beyond the last voxel centre is on it


def resample(volume: Volume, grid: Grid, *, outside: float, method: Method = "linear") -> Volume:
    """Return a volume interpolated once at the voxel centres of another grid.

    Both grids must describe the same patient space: nothing is registered. A volume that is on the grid already (within
    1e-3 mm at the corners) comes back as it is. Going to a coarser grid does not average: fine detail aliases.

    Args:
        volume: what to resample, any number of channels.
        grid: where the result lies.
        outside: value, in the volume's unit, where the volume has nothing: beyond the outermost voxel centres for
            "linear", beyond the outermost voxels' faces for "nearest".
        method: "linear" (trilinear) or "nearest" (for masks and labels).
    """
    if volume.grid.mismatch(grid) is None:
        return volume
    voxels = np.empty((volume.voxels.shape[0], *grid.shape), dtype=np.float32)
    for i in range(grid.shape[0]):  # plane by plane, so that the coordinates need little memory
        voxels[:, i] = _plane(volume, _index_of_plane(volume.grid, grid, i), outside, method)
    parameters = {
        "method": method,
        "outside": outside,
        "from_shape": volume.grid.shape,
        "from_affine": volume.grid.affine.tolist(),
        "to_shape": grid.shape,
        "to_affine": grid.affine.tolist(),
        "same_frame_of_reference": _same_frame(volume.grid, grid),
    }
    provenance = volume.provenance.then(Step("resample", parameters))
    return Volume(voxels, grid, volume.unit, volume.modality, provenance)


def _index_of_plane(source: Grid, target: Grid, i: int) -> Float64[np.ndarray, "J K 3"]:
    """Return the source's continuous indices of the target's voxels of index ``i`` along I."""
    j, k = np.meshgrid(np.arange(target.shape[1]), np.arange(target.shape[2]), indexing="ij")
    return source.to_index(target.to_world(np.stack([np.full_like(j, i), j, k], axis=-1)))


def _plane(
    volume: Volume, index: Float64[np.ndarray, "J K 3"], outside: float, method: Method
) -> Float32[np.ndarray, "C J K"]:
    from scipy import ndimage  # slow to import, and reading scans must stay fast

    last = np.array(volume.grid.shape) - 1
    reach = _ROUNDING if method == "linear" else 0.5 + _ROUNDING
    inside = ((index >= -reach) & (index <= last + reach)).all(axis=-1)
    clipped = np.moveaxis(np.clip(index, 0, last), -1, 0)
    order = 1 if method == "linear" else 0
    planes = [ndimage.map_coordinates(channel, clipped, order=order, mode="nearest") for channel in volume.voxels]
    return np.where(inside, np.stack(planes), np.float32(outside))


def _same_frame(one: Grid, other: Grid) -> str:
    """Say whether the frames of reference agree; positions of different ones have nothing to do with each other."""
    if one.frame_uid is None or other.frame_uid is None:
        return "unknown"
    return "yes" if one.frame_uid == other.frame_uid else "no"
