"""Slices of a grid as they hang on the wall: which voxel axis goes where, and the letters at the four sides.

Radiological convention throughout: the patient's right is on the left of axial and coronal pictures, anterior is on
the left of sagittal ones; anterior (axial) or superior is at the top. Slices are the grid's own planes, never
resampled, so on an oblique scan a plane is named for the anatomical plane nearest to it and the letters say the rest.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float64, Shaped

from medinterp.volume import Grid

_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
_NAMES = ("sagittal", "coronal", "axial")
_IN_PLANE = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
_SECOND_LETTER_FROM = 0.26  # sine of 15 degrees: below, a second letter would be noise


@dataclass(frozen=True)
class Plane:
    """One of the three families of slices of a grid.

    Args:
        name: "axial", "coronal" or "sagittal", whichever is nearest.
        normal: voxel axis that counts the slices.
        across: voxel axis that runs to the right.
        down: voxel axis that runs down.
        flip_across: the picture's columns run against the voxel index.
        flip_down: the picture's rows run against the voxel index.
        letters: what lies to the left, right, top and bottom, for example ("R", "L", "A", "P").
        pixel_mm: width and height of one pixel.
    """

    name: str
    normal: int
    across: int
    down: int
    flip_across: bool
    flip_down: bool
    letters: tuple[str, str, str, str]
    pixel_mm: tuple[float, float]

    def cut(self, voxels: Shaped[np.ndarray, "I J K"], index: int) -> Shaped[np.ndarray, "rows columns"]:
        """Return slice ``index`` as a picture: rows from top to bottom, columns from left to right."""
        kept = sorted((self.across, self.down))
        image = np.take(voxels, index, axis=self.normal)
        image = image if kept == [self.down, self.across] else image.T
        return image[:: -1 if self.flip_down else 1, :: -1 if self.flip_across else 1]

    def place(self, index: tuple[int, int, int], shape: tuple[int, int, int]) -> tuple[int, int]:
        """Return the column and the row at which a voxel index lies in a picture of this plane."""
        column, row = index[self.across], index[self.down]
        return (
            shape[self.across] - 1 - column if self.flip_across else column,
            shape[self.down] - 1 - row if self.flip_down else row,
        )


def planes(grid: Grid) -> tuple[Plane, Plane, Plane]:
    """Return the axial, coronal and sagittal planes of a grid, in this order."""
    world_of_axis = world_axes(grid)
    found = {
        _NAMES[world]: _plane(grid, _NAMES[world], axis, world_of_axis) for axis, world in enumerate(world_of_axis)
    }
    return found["axial"], found["coronal"], found["sagittal"]


def own_plane(grid: Grid) -> Plane:
    """Return the plane the scan was taken in: across its coarsest axis, the last axis where two are alike."""
    spacing = np.round(grid.spacing_mm, 3)
    normal = 2 - int(np.argmax(spacing[::-1]))
    return next(plane for plane in planes(grid) if plane.normal == normal)


def world_axes(grid: Grid) -> tuple[int, int, int]:
    """Return for each voxel axis the world axis it follows best (0 left-right, 1 back-front, 2 feet-head)."""
    along = np.abs(_directions(grid))
    i, j, k = max(permutations(range(3)), key=lambda world: float(sum(along[w, axis] for axis, w in enumerate(world))))
    return i, j, k


def orientation(grid: Grid) -> str:
    """Return the letters towards which the three voxel axes run, for example "RAS"."""
    directions = _directions(grid)
    return "".join(_LETTERS[w][int(directions[w, axis] > 0)] for axis, w in enumerate(world_axes(grid)))


def obliqueness_deg(grid: Grid) -> float:
    """Return the largest angle between a voxel axis and the world axis it follows."""
    directions = _directions(grid)
    cosines = [abs(directions[w, axis]) for axis, w in enumerate(world_axes(grid))]
    return float(np.degrees(np.arccos(min(1.0, *cosines))))


def _directions(grid: Grid) -> Float64[np.ndarray, "3 3"]:
    """Return unit vectors along the voxel axes, as columns."""
    matrix: Float64[np.ndarray, "3 3"] = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    return matrix


def _plane(grid: Grid, name: str, normal: int, world_of_axis: tuple[int, int, int]) -> Plane:
    across, down = (world_of_axis.index(world) for world in _IN_PLANE[name])
    directions = _directions(grid)
    # Pictures run from the positive end of the world axis (right, anterior, superior) to the negative one.
    flip_across = bool(directions[world_of_axis[across], across] > 0)
    flip_down = bool(directions[world_of_axis[down], down] > 0)
    rightwards = directions[:, across] * (-1 if flip_across else 1)
    downwards = directions[:, down] * (-1 if flip_down else 1)
    letters = (_side(-rightwards), _side(rightwards), _side(-downwards), _side(downwards))
    pixel_mm = (grid.spacing_mm[across], grid.spacing_mm[down])
    return Plane(name, normal, across, down, flip_across, flip_down, letters, pixel_mm)


def _side(direction: Float64[np.ndarray, "3"]) -> str:
    """Name a direction by its letters, the strongest first, as DICOM does on oblique slices."""
    order = np.argsort(-np.abs(direction))
    named = [w for n, w in enumerate(order) if n == 0 or abs(direction[w]) > _SECOND_LETTER_FROM]
    return "".join(_LETTERS[w][int(direction[w] > 0)] for w in named[:2])
