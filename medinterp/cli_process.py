"""What the command line may do to its own process, and a library may not: how memory and garbage are kept."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt's names of them in malloc.h
_STEP_BYTES = 256 * 2**20


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
    """Import without the garbage collector, and keep what came out of its way.

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
