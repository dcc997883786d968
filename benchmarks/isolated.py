"""Run one thing in a process of its own: its median time and its peak memory, uncoloured by what ran before."""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Run:
    """What came out, the median seconds of a call, and the process's peak resident memory."""

    result: np.ndarray
    seconds: float
    peak_gb: float


def _work(pipe: Connection, threads: int, repeats: int, function: Callable[..., np.ndarray], arguments: Any) -> None:
    import SimpleITK
    import torch

    torch.set_num_threads(threads)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - begun)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    pipe.send(Run(result, float(np.median(seconds)), peak))


def measure(function: Callable[..., np.ndarray], *arguments: Any, threads: int, repeats: int) -> Run:
    """Call a top-level function ``repeats`` times in a fresh process."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, threads, repeats, function, arguments))
    process.start()
    theirs.close()
    try:
        run: Run = mine.recv()
    except EOFError as error:
        raise RuntimeError(f"{function.__name__} failed in its process; see the traceback above") from error
    process.join()
    return run
