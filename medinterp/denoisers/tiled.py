"""Exact tiling: a volume too large for memory, denoised crop by crop with the same result."""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.denoisers.base import Denoiser, evaluate
from medinterp.denoisers.network import STRIDE
from medinterp.errors import ConfigError, DeviceError
from medinterp.progress import OnStep, StepInfo, ignore

BYTES_PER_VOXEL = 240
"""Memory that a denoiser that declares no ``bytes_per_voxel`` is taken to need for each input voxel, without a graph.

That of the default network's own modules (64-96-128, 1-2-1), in float32 on a CPU: peak resident memory over what was
resident before, one thread, torch 2.13: 237 bytes at 128^3 (194 with channels_last_3d weights).
"""


@dataclass(frozen=True)
class Span:
    """One tile along one axis: the crop the denoiser sees, and the core that is kept of its answer."""

    start: int
    stop: int
    core_start: int
    core_stop: int


@dataclass(frozen=True)
class Tiled:
    """A denoiser that works on one tile at a time, each with a halo of its surroundings.

    Equal to the denoiser on the whole volume when ``halo`` is at least the denoiser's receptive radius; crops begin
    on multiples of ``stride`` (a strided network's cells then fall where they would in the whole volume), and reach
    the volume's end where the volume's own padding does. With a smaller halo the difference was measured, as a share
    of the denoiser's error: 23 % at 0, 0.8 % at 8, 0.45 % at 16, 0.09 % at 24 voxels.

    Args:
        denoiser: what is tiled; must not depend on the whole image (no normalisation or attention over space).
        tile: voxels along I, J, K that one tile answers for; a multiple of ``stride`` unless the axis is not cut.
        halo: voxels of surroundings on every side, clipped at the volume's border.
        stride: voxels between two positions of the denoiser's coarsest level.
        on_tile: told after every tile.
    """

    denoiser: Denoiser
    tile: tuple[int, int, int]
    halo: int
    stride: int = STRIDE
    on_tile: OnStep = ignore

    def __post_init__(self) -> None:
        if len(self.tile) != 3 or min(self.tile) < 1 or self.halo < 0 or self.stride < 1:
            raise ConfigError(
                f"tile {self.tile}, halo {self.halo}, stride {self.stride}: expected three positive tile sizes, "
                "a halo of 0 or more and a stride of 1 or more"
            )

    def __call__(
        self,
        x: Float[Tensor, "B C I J K"],
        sigma: Float[Tensor, "#B #C #I #J #K"],
        *,
        cond: Float[Tensor, "B C2 I J K"] | None = None,
    ) -> Float[Tensor, "B C I J K"]:
        """Return the denoiser's estimate for the whole volume.

        Raises:
            ConfigError: an axis would be cut at a voxel that is not a multiple of the stride.
        """
        axes = [
            spans(length, tile, self.halo, self.stride) for length, tile in zip(x.shape[2:], self.tile, strict=True)
        ]
        cores = []
        for where in product(*axes):
            part = evaluate(
                self.denoiser, _crop(x, where), _crop(sigma, where), None if cond is None else _crop(cond, where)
            )
            cores.append(_core(part, where))
            self.on_tile(StepInfo("tile", len(cores), math.prod(len(axis) for axis in axes)))
        for dim in (4, 3, 2):  # the last axis varies fastest; concatenation, unlike assignment, suits every transform
            count = len(axes[dim - 2])
            cores = [torch.cat(cores[n : n + count], dim=dim) for n in range(0, len(cores), count)]
        return cores[0]


def spans(length: int, tile: int, halo: int, stride: int = STRIDE) -> list[Span]:
    """Cut one axis of ``length`` voxels into tiles with their halo, crops beginning on multiples of ``stride``."""
    if tile < length and tile % stride:
        raise ConfigError(
            f"a tile of {tile} voxels would cut an axis of {length} between the network's cells; "
            f"give a multiple of {stride}, or at least {length}"
        )
    cuts = []
    for core in range(0, length, tile):
        core_stop = min(core + tile, length)
        start = max(0, (core - halo) // stride * stride)
        cuts.append(Span(start, min(core_stop + halo, length), core, core_stop))
    return cuts


def choose_tile(
    shape: tuple[int, int, int], max_voxels: int | None, radius: int | None, stride: int = STRIDE
) -> tuple[int, int, int] | None:
    """Return the tile that does the least double work while no crop exceeds ``max_voxels``; None: no tiling needed.

    Halos are computed twice, so this cuts the longest axis into a few thick slabs as long as that suffices.

    Args:
        shape: voxels of the volume along I, J, K.
        max_voxels: voxels the denoiser may see at once, halo included; None for no limit.
        radius: receptive radius of the denoiser, which becomes the halo; None when it has none.
        stride: of the denoiser.

    Raises:
        DeviceError: no tile fits; the message says what would.
    """
    if max_voxels is None or math.prod(shape) <= max_voxels:
        return None
    if radius is None:
        raise DeviceError(
            f"{math.prod(shape)} voxels exceed the limit of {max_voxels}, and this denoiser sees the whole volume at "
            "once, so that tiles would change the result; allow more memory, or use a model with a receptive radius"
        )
    options = [_tile_options(length, radius, stride) for length in shape]
    largest = _outer([crops for _, crops, _ in options])
    work = np.where(largest <= max_voxels, _outer([total for _, _, total in options]), np.inf)
    if not np.isfinite(work).any():
        raise DeviceError(
            f"no tile of a {shape} volume fits {max_voxels} voxels: with a halo of {radius} the smallest crop has "
            f"{int(largest.min())}; allow more memory"
        )
    best = np.unravel_index(int(work.argmin()), work.shape)
    i, j, k = (int(tiles[n]) for (tiles, _, _), n in zip(options, best, strict=True))
    return i, j, k


_Options = tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]


def _tile_options(length: int, halo: int, stride: int) -> _Options:
    """Return, for every useful tile size of one axis, the size, its largest crop and the sum of its crops.

    The whole axis comes first, and of sizes that need equally many tiles the smallest suffices.
    """
    counts = range(1, -(-length // stride) + 1)
    sizes = dict.fromkeys(length if n == 1 else -(-length // (n * stride)) * stride for n in counts)
    extents = [[cut.stop - cut.start for cut in spans(length, size, halo, stride)] for size in sizes]
    return (
        np.array(list(sizes), dtype=np.float64),
        np.array([max(e) for e in extents], dtype=np.float64),
        np.array([sum(e) for e in extents], dtype=np.float64),
    )


def _outer(
    axes: list[np.ndarray[tuple[int], np.dtype[np.float64]]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    i, j, k = axes
    return i[:, None, None] * j[None, :, None] * k[None, None, :]


def _crop(image: Tensor, where: tuple[Span, ...]) -> Tensor:
    """Cut the crop out of an image or a map; an axis of one voxel is a constant and stays."""
    i, j, k = (slice(None) if n == 1 else slice(s.start, s.stop) for n, s in zip(image.shape[2:], where, strict=True))
    return image[:, :, i, j, k]


def _core(part: Tensor, where: tuple[Span, ...]) -> Tensor:
    i, j, k = (slice(s.core_start - s.start, s.core_stop - s.start) for s in where)
    return part[:, :, i, j, k]
