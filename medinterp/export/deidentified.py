"""The last step of a de-identified study: copies of the scan for derived objects to refer to, and no dates anywhere."""

from collections.abc import Mapping
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medinterp.errors import InputError
from medinterp.export.dicom_files import DICOM
from medinterp.io.deidentify import Deidentifier, mark, without_dates
from medinterp.io.dicom_headers import DicomFile, damage
from medinterp.io.dicom_quiet import unquoted
from medinterp.results import InputResult

REMAINS = (
    "identifiers were removed from all headers (DICOM PS3.15 Basic Profile); pixels are as they were: a face can be "
    "recognised in a scan of the head, and text burned into the image stays"
)


@unquoted()
def finish_deidentified(inputs: Mapping[str, InputResult], folder: Path, remover: Deidentifier) -> None:
    """Copy the scans without identifiers, and take dates and private attributes out of all other objects.

    Derived objects refer to the images of their scan by UID. Those UIDs are new, so without the copies outlines
    would lie over images that nobody has. Nothing is copied into a study without DICOM.

    Raises:
        InputError: a file of a scan has changed since it was read.
    """
    place = folder / DICOM
    if not place.is_dir():
        return
    for path in sorted(place.rglob("*.dcm")):
        _finish(path)
    written: set[str] = set()
    for name, one in inputs.items():
        if one.scan.provenance.source.kind == "dicom":
            _copy_scan(one.scan.provenance.source.paths, place / f"{name}-scan", remover, written)


def _finish(path: Path) -> None:
    """Rewrite one of our objects without the time of the run; plug-ins' objects lose private attributes too."""
    dataset = dcmread(path)
    dataset.remove_private_tags()
    without_dates(dataset)
    mark(dataset)
    dataset.save_as(path, enforce_file_format=True)


def _copy_scan(paths: tuple[Path, ...], folder: Path, remover: Deidentifier, written: set[str]) -> None:
    """Write a scan's own files anew, pixels as they were; an object that several inputs share is written once."""
    for number, path in enumerate(paths, start=1):
        copied = _copied(path, remover)
        if str(copied.SOPInstanceUID) in written:
            continue
        written.add(str(copied.SOPInstanceUID))
        folder.mkdir(exist_ok=True)
        copied.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def _copied(path: Path, remover: Deidentifier) -> Dataset:
    """Return a file of the scan without identifiers, ready to be written.

    Raises:
        InputError: the file has changed since it was read.
    """
    try:
        with DicomFile(path) as file:
            source = dcmread(file, force=True)
        made = remover.header(source)
        syntax = getattr(source, "file_meta", {}).get("TransferSyntaxUID")
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = syntax or _plain_syntax(source)
        made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
        made.set_original_encoding(*source.original_encoding, source.original_character_set)
    except damage() as error:
        raise InputError(
            "a file of the scan cannot be read again to be copied without identifiers; it changed during the run"
        ) from error
    return made


def _plain_syntax(source: Dataset) -> UID:
    """Return the transfer syntax of a file that names none: what its bytes were found to be."""
    implicit, little = source.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
