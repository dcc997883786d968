"""A transfer's journal: one line of JSON an object, on the disk before the next one starts, readable after a crash."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from medinterp.errors import OutputError
from medinterp.export.study import take_lock


class Journal:
    """What has been done so far, by key; the last line of a key counts. Held by one process at a time.

    Lines go to the end of the file and are flushed to the disk one by one. A line that a killed process left unfinished
    is cut off when the journal is opened again.

    Args:
        path: of the file; made if it is not there.

    Raises:
        OutputError: another process holds it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Mapping[str, Any]] = {}
        self._file = -1
        self._lock: int | None = None

    def __enter__(self) -> "Journal":
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._lock = take_lock(self._path)
            self._read()
        except BlockingIOError:
            self._close()
            raise OutputError(f"another medinterp is at work in {self._path.parent}; wait until it has ended") from None
        except OSError as error:
            self._close()
            raise OutputError(f"the journal {self._path} cannot be written: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def get(self, key: str) -> Mapping[str, Any]:
        """Return the last entry of a key; empty if there is none."""
        return self._entries.get(key, {})

    def write(self, key: str, **entry: Any) -> None:
        """Add an entry; it is on the disk when this returns.

        Raises:
            OutputError: the disk is full or gone.
        """
        line = json.dumps({"key": key, **entry}).encode() + b"\n"
        try:
            if os.write(self._file, line) != len(line):
                raise OutputError(f"the disk of {self._path} is full")
            os.fsync(self._file)
        except OSError as error:
            raise OutputError(f"the journal {self._path} cannot be written: {error.strerror}") from None
        self._entries[key] = entry

    def _read(self) -> None:
        text = self._path.read_bytes()
        whole = text.rfind(b"\n") + 1
        os.truncate(self._file, whole)
        for line in text[:whole].splitlines():
            try:
                entry = json.loads(line)
                self._entries[entry.pop("key")] = entry
            except (ValueError, KeyError, TypeError, AttributeError):
                raise OutputError(f"{self._path} is no journal of medinterp; remove it to start anew") from None

    def _close(self) -> None:
        for handle in (self._file, self._lock):
            if handle is not None and handle >= 0:
                os.close(handle)
        self._file, self._lock = -1, None
