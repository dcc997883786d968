"""What the command line may do to its own process, and a library may not: signals, memory and garbage."""

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt's names of them in malloc.h
_STEP_BYTES = 256 * 2**20


EXIT_INTERRUPTED = 130
INTERRUPTED = "medinterp: interrupted; nothing was left in the output folder"
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def leave_when_stopped() -> None:
    """Until the work begins, have Ctrl-C and a polite kill end the process at once, with one line.

    Nothing is written yet, and an exception in the middle of an import would be swallowed or garbled by it.
    """
    for number in _STOPPING:
        signal.signal(number, _leave)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tidy_up_when_stopped() -> None:
    """From now on have both raise KeyboardInterrupt, so that what is half-written is removed on the way out."""
    for number in _STOPPING:
        if signal.getsignal(number) is _leave:  # not in somebody else's process, such as a test's
            signal.signal(number, _interrupt)


@contextmanager
def leave_quickly() -> Iterator[None]:
    """End the process with the exit code of what runs inside, without taking the interpreter apart.

    To free a million objects and two gigabytes one by one before the system takes them back anyway costs most of a
    second. What must be tidied up has been, on the way out of the block.
    """
    try:
        yield
    except SystemExit as leaving:
        if not isinstance(leaving.code, int | None):
            raise  # a message that the interpreter prints
        with suppress(OSError):  # nobody reads any more, as after "| head"
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(leaving.code or 0)


def keep_freed_memory() -> None:
    """Have the C library keep large freed blocks for the next tensor instead of handing each back to the system.

    A network makes and frees a hundred blocks of 100 MB; to get each one anew, page by page and filled with zeros, is a
    tenth of its time. Where the C library is not glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_TOP_PAD, _STEP_BYTES)


@contextmanager
def heavy_import() -> Iterator[None]:
    """Import without the garbage collector, and keep what came out of its way; the work begins after it.

    An import makes no garbage, but half a million objects that live to the end: to look through them again and again,
    and once more when leaving, takes two of the ten seconds that a small scan needs.
    """
    if "torch" in sys.modules or not gc.isenabled():  # a second run in one process has garbage of its own
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        _tidy_up_when_stopped()
