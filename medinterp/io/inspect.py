"""What a file or folder holds and what is wrong with it: shapes, spacings, orientations, no patient data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from medinterp.errors import InputError
from medinterp.io.dicom_arrange import Series
from medinterp.io.dicom_grouping import Holdings, scan_files
from medinterp.io.source_files import is_nrrd, is_volume_file, list_files, require_path
from medinterp.volume import Grid


@dataclass(frozen=True)
class Entry:
    """One scan of a file or folder.

    Args:
        number: what ``series=`` takes, from 1.
        kind: "dicom", "nifti" or "nrrd".
        identity: eight hex digits that stand for the series UID; empty for other files.
        series_number: the scanner's own number, for DICOM.
        modality: DICOM modality, "?" where unknown.
        unit: "HU", "a.u.", ...
        shape: voxels along I, J, K; of what was found where it cannot be read.
        spacing_mm: of I, J, K; None where the grid is unknown.
        orientation: the directions of I, J, K, for example "LPS" (towards left, posterior, superior).
        frames: volumes (time points, echoes) to choose from with ``frame=``.
        frame_labels: what tells them apart.
        files: how many files it is made of.
        notes: what a reader changed or noticed.
        problems: why it cannot be read; empty when it can.
    """

    number: int
    kind: str
    identity: str
    series_number: int | None
    modality: str
    unit: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, float, float] | None
    orientation: str
    frames: int
    frame_labels: tuple[str, ...]
    files: int
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def readable(self) -> bool:
        """Whether ``read`` would return this scan."""
        return not self.problems

    def describe(self) -> str:
        """Return one line for people."""
        size = " x ".join(map(str, self.shape))
        spacing = "" if self.spacing_mm is None else f", {' x '.join(f'{mm:.4g}' for mm in self.spacing_mm)} mm"
        name = f" [{self.identity}]" if self.identity else ""
        label = "" if self.series_number is None else f" series number {self.series_number},"
        many = f", {self.frames} volumes: choose with --frame 0 to {self.frames - 1}" if self.frames > 1 else ""
        oriented = f", {self.orientation}" if self.orientation else ""
        return (
            f"{self.number}: {self.kind}{name},{label} {self.modality}, {size} voxels{spacing}{oriented}, "
            f"{self.unit}, {self.files} file(s){many}"
        )


@dataclass(frozen=True)
class Inspection:
    """Everything a path holds; ``volumes`` are numbered as ``series=`` (``--series``) takes them."""

    kind: str
    volumes: tuple[Entry, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    def describe(self) -> str:
        """Return lines for people: every scan with its notes and problems."""
        lines = [] if self.volumes else ["no scan found"]
        for entry in self.volumes:
            lines.append(entry.describe())
            lines += [f"   note: {note}" for note in entry.notes]
            lines += [f"   problem: {problem}" for problem in entry.problems]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems]
        return "\n".join(lines)


def inspect(path: str | Path, *, force: bool = False) -> Inspection:
    """Say what a file or folder holds, and what is wrong with it.

    DICOM is judged by its headers and file sizes; NIfTI and NRRD files are read whole, so damage and NaN show.

    Args:
        path: a NIfTI or NRRD file, a DICOM file, or a folder of either.
        force: also try files without the DICOM preamble.

    Raises:
        InputError: the path cannot be opened.
    """
    path = require_path(Path(path))
    if not path.is_dir() and is_volume_file(path):
        return Inspection("file", (_file_entry(path, 1),), (), ())
    holdings = scan_files(path, force=force)
    entries = series_entries(holdings)
    if path.is_dir():
        scans = (file for file in list_files(path).files if is_volume_file(file))
        entries += [_file_entry(file, number) for number, file in enumerate(scans, start=len(entries) + 1)]
    return Inspection("folder" if path.is_dir() else "file", tuple(entries), holdings.notes, holdings.problems)


def series_entries(holdings: Holdings) -> list[Entry]:
    """Describe the DICOM series of a folder in listing order."""
    return [_series_entry(series, number) for number, series in enumerate(holdings.series, start=1)]


def _series_entry(series: Series, number: int) -> Entry:
    first = series.planes[0]
    depth = len(series.frames[0]) if series.frames else len(series.planes)
    shape = (first.columns, first.rows, depth)
    grid = None if series.affine is None else Grid(shape, series.affine)
    return Entry(
        number=number,
        kind="dicom",
        identity=series.identity,
        series_number=series.number,
        modality=first.modality,
        unit=series.unit,
        shape=shape,
        spacing_mm=None if grid is None else grid.spacing_mm,
        orientation="" if grid is None else orientation_code(grid),
        frames=max(len(series.frames), 1),
        frame_labels=series.labels if len(series.frames) > 1 else (),
        files=len({plane.path for plane in series.planes}),
        notes=series.notes,
        problems=series.problems,
    )


def _file_entry(path: Path, number: int) -> Entry:
    """Describe one volume file by reading it: its first frame when there are several."""
    from medinterp.io.nifti import count_frames, read_nifti
    from medinterp.io.nrrd_reader import count_nrrd_frames, read_nrrd

    kind, count, read = ("nrrd", count_nrrd_frames, read_nrrd) if is_nrrd(path) else ("nifti", count_frames, read_nifti)
    blank = Entry(number, kind, "", None, "?", "?", (), None, "", 1, (), 1, (), ())
    try:
        shape, frames = count(path)
        blank = replace(blank, shape=shape, frames=frames)
        volume = read(path, frame=0 if frames > 1 else None)
    except InputError as error:
        return replace(blank, problems=(str(error),))
    return replace(
        blank,
        modality=volume.modality,
        unit=volume.unit,
        spacing_mm=volume.grid.spacing_mm,
        orientation=orientation_code(volume.grid),
        notes=volume.provenance.source.notes,
    )


def orientation_code(grid: Grid) -> str:
    """Name the patient direction that each voxel axis points towards most, for example "LPS"."""
    axes = grid.affine[:3, :3] / np.asarray(grid.spacing_mm)
    best: Sequence[int] = max(
        permutations(range(3)), key=lambda rows: sum(abs(axes[row, i]) for i, row in enumerate(rows))
    )
    names = ("LR", "PA", "IS")
    return "".join(names[row][int(axes[row, i] > 0)] for i, row in enumerate(best))
