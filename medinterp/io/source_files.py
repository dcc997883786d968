"""The files a volume is read from: listing a folder safely, hashing, and errors that show no file names."""

import hashlib
import io
import os
import stat
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
NRRD_SUFFIXES = (".nrrd", ".nhdr")


@dataclass(frozen=True)
class FolderListing:
    """The regular files below a folder in name order, and what was left out."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


class BoundedReader(io.BufferedReader):
    """A file whose ``read`` never asks for more than there is: a header may claim 4 GB, and memory would be taken."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, or those that are left."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def require_path(path: Path) -> Path:
    """Return the path when it is a file or a folder, else say so: a pipe or a device would be read for ever."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a zero byte in the path
        raise InputError("cannot open the input: its path holds a zero byte") from error
    except OSError as error:
        raise InputError(
            f"cannot open the input ({error.strerror}); check its path and permissions "
            "(the path is not repeated here: names may hold patient data)"
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError("the input is neither a file nor a folder (a pipe, a socket or a device); give a scan")
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
    """List the regular files below a folder; links that lead out of it, linked folders and hidden files are left out.

    Files come before those of subfolders, both in name order. Walks without recursion, however deep the folders are.

    Raises:
        InputError: a folder cannot be listed.
    """
    root = folder.resolve()
    found: list[Path] = []
    outside = 0
    waiting = [str(root)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listed:
                entries = sorted((entry for entry in listed if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as error:
            raise unreadable(error, "a folder of the input") from error
        waiting += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        left_out = {entry.name for entry in entries if entry.is_symlink() and _leads_away(entry.path, root)}
        outside += len(left_out)
        found += [Path(e.path) for e in entries if os.path.isfile(e.path) and e.name not in left_out]
    notes = (f"links not followed: {outside} (they lead out of the folder)",) if outside else ()
    return FolderListing(tuple(found), notes)


def _leads_away(link: str, root: Path) -> bool:
    """Whether a link leads to a folder or out of the root; one that leads round in circles leads nowhere."""
    return os.path.isdir(link) or not Path(os.path.realpath(link)).is_relative_to(root)


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def is_nrrd(path: Path) -> bool:
    """Whether the name says NRRD."""
    return path.name.lower().endswith(NRRD_SUFFIXES)


def is_volume_file(path: Path) -> bool:
    """Whether the name says that the file holds a volume by itself, unlike an image of a DICOM series."""
    return is_nifti(path) or is_nrrd(path)


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
