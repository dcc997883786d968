"""The study folder: written beside its destination and moved into place whole, or not at all."""

import errno
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from medinterp.errors import OutputError
from medinterp.export.record import DESCRIPTION, RUN_RECORD

logger = logging.getLogger(__name__)

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_SPARE = 1.05  # file systems and headers take a little more than the voxels


class StudyFolder:
    """A folder that appears complete or does not appear.

    Inside the ``with`` block files are written to ``path``, a hidden sibling of the destination on the same file
    system. On leaving without an error it is moved into place by one rename; on any error it is removed, and a folder
    that was there before is as it was. A killed process leaves only the hidden sibling, which the next run to the
    same destination removes. Ctrl-C is an error like any other; a caller that wants the same for SIGTERM has to turn
    that signal into an exception.

    Args:
        destination: the folder to make; its parents are made too.
        overwrite: replace a folder that is there, provided medinterp wrote it.
        expected_bytes: estimate of what will be written, checked against the free space before anything starts.

    Raises:
        OutputError: the destination is taken, is no place for a folder, cannot be written to, or the disk is too
            small; on leaving, the disk has filled up. Nothing of the new study is left.
    """

    def __init__(self, destination: Path, *, overwrite: bool = False, expected_bytes: int = 0) -> None:
        self.destination = destination.expanduser().resolve()
        self.overwrite = overwrite
        self.expected_bytes = expected_bytes
        self.path = self.destination
        self._made_parents: list[Path] = []
        self._lock: int | None = None

    def __enter__(self) -> "StudyFolder":
        """Check the destination, clear what killed runs left, and make the hidden folder."""
        try:
            _recover(self.destination)
            self.refuse_bad_destination()
            self._made_parents = _make_parents(self.destination.parent)
            self._require_space()
            self.path = _sibling(self.destination, "partial")
            self.path.mkdir()
        except OSError as error:
            _remove_empty(self._made_parents)
            raise self._explain(error) from error
        except OutputError:
            _remove_empty(self._made_parents)
            raise
        self._lock = take_lock(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Move the folder into place, or remove it and turn a disk error into one readable line."""
        try:
            if error is None:
                self._commit()
        except OSError as failure:
            self._discard()
            raise self._explain(failure) from failure
        except BaseException:
            self._discard()
            raise
        if error is not None:
            self._discard()
            if isinstance(error, OSError) and self._is_ours(error):
                raise self._explain(error) from error
        self._release()

    def refuse_bad_destination(self) -> None:
        """Raise unless the destination is free, or may be replaced; to be asked before hours of work, too.

        Raises:
            OutputError: it is taken, or no place for a folder.
        """
        there = self.destination
        if os.path.ismount(there):
            raise OutputError(f"{there} is a mount point and cannot be replaced as a whole; name a folder inside it")
        if there.exists() and not there.is_dir():
            raise OutputError(f"{there} is a file; choose another folder for the output")
        if not there.exists() or not any(there.iterdir()):
            return
        if not self.overwrite:
            raise OutputError(
                f"{there} exists and is not empty; choose another folder, or ask for it to be overwritten"
            )
        if not _is_study(there):
            raise OutputError(
                f"{there} was not written by medinterp (no {RUN_RECORD} or {DESCRIPTION} that says so) and will not be "
                "overwritten; choose another folder"
            )

    def _require_space(self) -> None:
        free, needed = shutil.disk_usage(self.destination.parent).free, round(self.expected_bytes * _SPARE)
        if free < needed:
            raise OutputError(
                f"the output needs about {_megabytes(needed)} and the disk of {self.destination.parent} has "
                f"{_megabytes(free)} free; free some space or choose another folder"
            )

    def _commit(self) -> None:
        """Flush the new folder to the disk, set an old one aside, and rename; put the old one back if that fails."""
        _flush(self.path)
        if not self.destination.exists():
            self.path.rename(self.destination)
            return
        # Looked at again: another run may have finished here while this one was computing.
        self.refuse_bad_destination()
        aside = _sibling(self.destination, "replaced")
        self.destination.rename(aside)
        try:
            self.path.rename(self.destination)
        except BaseException:
            aside.rename(self.destination)
            raise
        shutil.rmtree(aside, ignore_errors=True)

    def _discard(self) -> None:
        """Remove the hidden folder and the parents that were made for it."""
        shutil.rmtree(self.path, ignore_errors=True)
        _remove_empty(self._made_parents)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_ours(self, error: OSError) -> bool:
        """Whether an error comes from writing here: a full disk names no file, others name one in the folder."""
        if _number(error) in _FULL:
            return True
        named = (error.filename, error.filename2)
        return error.errno in _DENIED and any(str(name).startswith(str(self.path)) for name in named if name)

    def _explain(self, error: OSError) -> OutputError:
        """Say what went wrong and what to do."""
        if _number(error) in _FULL:
            return OutputError(
                f"the disk of {self.destination.parent} is full (or your quota is); nothing was left behind; free some "
                "space or choose another folder"
            )
        if error.errno in _DENIED:
            return OutputError(
                f"{self.destination.parent} may not be written to ({error.strerror}); nothing was left behind; choose "
                "another folder"
            )
        return OutputError(f"{self.destination} could not be written: {error.strerror}; nothing was left behind")


def _sibling(destination: Path, purpose: str) -> Path:
    """Name a hidden sibling that carries this process's number and a mark of this machine."""
    token = _machine() + secrets.token_hex(4)
    return destination.parent / f".{destination.name}.{purpose}-{os.getpid()}-{token}"


def _machine() -> str:
    """Return four characters that tell machines on a shared disk apart, without naming them."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:4]


def _siblings(destination: Path, purpose: str) -> Iterator[tuple[Path, int]]:
    """Yield the hidden siblings of a destination and the process that made each."""
    pattern = re.compile(rf"\.{re.escape(destination.name)}\.{purpose}-(\d+)-[0-9a-f]{{12}}")
    if not destination.parent.is_dir():
        return
    for path in sorted(destination.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink():
            yield path, int(match[1])


def _recover(destination: Path) -> None:
    """Clear what killed runs to this destination left; an old study that was set aside is put back."""
    for path, owner in _siblings(destination, "replaced"):
        if not _is_running(path, owner):
            if destination.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.rename(destination)
    for path, owner in _siblings(destination, "partial"):
        if not _is_running(path, owner):
            logger.info("removing what an interrupted run left beside the output folder")
            shutil.rmtree(path, ignore_errors=True)


def _is_running(path: Path, owner: int) -> bool:
    """Whether the process that made a hidden folder is still at work.

    A lock answers where the file system has locks, containers with process numbers of their own included; elsewhere
    the process number does, and a folder of another machine is left alone.
    """
    try:
        lock = take_lock(path)
    except BlockingIOError:
        return True
    if lock is not None:
        os.close(lock)
        return False
    return path.name[-12:-8] != _machine() or _exists(owner)


def take_lock(path: Path) -> int | None:
    """Lock a folder or file for as long as this process lives; None where that is not possible.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return handle


def _exists(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    import psutil

    return bool(psutil.pid_exists(process))


def _is_study(folder: Path) -> bool:
    """Whether medinterp wrote a folder: its BIDS description says so, beside a run record."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        makers = [maker["Name"] for maker in description["GeneratedBy"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return "medinterp" in makers and (folder / RUN_RECORD).is_file()


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder and its parents; return those that are new, innermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, as long as they are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _flush(folder: Path) -> None:
    """Ask the disk to keep every file, so that the folder cannot appear whole and be empty after a power cut."""
    if os.name != "posix":  # Windows flushes only files that are open for writing
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def _number(error: BaseException | None) -> int | None:
    """Return the system's number of an error; pydicom wraps it in one without."""
    while error is not None:
        number: int | None = getattr(error, "errno", None)
        if number is not None:
            return number
        error = error.__context__
    return None
