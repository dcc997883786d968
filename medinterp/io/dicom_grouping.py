"""Which series a DICOM folder holds, which slices each has, and what is wrong with them; headers only."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medinterp.io.dicom_arrange import Series, arrange
from medinterp.io.dicom_geometry import ORIENTATION_TOLERANCE
from medinterp.io.dicom_headers import Plane, UnreadableHeader, planes_of, read_header, why_not_a_scan
from medinterp.io.source_files import has_dicom_preamble, is_volume_file, list_files, unreadable


@dataclass(frozen=True, eq=False)
class Holdings:
    """What the DICOM files of a folder hold; problems here concern the folder as a whole."""

    series: tuple[Series, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def scan_files(path: Path, *, force: bool) -> Holdings:
    """Read the headers of one file or of a whole folder and sort them into series.

    Files without DICOM preamble are passed over unless ``force``; other objects than CT, MR and PET images too.
    """
    notes: list[str] = []
    problems: list[str] = []
    files: Sequence[Path] = (path,)
    if path.is_dir():
        listing = list_files(path)
        files, notes = listing.files, list(listing.notes)
    planes: list[Plane] = []
    passed: Counter[str] = Counter()
    for number, file in enumerate(files, start=1):
        if is_volume_file(file):
            continue
        what = f"file {number} of {len(files)} (in name order)" if len(files) > 1 else "the file"
        try:
            planes += _planes_in(file, what, passed, force=force)
        except UnreadableHeader as error:
            problems.append(f"{what}: {error}")
    notes += [f"passed over: {count} x {reason}" for reason, count in sorted(passed.items()) if count]
    return Holdings(tuple(_sorted_series(planes)), tuple(notes), tuple(problems))


def _planes_in(file: Path, what: str, passed: Counter[str], *, force: bool) -> list[Plane]:
    marked = has_dicom_preamble(file, what)
    if not marked and not force:
        passed["file that is not DICOM, or lacks the DICOM preamble (read those with --force)"] += 1
        return []
    try:
        header = read_header(file, force=not marked)
    except OSError as error:
        raise unreadable(error, what) from error
    except UnreadableHeader:
        if marked:
            raise
        header = None
    if header is None:
        passed["file that is not DICOM"] += not marked  # a DICOMDIR is DICOM, and no loss
        return []
    try:
        reason = why_not_a_scan(header)
        found = planes_of(file, header) if reason is None else []
    except OSError as error:
        raise unreadable(error, what) from error
    if reason is not None:
        passed[f"DICOM object that is no CT, MR or PET scan ({reason})"] += 1
    return found


def _sorted_series(planes: Sequence[Plane]) -> list[Series]:
    """Split planes by series, stack and orientation; listing order is series number, then UID."""
    groups: dict[str, list[Plane]] = {}
    for plane in planes:
        groups.setdefault(str(plane.facts["SeriesInstanceUID"]), []).append(plane)
    found = [series for uid, members in groups.items() for series in _series_of(uid, members)]
    return sorted(found, key=lambda one: (one.number is None, one.number or 0, one.uid))  # stable: largest stack first


def _series_of(uid: str, planes: Sequence[Plane]) -> list[Series]:
    kept, notes = _without_localizers(planes)
    stacks: list[list[Plane]] = []
    for plane in kept:
        for stack in stacks:
            if _parallel(plane, stack[0]):
                stack.append(plane)
                break
        else:
            stacks.append([plane])
    return [arrange(uid, stack, notes) for stack in sorted(stacks, key=len, reverse=True)]


def _without_localizers(planes: Sequence[Plane]) -> tuple[list[Plane], list[str]]:
    scans = [plane for plane in planes if "LOCALIZER" not in plane.image_type]
    dropped = len(planes) - len(scans)
    if not scans or not dropped:
        return list(planes), []
    return scans, [f"warning: {dropped} localizer image(s) inside the series left out"]


def _parallel(one: Plane, other: Plane) -> bool:
    """Whether two planes belong to one stack: same stack name, same orientation within 1e-4 in the cosines."""
    if one.stack != other.stack or (one.orientation is None) != (other.orientation is None):
        return False
    return one.orientation is None or bool(
        np.abs(one.orientation - np.asarray(other.orientation)).max() < ORIENTATION_TOLERANCE
    )
