"""Known motion: scans put elsewhere in space by changing their affine, so that no voxel is interpolated."""

import numpy as np
from jaxtyping import Float64

from medinterp.volume import Grid, Step, Transform, Volume


def rotation_about(axis: Float64[np.ndarray, "3"], degrees: float) -> Float64[np.ndarray, "3 3"]:
    """Return the rotation about an axis (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def random_motion(
    degrees: float, shift_mm: float, centre_mm: Float64[np.ndarray, "3"], generator: np.random.Generator
) -> Transform:
    """Return a rigid motion of this size about a random axis through a centre, and in a random direction."""
    axis, direction = (v / np.linalg.norm(v) for v in generator.normal(size=(2, 3)))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_about(axis, degrees)
    matrix[:3, 3] = centre_mm - matrix[:3, :3] @ centre_mm + shift_mm * direction
    return Transform(matrix, Step("known motion", {"degrees": degrees, "shift_mm": shift_mm}))


def move(scan: Volume, motion: Transform) -> Volume:
    """Return the scan as if the patient had moved: the same voxels at other places, in a frame of their own."""
    grid = Grid(scan.grid.shape, motion.matrix @ scan.grid.affine)
    step = Step("moved", {"matrix_ras_mm": motion.matrix.tolist()})
    return Volume(scan.voxels, grid, scan.unit, scan.modality, scan.provenance.then(step))
