"""What volume files leave open, unlike DICOM: which of several volumes, and which modality and unit."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from medinterp.errors import InputError

HU_BELOW = -200  # magnitudes never reach it, and every CT with some air or lung does
HU_RANGE = (-1100, 3100)  # air minus noise to dense bone and contrast; beyond are metal and padding
HU_SHARE = 0.9
AIR_SHARE = 0.01
_MODALITY = re.compile(r"[A-Z0-9]{1,16}")  # a DICOM code string
_UNIT = re.compile(r"[^\x00-\x1f<>&]{1,16}")  # what fits a legend; anything longer is no unit


def frame_index(count: int, frame: int | None, what: str) -> int | None:
    """Return which volume to read of a file of several, None of a file of one.

    Raises:
        InputError: several and none chosen, or one that is not there.
    """
    if frame is None and count > 1:
        raise InputError(
            f"a {what} file of {count} volumes: choose one with --frame 0 to {count - 1} (frame= in Python)"
        )
    if frame is not None and not 0 <= frame < count:
        raise InputError(f"frame {frame}: the file holds {count} volume(s), numbered from 0")
    return frame if count > 1 else None


def kind_of(voxels: Float32[np.ndarray, "I J K"], stated: Mapping[str, Any], by: str) -> tuple[str, str, str]:
    """Return modality, unit, and how they were told.

    Args:
        voxels: their values decide where nothing is stated.
        stated: "Modality" and "Unit" (or "Units"), as far as they are.
        by: who states them.
    """
    modality, unit = stated.get("Modality"), stated.get("Unit", stated.get("Units"))
    if isinstance(modality, str) and _MODALITY.fullmatch(modality):
        usual = "HU" if modality == "CT" else "a.u."
        known = isinstance(unit, str) and _UNIT.fullmatch(unit)
        return modality, str(unit) if known else usual, f"modality as {by} states it"
    if _looks_like_hu(voxels):
        return "CT", "HU", "taken as CT in HU: values reach below -200 and lie where HU do"
    return "MR", "a.u.", "taken as MR: the file does not state the modality and the values do not look like HU"


def _looks_like_hu(voxels: Float32[np.ndarray, "I J K"]) -> bool:
    lowest = voxels.min()
    if not lowest < HU_BELOW:
        return False
    air = (voxels >= HU_RANGE[0]) & (voxels < HU_BELOW)
    usual = (voxels >= HU_RANGE[0]) & (voxels <= HU_RANGE[1]) | (voxels == lowest)
    return bool(air.mean() >= AIR_SHARE and usual.mean() >= HU_SHARE)
