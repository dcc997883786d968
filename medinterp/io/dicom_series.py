"""Reading a DICOM series, classic or enhanced multi-frame, as one volume: exact, or refused with the reason."""

import logging
from collections.abc import Sequence
from pathlib import Path

from medinterp.errors import InputError, UnsupportedSeries
from medinterp.io.dicom_arrange import Series
from medinterp.io.dicom_grouping import Holdings, scan_files
from medinterp.io.dicom_headers import Plane
from medinterp.io.dicom_pixels import read_values
from medinterp.io.inspect import series_entries
from medinterp.io.source_files import require_path, sha256_of
from medinterp.io.value_range import require_usable_range
from medinterp.volume import Grid, Provenance, Source, Volume

logger = logging.getLogger(__name__)


def read_dicom(path: str | Path, *, series: int | None = None, frame: int | None = None, force: bool = False) -> Volume:
    """Read one DICOM series, in place and in units, or say exactly why it cannot be read without guessing.

    Slices are sorted by position, never by number or name. Voxel axes are I along a row, J down a column, K along
    row x column. CT is in HU. Nothing is resampled.

    Args:
        path: a folder (searched with its subfolders), or one multi-frame file.
        series: which series, as ``inspect`` numbers them from 1; needed when there are several.
        frame: which volume of a time series or multi-echo series, from 0.
        force: also read files without the DICOM preamble.

    Raises:
        UnsupportedSeries: missing or doubled slices, unequal spacing, gantry tilt, several series, ...
        InputError: a file cannot be read, or there is none.
    """
    path = require_path(Path(path))
    return read_holdings(scan_files(path, force=force), series=series, frame=frame)


def read_holdings(holdings: Holdings, *, series: int | None, frame: int | None) -> Volume:
    """Read one of the series that a scan of the files found."""
    if holdings.problems:
        listed = "; ".join(holdings.problems[:3])
        more = f"; and {len(holdings.problems) - 3} more" if len(holdings.problems) > 3 else ""
        raise InputError(f"{listed}{more}; mend or remove what is damaged, since slices could be missing without it")
    chosen = _choose(holdings, series)
    if chosen.problems:
        raise UnsupportedSeries("this series cannot be read as one volume: " + "; ".join(chosen.problems))
    return _read(chosen, chosen.frames[_frame_index(chosen, frame)], frame, holdings.notes)


def _choose(holdings: Holdings, number: int | None) -> Series:
    found = holdings.series
    if not found:
        why = "; ".join(holdings.notes)
        raise InputError(f"no DICOM scan found{': ' + why if why else ''}; expected CT, MR or PET images")
    listed = "\n".join(f"  {entry.describe()}" for entry in series_entries(holdings))
    if number is None:
        if len(found) == 1:
            return found[0]
        uids = {series.uid for series in found}
        what = f"one series with {len(found)} orientations or stacks" if len(uids) == 1 else f"{len(found)} series"
        raise UnsupportedSeries(f"{what}; choose one with --series N (series=N in Python):\n{listed}")
    if not 1 <= number <= len(found):
        raise InputError(f"series {number} of {len(found)}: expected a number from 1 to {len(found)}:\n{listed}")
    return found[number - 1]


def _frame_index(series: Series, frame: int | None) -> int:
    count = len(series.frames)
    if frame is None and count > 1:
        labels = ", ".join(series.labels[:4]) + (", ..." if count > 4 else "")
        raise UnsupportedSeries(
            f"the series holds {count} volumes (time points, echoes): {labels}; choose one with "
            f"--frame 0 to {count - 1}"
        )
    index = 0 if frame is None else frame
    if not 0 <= index < count:
        raise InputError(f"frame {frame}: the series holds {count} volume(s), numbered from 0")
    return index


def _read(series: Series, planes: Sequence[Plane], frame: int | None, notes: Sequence[str]) -> Volume:
    values = read_values(planes)
    require_usable_range(values.voxels)
    files = tuple(dict.fromkeys(plane.path for plane in planes))  # in slice order, each once
    headers = tuple(plane.header for plane in planes) if len(files) > 1 else (planes[0].header,)
    all_notes = [*notes, *series.notes, *values.notes]
    if len(series.frames) > 1:
        all_notes.append(f"{series.labels[frame or 0]} of {len(series.frames)} was read")
    for note in all_notes:
        logger.log(logging.WARNING if note.startswith("warning") else logging.INFO, "%s", note)
    source = Source("dicom", sha256_of(files), files, headers, tuple(all_notes))
    frame_uid = planes[0].facts["FrameOfReferenceUID"]
    grid = Grid(values.voxels.shape, series.affine, frame_uid or None)
    return Volume(values.voxels[None], grid, series.unit, planes[0].modality, Provenance(source))
