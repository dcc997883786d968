"""A medinterp process beside Slicer: its progress as it comes, and a Cancel that leaves nothing half-written."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

POLITE_S = 15.0
"""How long a cancelled process may take to clear away what it was writing, before it is killed."""


@dataclass(frozen=True)
class Progress:
    """One step of a run.

    Args:
        stage: such as "denoise" or "explain".
        done: parts that are done.
        total: parts in all.
        detail: what the part is.
    """

    stage: str
    done: int
    total: int
    detail: str


@dataclass(frozen=True)
class Line:
    """One line of text that the process said."""

    text: str


class Process:
    """A call of medinterp that runs on while Slicer stays usable; ask ``poll`` from a timer.

    Args:
        call: program and arguments; no shell is involved.
        environment: of the process. Slicer's own (PYTHONHOME, LD_LIBRARY_PATH) would break another Python:
            give ``slicer.util.startupEnvironment()``. None for this process's.
    """

    def __init__(self, call: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._said: queue.SimpleQueue[Progress | Line] = queue.SimpleQueue()
        alone = {"creationflags": 0x200} if sys.platform == "win32" else {"start_new_session": True}  # its own group
        self._process = subprocess.Popen(
            list(call), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            encoding="utf-8", errors="replace", env=None if environment is None else dict(environment), **alone,
        )  # fmt: skip
        streams = (self._process.stdout, self._process.stderr)
        self._readers = [threading.Thread(target=self._read, args=(stream,), daemon=True) for stream in streams]
        for reader in self._readers:
            reader.start()
        self.cancelled = False
        self._ends = float("inf")

    @property
    def pid(self) -> int:
        """The system's number of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def poll(self) -> tuple[list[Progress | Line], int | None]:
        """Return what was said since the last call, and the exit code once the process has ended.

        A cancelled process that has not ended in time is killed here.
        """
        code = self._process.poll()
        if code is None and time.monotonic() > self._ends:
            self._kill()
            code = self._process.wait()
        if code is not None:
            for reader in self._readers:
                reader.join()
        said = []
        while not self._said.empty():
            said.append(self._said.get())
        return said, code

    def wait(self) -> tuple[list[Progress | Line], int]:
        """Return everything that is said until the process ends, and its exit code; Slicer stands still meanwhile."""
        said, code = self.poll()
        while code is None:
            time.sleep(0.05)
            new, code = self.poll()
            said += new
        return said, code

    def cancel(self) -> None:
        """Ask the process to end, and return at once: it clears away what it was writing, and ``poll`` sees its end."""
        if not self.cancelled and self.running:
            self.cancelled, self._ends = True, time.monotonic() + POLITE_S
            self._signal(signal.SIGINT)

    def _signal(self, number: int) -> None:
        if sys.platform == "win32":
            self._process.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            self._to_group(number)

    def _kill(self) -> None:
        if sys.platform == "win32":
            self._process.kill()
        else:
            self._to_group(signal.SIGKILL)

    def _to_group(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # it has just ended
            return

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for text in stream:
                self._said.put(parse_line(text.rstrip("\n")))


def parse_line(text: str) -> Progress | Line:
    """Return a line of ``--progress json`` as progress, any other as it is."""
    try:
        found = json.loads(text)
        return Progress(str(found["stage"]), int(found["done"]), int(found["total"]), str(found["detail"]))
    except (ValueError, KeyError, TypeError):
        return Line(text)
