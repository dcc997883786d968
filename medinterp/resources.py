"""What a run may use of this machine: the device that was asked for, and the memory that is left."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from medinterp.denoisers.tiled import BYTES_PER_VOXEL
from medinterp.errors import DeviceError

SHARE_OF_FREE = 0.75
CPU = torch.device("cpu")


def check_device(name: str) -> torch.device:
    """Return the device that was asked for; there is no silent fallback.

    Raises:
        DeviceError: it is unknown or absent.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"no device '{name}': choose cpu, cuda, cuda:N or mps") from error
    available = {
        "cpu": (device.index or 0) == 0,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise DeviceError(f"device '{name}' was asked for and is absent on this machine; use --device cpu")
    return device


def memory_budget(max_memory_gb: float | None, device: torch.device = CPU) -> int:
    """Return how many bytes a computation may take within the memory limit.

    Args:
        max_memory_gb: limit for the whole process, in GB; None for three quarters of what is free.
        device: where the network runs: a CUDA device's own memory counts, else the machine's.

    Raises:
        DeviceError: the limit is below what one tile needs, or above what the machine has.
    """
    free, total, used = _memory(device)
    if max_memory_gb is None:
        usable = SHARE_OF_FREE * free
    elif max_memory_gb * 1e9 > total:
        raise DeviceError(f"--max-memory {max_memory_gb:g}: {device} has {total / 1e9:.1f} GB; ask for less")
    else:
        usable = max_memory_gb * 1e9 - used
    if usable < 64**3 * BYTES_PER_VOXEL:
        raise DeviceError(
            f"{max(usable, 0) / 1e9:.2f} GB are left for the computation, which is less than one 64x64x64 tile needs "
            f"({64**3 * BYTES_PER_VOXEL / 1e9:.2f} GB); raise --max-memory or free memory"
        )
    return int(usable)


def _memory(device: torch.device) -> tuple[int, int, int]:
    """Return the bytes that are free on a device, that it has, and that this process holds already."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, total, torch.cuda.memory_reserved(device)
    memory = psutil.virtual_memory()
    return memory.available, memory.total, psutil.Process().memory_info().rss


def peak_memory_gb() -> float:
    """Return the largest resident memory of this process so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a computation that ran out of memory into one readable error; other errors pass.

    Raises:
        DeviceError: Python, PyTorch on the CPU or a GPU could not allocate.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # PyTorch's allocators raise RuntimeError and say what it was
        text = str(error).lower()
        if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
            raise DeviceError(
                "the computation ran out of memory; give a lower --max-memory, so that the scan is taken in tiles"
            ) from error
        raise
