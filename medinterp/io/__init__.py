"""Reading and writing scans: one file per format, read beside write."""

from collections.abc import Sequence
from pathlib import Path

from medinterp.errors import InputError
from medinterp.io.dicom_grouping import scan_files
from medinterp.io.dicom_series import read_holdings
from medinterp.io.inspect import Entry, Inspection, inspect
from medinterp.io.nifti import read_nifti, write_nifti
from medinterp.io.nifti_header import Form
from medinterp.io.nrrd_reader import read_nrrd
from medinterp.io.source_files import is_nrrd, is_volume_file, list_files, require_path
from medinterp.volume import Volume

__all__ = ["Entry", "Inspection", "inspect", "read", "read_nifti", "read_nrrd", "write_nifti"]


def read(
    path: str | Path,
    *,
    series: int | None = None,
    use_form: Form | None = None,
    frame: int | None = None,
    force: bool = False,
) -> Volume:
    """Read one scan: a NIfTI or NRRD file, a folder with a DICOM series, or a multi-frame DICOM file.

    Nothing is resampled, reoriented or guessed: what cannot be read as one volume is refused with the reason.

    Args:
        path: file or folder. A folder's DICOM files come first; without any, its only NIfTI or NRRD file is read.
        series: which series of a folder, as ``inspect`` numbers them from 1.
        use_form: "qform" or "sform", where those of a NIfTI file disagree.
        frame: which volume of a 4D scan, from 0.
        force: also read DICOM files that lack the preamble.

    Raises:
        InputError: damaged, unreadable, not a scan, ambiguous (`UnsupportedSeries`) or not finite (`NonFiniteInput`).
    """
    path = require_path(Path(path))
    if not path.is_dir():
        if is_volume_file(path):
            return _read_file(_numbered([path], series, 0), use_form, frame)
        return read_holdings(scan_files(path, force=force), series=series, frame=frame)
    holdings = scan_files(path, force=force)
    first = len(holdings.series)
    scans = [file for file in list_files(path).files if is_volume_file(file)]
    if scans and (not first or (series or 0) > first):
        return _read_file(_numbered(scans, series, first), use_form, frame)
    return read_holdings(holdings, series=series, frame=frame)


def _read_file(path: Path, use_form: Form | None, frame: int | None) -> Volume:
    return read_nrrd(path, frame=frame) if is_nrrd(path) else read_nifti(path, use_form=use_form, frame=frame)


def _numbered(scans: Sequence[Path], series: int | None, before: int) -> Path:
    """Return the volume file of a number; they are counted on from the DICOM series, as ``inspect`` lists them."""
    last = before + len(scans)
    if series is None and len(scans) > 1:
        raise InputError(
            f"the folder holds {len(scans)} NIfTI or NRRD files; give one of the files, or --series 1 to {last}"
        )
    if series is not None and not before < series <= last:
        raise InputError(f"series {series}: NIfTI and NRRD files are numbered {before + 1} to {last}, in name order")
    return scans[0] if series is None else scans[series - before - 1]
