"""The network over a whole volume without a graph: features overwritten in place, slab by slab, with fewer products."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medinterp.denoisers.network import BiasFreeUNet, Level, ResidualBlock

SLAB_BYTES = 12_000_000
"""Features worked on at a time: what fits a processor's caches, and what malloc hands out again without page faults."""


IN_PASSING = 22
"""Bytes for each voxel beside the features: image, noise level, bands, estimate, and what is made on the way."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """A network's estimate where no gradient is wanted: the same to rounding, in less time and memory.

    Two features of the finest level are all that is kept, where the network's own modules hold four and, with a graph,
    every one. Convolutions run slab by slab as minimal filtering along I: two planes of the result for four products
    of planes with 3x3 kernels instead of six. Measured for the default network on 256 x 256 x 170 voxels, one thread:
    30 % less processor time than its modules, at a rounding error that is no larger (`python -m benchmarks.cost`).

    Hooks on the network's modules do not run, and no gradient flows: explaining uses the network itself.

    Args:
        network: on a CPU; without biases.

    Source:
        Lavin & Gray, "Fast algorithms for convolutional neural networks", CVPR 2016: F(2, 3) along one axis.
    """

    network: BiasFreeUNet

    @property
    def bytes_per_voxel(self) -> int:
        """Memory for each input voxel: two features of each level, in float32.

        For the default network 100 bytes; measured as the rise of peak resident memory on 256 x 256 x 170 voxels, two
        threads, torch 2.13: 111 in a script, 88 in the command, which had held more before.
        """
        level: Level | None = self.network.body
        features, cells = 0.0, 8
        while level is not None:
            features, level, cells = features + 2 * 4 * level.width / cells, level.inner, 8 * cells
        return round(features) + IN_PASSING

    def __call__(
        self, x: Float[Tensor, "B 1 I J K"], sigma: Float[Tensor, "#B 1 #I #J #K"]
    ) -> Float[Tensor, "B 1 I J K"]:
        """Return the estimate of the clean image, in the unit of ``x``."""
        with torch.no_grad():  # what is overwritten cannot be differentiated: this class is for where none is wanted
            levels = sigma.expand(x.shape[0], *sigma.shape[1:])
            return torch.cat([self._one(x[n : n + 1], levels[n : n + 1]) for n in range(x.shape[0])])

    def _one(self, x: Tensor, sigma: Tensor) -> Tensor:
        state = _convolve(self.network.stem, _as_planes(self.network.features(x, sigma)))
        _run_level(self.network.body, state)
        return self.network.subtract(x, _as_volume(_convolve(self.network.head, state)))


def _run_level(level: Level, x: Tensor) -> None:
    """Overwrite features, as planes (I, C, J, K), by what the level makes of them."""
    hidden = torch.empty_like(x)
    for block in level.down:
        _run_block(block, x, hidden)
    if level.inner is None:
        return
    coarse = _shrink(level.shrink, x)
    _run_level(level.inner, coarse)
    for start, stop in _slabs(coarse):
        fine = level.grow(_as_volume(coarse[start:stop]))
        x[2 * start : 2 * stop].add_(_as_planes(fine))
    for block in level.up:
        _run_block(block, x, hidden)


def _run_block(block: nn.Module, x: Tensor, hidden: Tensor) -> None:
    """Add to features what a residual block adds; ``hidden`` is working memory of the same shape."""
    if not isinstance(block, ResidualBlock):
        raise TypeError(f"a {type(block).__name__} among the residual blocks of the network")
    for where, planes in _convolved(block.first, x):
        torch.clamp(planes, min=0.0, out=hidden[where])
    for where, planes in _convolved(block.second, hidden):
        x[where].add_(planes)


def _shrink(layer: nn.Module, x: Tensor) -> Tensor:
    """Return features at half the resolution, a slab at a time."""
    parts = [_as_planes(layer(_as_volume(x[start:stop]))) for start, stop in _slabs(x)]
    return torch.cat(parts)


def _convolve(layer: nn.Conv3d, planes: Tensor) -> Tensor:
    """Return the features that a 3x3x3 layer makes, as planes."""
    count, _, rows, columns = planes.shape
    made = planes.new_empty(count, rows, columns, layer.out_channels).permute(0, 3, 1, 2)  # channels last in memory
    for where, values in _convolved(layer, planes):
        made[where] = values
    return made


def _convolved(layer: nn.Conv3d, planes: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield which planes of the result, and their values: every second one of a slab, then the others."""
    first, sum_, difference, last = _plane_kernels(layer.weight)
    for start, stop in _slabs(planes):
        even, odd = _interleaved(planes, start, stop)
        product = functional.conv2d(even[:-1] - even[1:], first, padding=1)
        plus = functional.conv2d(odd[:-1] + even[1:], sum_, padding=1)
        minus = functional.conv2d(even[1:] - odd[:-1], difference, padding=1)
        yield slice(start, stop, 2), product.add_(plus).add_(minus)
        product = functional.conv2d(odd[:-1] - odd[1:], last, padding=1)
        yield slice(start + 1, stop, 2), plus.sub_(minus).sub_(product)[: (stop - start) // 2]


def _plane_kernels(weight: Tensor) -> list[Tensor]:
    """Return the 3x3 kernels by which combinations of planes are multiplied: (out, in, 3, 3), channels last."""
    before, here, after = weight.unbind(dim=2)
    kernels = (before, (before + here + after) / 2, (before - here + after) / 2, after)
    return [kernel.contiguous(memory_format=torch.channels_last) for kernel in kernels]


def _interleaved(planes: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return the planes that a slab's result depends on, from the one before it: every second one, and the others.

    Beyond the volume the planes are zero, as the padding of the layer is. Both have one plane more than half the slab.
    """
    needed = stop - start + (stop - start) % 2 + 2
    low, high = max(start - 1, 0), min(start - 1 + needed, planes.shape[0])
    part = planes[low:high]
    if high - low < needed:
        before = low - (start - 1)
        part = functional.pad(part, (0, 0, 0, 0, 0, 0, before, needed - (high - low) - before))
    return part[0::2], part[1::2]


def _slabs(planes: Tensor) -> list[tuple[int, int]]:
    """Cut features into slabs of an even number of planes, the last of what is left."""
    count = planes.shape[0]
    thick = max(2, SLAB_BYTES // (planes[:1].numel() * planes.element_size()) // 2 * 2)
    return [(start, min(start + thick, count)) for start in range(0, count, thick)]


def _as_planes(volume: Tensor) -> Tensor:
    """Return features (1, C, I, J, K) as planes (I, C, J, K) with channels last in memory."""
    return volume[0].movedim(1, 0).contiguous(memory_format=torch.channels_last)


def _as_volume(planes: Tensor) -> Tensor:
    """Return planes (I, C, J, K) as features (1, C, I, J, K), sharing their memory."""
    return planes.movedim(0, 1)[None]
