"""Targets as users write them, "sphere:X,Y,Z,R", "voxel:X,Y,Z", a mask file or "auto": text to a region locator."""

import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from medinterp import io
from medinterp.assessment.structure import MostStructuredRemoval
from medinterp.errors import ConfigError, InputError
from medinterp.volume import Region, Volume, region_from_mask, sphere, voxel

AUTO = "auto"
AUTO_RADIUS_MM = 5.0
Locator = Callable[[Volume, Volume | None], Region]
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(rf"\s*{_NUMBER}\s*(?:,\s*{_NUMBER}\s*)*")
_SHAPES = ("sphere", "voxel")


def parse_target(text: str) -> Locator:
    """Turn the text of a target into a function that finds its region on a scan; a mask file is read here.

    Raises:
        ConfigError: the text is none of the known forms.
        InputError: the mask file cannot be read.
    """
    kind, _, rest = text.partition(":")
    numbers = [float(n) for n in rest.split(",")] if _NUMBERS.fullmatch(rest) else []
    numbers = numbers if all(map(math.isfinite, numbers)) else []
    if kind == "sphere" and len(numbers) == 4:
        return partial(_locate_sphere, (numbers[0], numbers[1], numbers[2]), numbers[3])
    if kind == "voxel" and len(numbers) == 3:
        return partial(_locate_voxel, (numbers[0], numbers[1], numbers[2]))
    if text == AUTO:
        return MostStructuredRemoval(AUTO_RADIUS_MM)
    if kind in _SHAPES:
        raise ConfigError(f"target '{text}': expected sphere:X,Y,Z,R or voxel:X,Y,Z with numbers in RAS mm")
    if not os.path.exists(text):
        raise ConfigError("the target is neither sphere:X,Y,Z,R, voxel:X,Y,Z, auto nor an existing mask file")
    return partial(_locate_mask, _read_mask(Path(text)))


def _read_mask(path: Path) -> Volume:
    """Read a mask file; an error says that it is about the mask, not about the scan."""
    try:
        return io.read(path)
    except InputError as error:
        raise type(error)(f"the mask: {error}") from error


def without_path(text: str) -> str:
    """Return the text of a target as a record may keep it: a mask file's name may hold patient data."""
    return text if text == AUTO or text.partition(":")[0] in _SHAPES else "mask file"


def _locate_sphere(
    centre_mm: tuple[float, float, float], radius_mm: float, scan: Volume, _removed: Volume | None
) -> Region:
    return sphere(scan.grid, centre_mm, radius_mm)


def _locate_voxel(point_mm: tuple[float, float, float], scan: Volume, _removed: Volume | None) -> Region:
    return voxel(scan.grid, point_mm)


def _locate_mask(mask: Volume, scan: Volume, _removed: Volume | None) -> Region:
    return region_from_mask(mask, scan)
