"""The 3x3x3 convolution of the bias-free network, as fast on small crops as on large ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALL = 20480
"""Channels x I x J from which PyTorch hands a batch of one to oneDNN on a CPU."""
_HALVED: ContextVar[bool] = ContextVar("halved", default=True)


@contextmanager
def in_one_piece() -> Iterator[None]:
    """Run every convolution as the one operation that it is, for those who listen to operations."""
    token = _HALVED.set(False)
    try:
        yield
    finally:
        _HALVED.reset(token)


class Convolution(nn.Conv3d):
    """A 3x3x3 convolution without bias.

    A small batch of one goes to a kernel of PyTorch's own that is two to four times slower for each voxel than
    oneDNN's. As a batch of two halves, each with a plane of the other, it goes to oneDNN, and so does its gradient.

    Args:
        inputs: channels before.
        outputs: channels after.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, i, j, k) to (B, outputs, i, j, k)."""
        return self._by_halves(x) if _HALVED.get() and _is_small(x) else super().forward(x)

    def _by_halves(self, x: Tensor) -> Tensor:
        size = x.shape[2]
        half = (size + 1) // 2
        planes = functional.pad(x, (0, 0, 0, 0, 1, 1))
        halves = torch.cat([planes[:, :, : half + 2], planes[:, :, size - half :]])
        made = functional.conv3d(halves, self.weight, self.bias, padding=(0, 1, 1))
        return torch.cat([made[:1], made[1:, :, 2 * half - size :]], dim=2)


def _is_small(x: Tensor) -> bool:
    return len(x) == 1 and x.shape[2] > 1 and x.device.type == "cpu" and x[0, :, :, :, 0].numel() <= SMALL
