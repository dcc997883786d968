"""Where one scan's patient space lies in another's: a 4x4 matrix in RAS+ millimetres, and where it came from."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from medinterp.errors import InputError
from medinterp.volume.grid import Grid
from medinterp.volume.provenance import Step


@dataclass(frozen=True, eq=False)
class Transform:
    """The affine map from points of a reference scan to the same anatomy's points in another scan, RAS+ mm.

    This is the direction in which images are interpolated. Moving a scan is putting its *grid* elsewhere
    (``place``): no voxel is touched, so however many transforms are composed, the image is interpolated once.

    Args:
        matrix: 4x4, from reference to scan; copied and made read-only.
        step: how it was found, for the provenance of what it is used for.

    Raises:
        InputError: the matrix is not an invertible affine map, or mirrors.
    """

    matrix: Float64[np.ndarray, "4 4"]
    step: Step = field(default_factory=lambda: Step("same patient space"))

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
            raise InputError(
                f"a transform of shape {matrix.shape}: expected a finite 4x4 matrix with last row 0 0 0 1, in mm"
            )
        volume = float(np.linalg.det(matrix[:3, :3]))
        if volume < 1e-3:
            raise InputError(
                f"a transform that multiplies volumes by {volume:.3g}: it mirrors or flattens, which no registration "
                "of two scans of one person does; check the matrix"
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    def __call__(self, points_mm: Float64[np.ndarray, "*points 3"]) -> Float64[np.ndarray, "*points 3"]:
        """Map points of the reference (RAS mm) to the scan's."""
        return np.asarray(points_mm, dtype=np.float64) @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def inverse(self) -> "Transform":
        """Return the map from the scan to the reference."""
        return Transform(np.linalg.inv(self.matrix), Step("inverse", {"of": self.step.name, **self.step.parameters}))

    def then(self, other: "Transform") -> "Transform":
        """Return the map that goes through this one first; nothing is interpolated in between."""
        parameters = {"first": dict(self.step.parameters), "then": dict(other.step.parameters)}
        return Transform(other.matrix @ self.matrix, Step(f"{self.step.name}, {other.step.name}", parameters))

    def place(self, grid: Grid, frame_uid: str | None = None) -> Grid:
        """Return a grid of the scan as it lies in the reference's patient space; the voxels stay as they are.

        Args:
            grid: of the scan, in its own space.
            frame_uid: DICOM frame of the reference.
        """
        return Grid(grid.shape, np.linalg.inv(self.matrix) @ grid.affine, frame_uid)

    @property
    def angle_deg(self) -> float:
        """How far the scan is turned, in degrees; of an affine map the nearest rotation's angle."""
        left, _, right = np.linalg.svd(self.matrix[:3, :3])
        cosine = (float(np.trace(left @ right)) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))

    def distance_mm(
        self, other: "Transform", points_mm: Float64[np.ndarray, "points 3"]
    ) -> Float64[np.ndarray, " points"]:
        """Return how far apart two transforms put each point, in mm."""
        return np.asarray(np.linalg.norm(self(points_mm) - other(points_mm), axis=-1))
