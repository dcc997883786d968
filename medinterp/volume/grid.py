"""Where voxels are: a regular lattice in patient space, RAS+ millimetres."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from medinterp.errors import InputError

TOLERANCE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxel centres in patient space; shear is allowed (gantry tilt).

    Args:
        shape: voxels along the file's own index axes I, J, K.
        affine: 4x4 map from voxel index to RAS+ millimetres, float64; copied and made read-only.
        frame_uid: DICOM frame of reference, when known. Two grids with different frames can still be compared.

    Raises:
        InputError: the shape is not three positive numbers, or the affine is not an invertible affine map.
    """

    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]
    frame_uid: str | None = None

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"grid shape {self.shape}: expected three positive numbers of voxels")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise InputError(
                "the affine is not a finite 4x4 matrix with last row 0 0 0 1; check the file's orientation"
            )
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise InputError("the affine is singular: two voxel axes point the same way, or a spacing is zero")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxel centres along I, J and K."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def is_orthogonal(self) -> bool:
        """Whether the three voxel axes are perpendicular within 1e-4 (no gantry tilt)."""
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return bool(np.abs(axes.T @ axes - np.eye(3)).max() < 1e-4)

    def to_world(self, index: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
        """Map voxel indices (..., 3) to RAS+ mm (..., 3)."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, point_mm: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
        """Map RAS+ mm (..., 3) to continuous voxel indices (..., 3)."""
        offset = np.asarray(point_mm, dtype=np.float64) - self.affine[:3, 3]
        return offset @ np.linalg.inv(self.affine[:3, :3]).T

    def corners(self) -> NDArray[np.float64]:
        """Return the RAS+ mm of the eight corner voxels' centres, shape (8, 3)."""
        return self.to_world(list(self._corner_indices()))

    def _corner_indices(self) -> Iterator[tuple[int, ...]]:
        return product(*((0, n - 1) for n in self.shape))

    def mismatch(self, other: "Grid", tol_mm: float = TOLERANCE_MM) -> str | None:
        """Say why two grids differ, in mm at the corners; None when they are the same within ``tol_mm``."""
        distance = float(np.linalg.norm(self.corners() - other.corners(), axis=1).max())
        if self.shape != other.shape:
            return f"{self.shape} voxels against {other.shape}, corners up to {distance:.3g} mm apart"
        return f"corners up to {distance:.3g} mm apart" if distance > tol_mm else None

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Grid":
        """Return the grid of the box of ``shape`` voxels that begins at voxel ``start``."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(start)
        return Grid(shape, affine, self.frame_uid)
