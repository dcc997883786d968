"""What a file is known to show: values at places in mm, and the judgement of what any reader made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float64, Num
from pydicom.dataset import Dataset

_ON_A_VOXEL = 0.05  # voxels; jitter that readers may accept moves a slice by less
_SAME_VALUE = 1e-4  # of the largest value: readers that resample change random values by far more


class Verdict(Enum):
    """What a reader made of a file whose content is known."""

    RIGHT = "right"
    NOTED = "right, with a note"
    REFUSED = "refused"
    PART = "one of several, unasked"
    CHANGED = "changed, with a warning"
    WRONG = "WRONG, silently"


@dataclass(frozen=True, eq=False)
class Shown:
    """A volume that a reader returned: its voxels and where they are, RAS mm."""

    voxels: Num[np.ndarray, "I J K"]
    affine: Float64[np.ndarray, "4 4"]


@dataclass(frozen=True, eq=False)
class Points:
    """One volume's known content.

    Args:
        places_mm: voxel centres, RAS.
        values: there, in the scan's unit.
        padded: further voxels that a reader may return, of unknown value.
        optional: whether a reader may leave it out.
    """

    places_mm: Float64[np.ndarray, "N 3"]
    values: Float64[np.ndarray, " N"]
    padded: int = 0
    optional: bool = False

    def shown_by(self, shown: Shown, *, filled: bool) -> bool:
        """Tell whether a volume has each value in its place, and no voxel more unless it may be filled up."""
        if shown.voxels.ndim != 3 or abs(np.linalg.det(shown.affine)) < 1e-12:
            return False
        if shown.voxels.size != len(self.values) + self.padded and not filled:
            return False
        there = np.linalg.solve(shown.affine, np.c_[self.places_mm, np.ones(len(self.places_mm))].T)[:3].T
        index = np.rint(there).astype(int)
        inside = (index >= 0).all(axis=1) & (index < shown.voxels.shape).all(axis=1)
        if not inside.all() or np.abs(there - index).max() > _ON_A_VOXEL:
            return False
        found = shown.voxels[tuple(index.T)].astype(np.float64)
        return bool(np.abs(found - self.values).max() <= _SAME_VALUE * np.abs(self.values).max())


def points_of_grid(voxels: Num[np.ndarray, "I J K"], affine: Float64[np.ndarray, "4 4"]) -> Points:
    """Return the content of a regular volume."""
    index = np.stack(np.meshgrid(*map(np.arange, voxels.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    return Points(index @ affine[:3, :3].T + affine[:3, 3], voxels.reshape(-1).astype(np.float64))


def points_of_slices(slices: Sequence[Dataset]) -> Points:
    """Return the content of classic DICOM images by the standard's equation for each, without any grid.

    Source:
        DICOM PS3.3, C.7.6.2.1.1, equation C.7.6.2.1-1.
    """
    places, values = [], []
    for one in slices:
        pixels = np.frombuffer(one.PixelData, "<i2" if one.PixelRepresentation else "<u2").reshape(
            one.Rows, one.Columns
        )
        rows, columns = np.meshgrid(np.arange(one.Rows), np.arange(one.Columns), indexing="ij")
        cosines, spacing = np.array(one.ImageOrientationPatient, float), np.array(one.PixelSpacing, float)
        along = columns[..., None] * spacing[1] * cosines[:3] + rows[..., None] * spacing[0] * cosines[3:]
        lps = np.array(one.ImagePositionPatient, float) + along
        places.append((lps * (-1, -1, 1)).reshape(-1, 3))
        values.append((pixels * float(one.RescaleSlope) + float(one.RescaleIntercept)).reshape(-1))
    return Points(np.concatenate(places), np.concatenate(values))


def judge(shown: Sequence[Shown], truths: Sequence[Points], *, said: bool) -> Verdict:
    """Return what a reader made of a file.

    Args:
        shown: the volumes that it returned, none where it refused.
        truths: the volumes that the file holds; none where it holds no volume that could be shown.
        said: whether it warned or noted anything.
    """
    if not shown:
        return Verdict.REFUSED
    seen = [next((n for n, truth in enumerate(truths) if truth.shown_by(one, filled=said)), None) for one in shown]
    if None in seen:
        return Verdict.CHANGED if said else Verdict.WRONG
    if any(not truth.optional and n not in seen for n, truth in enumerate(truths)):
        return Verdict.CHANGED if said else Verdict.PART
    return Verdict.NOTED if said else Verdict.RIGHT
