"""Run one thing in a process of its own: its median time and its peak memory, uncoloured by what ran before."""

import ctypes
import gc
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Run:
    """What came out, the median seconds of a call, the process's peak resident memory, and what the calls added.

    What was added is 0 where the system does not count it (anything but Linux).
    """

    result: np.ndarray
    seconds: float
    peak_gb: float
    added_gb: float


def _work(
    pipe: Connection,
    threads: int,
    repeats: int,
    function: Callable[..., np.ndarray],
    arguments: Any,
    prepare: Callable[[], object] | None,
) -> None:
    import SimpleITK
    import torch

    torch.set_num_threads(threads)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    if prepare is not None:
        prepare()
    seconds, held_gb = [], _forget_peak()
    for _ in range(repeats):
        begun = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - begun)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    pipe.send(Run(result, float(np.median(seconds)), peak, _status_gb("VmHWM") - held_gb))


def _forget_peak() -> float:
    """Let the system count this process's peak memory from here; return what it holds already."""
    if STATUS.exists():
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would be used again unseen
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_gb("VmRSS")


def _status_gb(line: str) -> float:
    if not STATUS.exists():
        return 0.0
    found = next(row for row in STATUS.read_text(encoding="ascii").splitlines() if row.startswith(line))
    return int(found.split()[1]) * 1024 / 1e9


def measure(
    function: Callable[..., np.ndarray],
    *arguments: Any,
    threads: int,
    repeats: int,
    prepare: Callable[[], object] | None = None,
) -> Run:
    """Call a top-level function ``repeats`` times in a fresh process, after a top-level ``prepare``."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, threads, repeats, function, arguments, prepare))
    process.start()
    theirs.close()
    try:
        run: Run = mine.recv()
    except EOFError as error:
        raise RuntimeError(f"{function.__name__} failed in its process; see the traceback above") from error
    process.join()
    return run
