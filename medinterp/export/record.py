"""The records of a study folder: run.json with its list of files, and the BIDS description."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

RUN_RECORD = "run.json"
DESCRIPTION = "dataset_description.json"
BIDS_VERSION = "1.10.0"


@dataclass(frozen=True)
class FileEntry:
    """One file of a study folder.

    Args:
        path: relative to the folder, with forward slashes.
        bytes: size.
        sha256: hash of its bytes.
    """

    path: str
    bytes: int
    sha256: str


def manifest(folder: Path) -> tuple[FileEntry, ...]:
    """List every file of a folder, by name, with size and hash; the run record itself is not listed."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / RUN_RECORD)
    return tuple(FileEntry(p.relative_to(folder).as_posix(), p.stat().st_size, sha256(p)) for p in found)


def write_run_json(folder: Path, run: Mapping[str, Any]) -> Path:
    """Write run.json: the record given, and under "files" everything that lies in the folder by now. Write it last.

    Arrays become lists; NaN and infinities become the strings "NaN", "Infinity" and "-Infinity", which JSON has no
    numbers for.

    Raises:
        TypeError: the record holds a path, which may name a patient, or an object that JSON cannot hold.
    """
    files = [asdict(entry) for entry in manifest(folder)]
    return write_json(folder / RUN_RECORD, {**run, "files": files})


def write_dataset_description(folder: Path, *, version: str, name: str = "medinterp derivatives") -> Path:
    """Write the file by which BIDS tools know the folder as derivatives made by medinterp."""
    description = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medinterp", "Version": version}],
    }
    return write_json(folder / DESCRIPTION, description)


def write_json(path: Path, record: Mapping[str, Any]) -> Path:
    """Write a record as indented JSON in UTF-8 and return the path."""
    path.write_text(json.dumps(_plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    """Turn mappings, sequences, arrays and numpy numbers into what JSON knows."""
    if isinstance(value, PurePath):
        raise TypeError("a run record holds a path; write its hash or a name given by the user instead")
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
