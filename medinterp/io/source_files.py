"""The files a volume is read from: listing a folder safely, hashing, and errors that show no file names."""

import hashlib
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from isal import igzip

from medinterp.errors import InputError

BLOCK_BYTES = 1 << 20
TRAILING_BYTES = 1 << 24
DICOM_MAGIC_END = 132
MAX_VOXELS = 1 << 30  # 4 GiB of float32; a header that asks for more is refused before anything is allocated
NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr")


@dataclass(frozen=True)
class FolderListing:
    """The regular files below a folder in name order, and what was left out."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def require_path(path: Path) -> Path:
    """Return the path when it exists, else say so."""
    try:
        path.stat()
    except OSError as error:
        raise InputError(
            f"cannot open the input ({error.strerror}); check its path and permissions "
            "(the path is not repeated here: names may hold patient data)"
        ) from error
    return path


def unreadable(error: OSError, what: str) -> InputError:
    """Return the error for a file that the system will not give; ``what`` names it without its file name."""
    return InputError(f"cannot read {what}: {error.strerror or 'input/output error'}; check its permissions and disk")


def sha256_of(paths: Iterable[Path]) -> str:
    """Hash the bytes of all files in order, in bounded memory."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as stream:
                while block := stream.read(BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise unreadable(error, "a source file") from error
    return digest.hexdigest()


def short_hash(text: str) -> str:
    """Return eight hex digits that stand for an identifier that must not be shown."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def list_files(folder: Path) -> FolderListing:
    """List the regular files below a folder; links that lead out of it and hidden files are left out.

    Raises:
        InputError: a folder cannot be listed.
    """
    root = folder.resolve()
    found: list[Path] = []
    outside = 0
    for directory, subfolders, names in os.walk(root, onerror=_refuse_folder):
        here = Path(directory)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        outside += sum((here / name).is_symlink() for name in subfolders)
        for name in sorted(name for name in names if not name.startswith(".")):
            file = here / name
            if file.is_symlink() and not file.resolve().is_relative_to(root):
                outside += 1
            elif file.is_file():
                found.append(file)
    notes = (f"links not followed: {outside} (they lead out of the folder)",) if outside else ()
    return FolderListing(tuple(found), notes)


def _refuse_folder(error: OSError) -> None:
    raise unreadable(error, "a folder of the input") from error


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def has_dicom_preamble(path: Path, what: str) -> bool:
    """Whether the file carries the DICOM mark after its preamble; ``what`` names it in an error."""
    try:
        with path.open("rb") as stream:
            return stream.read(DICOM_MAGIC_END)[128:] == b"DICM"
    except OSError as error:
        raise unreadable(error, what) from error


def require_whole_stream(path: Path, expected: int) -> None:
    """Check a gzip file to its end: libraries stop at the last voxel and so never see the checksum behind it.

    Args:
        path: a file; one that is not gzip passes.
        expected: bytes it should unpack to; what follows is read up to ``TRAILING_BYTES`` bytes.

    Raises:
        InputError: its checksum is wrong, or it goes on far beyond what was expected.
    """
    with path.open("rb") as packed:
        if packed.read(2) != b"\x1f\x8b":
            return
    try:
        with igzip.open(path, "rb") as file:  # type: ignore[no-untyped-call] # isal has no types
            left = expected + TRAILING_BYTES
            while part := file.read(min(BLOCK_BYTES, left)):
                left -= len(part)
                if left <= 0:
                    raise InputError("the file goes on far beyond the voxels its header tells of; copy it again")
    except (EOFError, OSError, zlib.error) as error:
        raise InputError("the file is damaged: its checksum is not that of its content; copy it again") from error
