"""Parallel DICOM planes become volumes on one grid: repeats dropped, time points told apart, faults collected."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from medinterp.io.dicom_geometry import CONVERT, by_position, lay_out, plane_faults
from medinterp.io.dicom_headers import SPLITTERS, Plane
from medinterp.io.dicom_pixels import same_pixels
from medinterp.io.source_files import short_hash

SHOWN_SPLITTERS = ("EffectiveEchoTime", "EchoTime", "DiffusionBValue", "InversionTime", "FlipAngle")
Places = list[list[Plane]]  # the planes at each position, positions ascending along row x column


@dataclass(frozen=True, eq=False)
class Series:
    """Parallel planes of one DICOM series, arranged into volumes.

    Args:
        frames: one tuple of planes in K order for each volume (time point, echo); one for a plain scan.
        labels: what tells the volumes apart, in their order.
        affine: RAS+ map of the shared grid, None where problems forbid one.
        uid: series instance UID; never shown.
        planes: every plane found, as found.
    """

    frames: tuple[tuple[Plane, ...], ...]
    labels: tuple[str, ...]
    affine: Any
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    uid: str
    planes: tuple[Plane, ...]

    @property
    def identity(self) -> str:
        """Eight hex digits that stand for the series UID."""
        return short_hash(self.uid)

    @property
    def number(self) -> int | None:
        """Series Number as the scanner gave it."""
        number: int | None = self.planes[0].facts["SeriesNumber"]
        return number

    @property
    def unit(self) -> str:
        """Unit of the rescaled values."""
        facts, modality = self.planes[0].facts, self.planes[0].modality
        if modality == "CT":
            return "HU" if (facts["RescaleType"] or "HU").upper() in ("HU", "US") else "a.u."
        return "a.u." if modality == "MR" else str(facts["Units"] or "a.u.")


def arrange(uid: str, planes: Sequence[Plane], notes: Sequence[str]) -> Series:
    """Arrange one stack into volumes on one grid, or collect the reasons why not."""
    faults = _kind_faults(planes) + plane_faults(planes)
    if faults:
        return Series((), (), None, tuple(notes), tuple(faults), uid, tuple(planes))
    places, repeats = _without_repeats(by_position(planes))
    split = _split(places)
    if split is None:
        places, more = _without_same_pixels(places)
        repeats += more
        split = _split(places)
    layout = lay_out([place[0] for place in places])
    found = [*notes, *layout.notes]
    if repeats:
        found.append(f"{repeats} slice(s) found twice with the same pixels: used once")
    if split is None:
        problems = (_crowded(places), *layout.problems)
        return Series((), (), None, tuple(found), problems, uid, tuple(planes))
    frames = tuple(split.values()) if not layout.problems else ()
    return Series(frames, tuple(split), layout.affine, tuple(found), layout.problems, uid, tuple(planes))


def _kind_faults(planes: Sequence[Plane]) -> list[str]:
    faults: list[str] = []
    words = {word for plane in planes for word in plane.image_type}
    if "MOSAIC" in words:
        faults.append(f"Siemens mosaic images (many slices tiled in one): {CONVERT}")
    if "LOCALIZER" in words:
        faults.append("only localizer images")
    if any("ModalityLUTSequence" in plane.header for plane in planes):
        faults.append("a modality look-up table instead of slope and intercept is not read: convert with dcm2niix")
    if not all(np.isfinite(plane.slope) and np.isfinite(plane.intercept) and plane.slope != 0 for plane in planes):
        faults.append("a rescale slope of zero, or one that is not finite")
    return faults


def _without_repeats(places: Places) -> tuple[Places, int]:
    """Drop second copies of one instance, told by its UID and its pixels."""
    return _filtered(places, lambda one, other: _instance(one) == _instance(other) and same_pixels(one, other))


def _without_same_pixels(places: Places) -> tuple[Places, int]:
    """Drop planes that lie at the same place and hold the same pixels under another UID."""
    return _filtered(places, same_pixels)


def _filtered(places: Places, same: Callable[[Plane, Plane], bool]) -> tuple[Places, int]:
    kept: Places = []
    for place in places:
        unique: list[Plane] = []
        for plane in place:
            if not any(same(plane, other) for other in unique):
                unique.append(plane)
        kept.append(unique)
    return kept, sum(map(len, places)) - sum(map(len, kept))


def _instance(plane: Plane) -> tuple[str, int]:
    return str(plane.facts["SOPInstanceUID"]), plane.frame


def _split(places: Places) -> Mapping[str, tuple[Plane, ...]] | None:
    """Split a stack with several planes at each place into whole volumes; None when nothing splits it cleanly."""
    count = len(places[0])
    if count == 1 and all(len(place) == 1 for place in places):
        return {"": tuple(place[0] for place in places)}
    if any(len(place) != count for place in places):
        return None
    for _, keyword in SPLITTERS:
        values = {plane.keys[keyword] for plane in places[0]}
        clean = None not in values and len(values) == count
        if clean and all({plane.keys[keyword] for plane in place} == values for place in places):
            return _volumes(places, keyword, partial(_value, keyword))
    return _split_by_number(places)


def _value(keyword: str, plane: Plane) -> Any:
    return plane.keys[keyword]


def _volumes(places: Places, keyword: str, rank: Callable[[Plane], Any]) -> Mapping[str, tuple[Plane, ...]]:
    """Name each volume by what sets it apart; times of day and free text are not shown, only counted."""
    volumes = {}
    for index, members in enumerate(zip(*(sorted(place, key=rank) for place in places), strict=True)):
        value = members[0].keys.get(keyword)
        shown = f"{keyword} {value:g}" if keyword in SHOWN_SPLITTERS and isinstance(value, float) else keyword
        volumes[f"frame {index} ({shown})"] = tuple(members)
    return volumes


def _split_by_number(places: Places) -> Mapping[str, tuple[Plane, ...]] | None:
    """Split by Instance Number where it runs through whole volumes, or through all volumes of each slice."""
    planes = [plane for place in places for plane in place]
    numbers = [plane.instance for plane in planes]
    if None in numbers or len(set(numbers)) < len(planes):
        return None
    home = {id(plane): index for index, place in enumerate(places) for plane in place}
    walk = [home[id(plane)] for plane in sorted(planes, key=lambda plane: plane.instance or 0)]
    slices, count = len(places), len(places[0])
    by_volume = all(len(set(walk[t * slices : (t + 1) * slices])) == slices for t in range(count))
    by_slice = all(len(set(walk[k * count : (k + 1) * count])) == 1 for k in range(slices))
    if not (by_volume or by_slice):
        return None
    return _volumes(places, "InstanceNumber", lambda plane: plane.instance)


def _crowded(places: Places) -> str:
    """Say where planes compete for one place, or where a volume lacks a plane."""
    counts = Counter(map(len, places))
    usual = min(counts, key=lambda count: (-counts[count], count))
    odd = next((place for place in places if len(place) != usual), places[0])
    x, y, z = np.asarray(odd[0].position) * (-1, -1, 1)
    where = f"at RAS {x:.1f}, {y:.1f}, {z:.1f} mm"
    if len(odd) < usual:
        return f"only {len(odd)} of {usual} images {where}: a slice of a time point or echo is missing"
    return (
        f"{len(odd)} slices with different pixels at the same position ({where}) and nothing in the headers tells "
        "which belong together; keep one of them in the folder"
    )
