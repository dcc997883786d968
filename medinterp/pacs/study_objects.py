"""The DICOM objects of a study folder, given out only when the folder is whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError

from medinterp.errors import InputError
from medinterp.export.record import RUN_RECORD, sha256
from medinterp.pacs.archive import StoredObject

_AGAIN = "run medinterp again to make it anew"
_UIDS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality"]


@dataclass(frozen=True)
class LocalObject:
    """One DICOM file of a study folder.

    Args:
        path: of the file.
        name: relative to the folder, with forward slashes; what people read.
        sha256: hash of its bytes.
        identifiers: by which an archive knows it.
    """

    path: Path
    name: str
    sha256: str
    identifiers: StoredObject


def complete_objects(folder: Path) -> tuple[LocalObject, ...]:
    """Return the DICOM objects of a finished study folder, series by series.

    Args:
        folder: that medinterp wrote.

    Raises:
        InputError: no run.json, or one of an unfinished run; a file that is missing, or has other bytes than the run
            wrote; no DICOM object; or two objects with one identifier.
    """
    found = [_opened(folder, name, digest) for name, digest in _listed(folder).items() if _is_dicom(name)]
    if not found:
        raise InputError(
            f"{folder} holds no DICOM object, so there is nothing to send; let medinterp write them (--export dicom)"
        )
    if len({one.identifiers.sop_uid for one in found}) < len(found):
        raise InputError(f"{folder} holds two files with one SOP Instance UID; {_AGAIN}")
    return tuple(sorted(found, key=lambda one: (one.identifiers.study_uid, one.identifiers.series_uid, one.name)))


def _listed(folder: Path) -> Mapping[str, str]:
    """Return the hashes of a folder's files by name, every one checked against the disk."""
    files = {}
    for entry in _record(folder)["files"]:
        try:
            name, size, digest = str(entry["path"]), int(entry["bytes"]), str(entry["sha256"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{folder / RUN_RECORD} lists a file without path, bytes or sha256; {_AGAIN}") from None
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{folder / RUN_RECORD} lists '{name}', which lies outside the folder")
        _require_unchanged(folder / name, name, size, digest)
        files[name] = digest
    return files


def _record(folder: Path) -> Mapping[str, Any]:
    try:
        record = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} has no {RUN_RECORD}: it is no finished study folder of medinterp") from None
    except (OSError, ValueError):
        raise InputError(f"{folder / RUN_RECORD} cannot be read as JSON; {_AGAIN}") from None
    if not isinstance(record, Mapping) or record.get("finished", True) is not True:
        raise InputError(f"{folder / RUN_RECORD} says that the run is not finished; only whole studies are sent")
    if not isinstance(record.get("files"), list):
        raise InputError(f"{folder / RUN_RECORD} has no list of files, which is written last; {_AGAIN}")
    return record


def _require_unchanged(path: Path, name: str, size: int, digest: str) -> None:
    try:
        same = path.stat().st_size == size and sha256(path) == digest
    except OSError as error:
        raise InputError(f"'{name}', which {RUN_RECORD} lists, cannot be read: {error.strerror}; {_AGAIN}") from None
    if not same:
        raise InputError(f"'{name}' is not what the run wrote: its SHA-256 or size differs from {RUN_RECORD}; {_AGAIN}")


def _is_dicom(name: str) -> bool:
    return name.lower().endswith(".dcm")


def _opened(folder: Path, name: str, digest: str) -> LocalObject:
    try:
        header = pydicom.dcmread(folder / name, stop_before_pixels=True, specific_tags=list(_UIDS))
        study, series, sop, sop_class = (str(header[keyword].value) for keyword in _UIDS[:4])
    except (InvalidDicomError, KeyError, EOFError):
        raise InputError(f"'{name}' is no DICOM object with study, series and instance UIDs; {_AGAIN}") from None
    identifiers = StoredObject(study, series, sop, sop_class, str(header.get("Modality", "")))
    return LocalObject(folder / name, name, digest, identifiers)
