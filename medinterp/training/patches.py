"""Training batches by number: any worker can draw any step's, and the numbers decide what is in it."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from medinterp.training.draws import seeded
from medinterp.training.simulate import Batch, BatchSource

_STREAM = 1  # keeps the batches' random numbers apart from the phantoms' with the same seed


@dataclass(frozen=True)
class Request:
    """Which batch to draw.

    Args:
        seed: of the training.
        step: the batch's number.
        batch: samples.
        size: patch edge in voxels.
    """

    seed: int
    step: int
    batch: int
    size: int


class PatchDataset(Dataset[Batch]):
    """Batches of a source, each drawn by a generator that depends on the seed and the step's number alone.

    Args:
        source: what draws them.
    """

    def __init__(self, source: BatchSource) -> None:
        self.source = source

    def __getitem__(self, request: Request) -> Batch:
        """Draw one batch."""
        generator = seeded(request.seed, _STREAM, request.step)
        return self.source.draw(request.batch, request.size, generator, step=request.step)

    def batches(self, requests: Iterator[Request], *, workers: int = 0, pinned: bool = False) -> Iterator[Batch]:
        """Yield the requested batches in order.

        Args:
            requests: what to draw; read ahead by two a worker.
            workers: processes that draw; 0 draws here.
            pinned: put them into memory from which copies to a GPU need not be waited for.
        """
        if workers == 0 and not pinned:
            yield from (self[request] for request in requests)
            return
        loader: DataLoader[Batch] = DataLoader(
            self,
            sampler=requests,
            batch_size=None,
            num_workers=workers,
            pin_memory=pinned,
            generator=torch.Generator(),  # else the loader would draw its base seed from the global one
        )
        with warnings.catch_warnings():  # Python 3.12 warns of any fork beside threads; torch's workers use none
            warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
            yield from loader
