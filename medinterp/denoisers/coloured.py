"""Coloured noise with a denoiser for white noise: on two scales, and the low frequencies, which hold none, kept."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medinterp.denoisers.base import Denoiser, evaluate
from medinterp.denoisers.focus import Triple
from medinterp.denoisers.network import STRIDE
from medinterp.denoisers.tiled import BYTES_PER_VOXEL, Tiled
from medinterp.errors import ConfigError
from medinterp.noise.spectrum import NoiseSpectrum
from medinterp.progress import OnStep, ignore

CORRELATED = 0.25
"""Correlation of neighbours along an axis from which on pairs of voxels are averaged along it."""
KEPT_MM = 2.5
"""Standard deviation of the Gaussian that divides a slice into what the scan knows better and what the denoiser does.

Half its amplitude is left at 0.075/mm. Where a denoiser's error and the noise of filtered back-projection are equal was
measured at 0.07 to 0.14/mm, lowest for a smooth kernel and much noise: docs/decisions/0003-coloured-noise.md.
"""
KEPT_VOXELS = 1.6
"""The same in voxels, where they are large: a Gaussian hardly wider than a voxel would give its noise back."""
TRUNCATED = 3.0
"""Standard deviations at which the Gaussian ends."""


@dataclass(frozen=True)
class Split:
    """How noise of one colour divides over two scales.

    Args:
        edges: voxels that are averaged along I, J, K: 1 or 2.
        coarse: noise of their means over that of a voxel.
        fine: noise of what the means leave, by its own number of coefficients, over that of a voxel.
    """

    edges: tuple[int, int, int]
    coarse: float
    fine: float


def split(spectrum: NoiseSpectrum) -> Split:
    """Say along which axes noise is correlated and how it divides over means of neighbours and the rest."""
    correlation = spectrum.autocorrelation
    correlated = [len(line) > 1 and float(line[1]) > CORRELATED for line in spectrum.lines()]
    for axis, pooled in enumerate(correlated):  # variance of means: correlations weighted 1/4, 1/2, 1/4 along the axis
        lags = np.moveaxis(correlation, axis, 0)
        middle = len(lags) // 2
        near = 0.25 * lags[middle - 1] + 0.5 * lags[middle] + 0.25 * lags[middle + 1] if pooled else lags[middle]
        correlation = np.moveaxis(near[None], 0, axis)
    i, j, k = (2 if pooled else 1 for pooled in correlated)
    count = i * j * k
    low = min(max(float(correlation[0, 0, 0]), 1e-4), 1.0)
    high = 1.0 if count == 1 else (1 - low) * count / (count - 1)
    return Split((i, j, k), low**0.5, max(high, 1e-4) ** 0.5)


@dataclass(frozen=True, eq=False)
class TwoScale:
    """Remove coloured noise with a denoiser made for white noise.

    A denoiser for white noise reads the noise from the finest detail. Noise that is correlated between neighbours has
    little there and much below, so that it is taken for texture and left. Here means of neighbouring voxels (pairs,
    along the correlated axes alone) are denoised first, on their own coarser grid, where the same noise is nearly
    white; what was removed is taken off every voxel; and the result is denoised on the scan's own grid, told the noise
    that its finer detail holds.

    Filtered back-projection leaves next to no noise at the lowest frequencies of a slice, but a denoiser that expects
    white noise pulls the mean of an organ towards that of its surroundings. So the low frequencies of what it removed
    are given back, and HU keep their means. All of it is linear: the estimate stays piecewise linear through the origin
    in (image, noise level) where the denoiser is.

    Until it is told a spectrum it is the denoiser itself.
    Choice and figures: docs/decisions/0003-coloured-noise.md.

    Args:
        denoiser: for white noise.
        spectrum: of the scan's noise; only its shape is used, the level is sigma's.
    """

    denoiser: Denoiser
    spectrum: NoiseSpectrum | None = None

    def told(self, spectrum: NoiseSpectrum) -> "TwoScale":
        """Return this denoiser for noise of one colour."""
        return replace(self, spectrum=spectrum)

    @property
    def split(self) -> Split:
        """How the noise divides over the two scales."""
        if self.spectrum is None or self.spectrum.variance == 0:
            return Split((1, 1, 1), 1.0, 1.0)
        return split(self.spectrum)

    @property
    def stride(self) -> int:
        """Crops must start on a multiple of this many voxels."""
        return STRIDE * max(self.split.edges)

    @property
    def halo(self) -> int | None:
        """Voxels of surroundings that one evaluation of the denoiser needs, on either scale."""
        reach = getattr(self.denoiser, "radius", None)
        return None if reach is None else int(reach)

    @property
    def radius(self) -> int | None:
        """Voxels around an output voxel that can influence it; None when all of them can."""
        if self.halo is None or self.spectrum is None:
            return self.halo
        both = self.halo if self.stride == STRIDE else 3 * self.halo + 2  # the coarse scale's, in voxels, and the fine
        return -(-(both + max(self._reach)) // self.stride) * self.stride

    @property
    def _kept_voxels(self) -> tuple[float, float, float]:
        """Standard deviation of the Gaussian along I, J, K in voxels: none across the slices."""
        if self.spectrum is None:
            return (0.0, 0.0, 0.0)
        across = self.spectrum.slice_axis
        plane = [mm for axis, mm in enumerate(self.spectrum.spacing_mm) if axis != across]
        kept_mm = max(KEPT_MM, KEPT_VOXELS * max(plane))
        i, j, k = (0.0 if axis == across else kept_mm / mm for axis, mm in enumerate(self.spectrum.spacing_mm))
        return i, j, k

    @property
    def _reach(self) -> Triple:
        """Voxels over which low frequencies are taken, along I, J, K."""
        i, j, k = (math.ceil(TRUNCATED * sd) for sd in self._kept_voxels)
        return i, j, k

    @property
    def bytes_per_voxel(self) -> int:
        """Memory that an estimate without a graph takes for each voxel: the denoiser's, and six images."""
        return int(getattr(self.denoiser, "bytes_per_voxel", BYTES_PER_VOXEL)) + 24

    @property
    def network(self) -> Any:
        """The denoiser's network, None where it has none."""
        return getattr(self.denoiser, "network", None)

    def with_network(self, network: Denoiser) -> "TwoScale":
        """Return the same around another network."""
        return replace(self, denoiser=getattr(self.denoiser, "with_network", lambda n: n)(network))

    @property
    def weights_sha256(self) -> str:
        """Hash of the denoiser's weights."""
        return str(getattr(self.denoiser, "weights_sha256", ""))

    def to(self, device: torch.device) -> "TwoScale":
        """Move the denoiser; returns itself."""
        if hasattr(self.denoiser, "to"):
            self.denoiser.to(device)
        return self

    def without_graph(self) -> "TwoScale":
        """Return a denoiser with the same estimate to rounding, made in less time and memory, that has no gradient."""
        return replace(self, denoiser=getattr(self.denoiser, "without_graph", lambda: self.denoiser)())

    def within(self, box: tuple[Triple, Triple]) -> Denoiser:
        """Return a denoiser whose estimate is this one's inside a box of voxels and nothing outside, for less work.

        Args:
            box: first voxel, and one past the last, along I, J and K.
        """
        narrow = getattr(self.denoiser, "within", None)
        return self if narrow is None or self.halo is None else partial(self._estimate, box=box, narrow=narrow)

    def in_tiles(self, tile: tuple[int, int, int], halo: int, *, on_tile: OnStep = ignore) -> "TwoScale":
        """Return the same for volumes too large for the denoiser, which then sees a tile at a time on either scale."""
        return replace(self, denoiser=Tiled(self.denoiser, tile, halo, on_tile=on_tile))

    def __call__(
        self,
        x: Float[Tensor, "B C I J K"],
        sigma: Float[Tensor, "#B #C #I #J #K"],
        *,
        cond: Float[Tensor, "B C2 I J K"] | None = None,
    ) -> Float[Tensor, "B C I J K"]:
        """Return the estimate, in the unit of ``x``.

        Raises:
            ConfigError: images to condition on were given.
        """
        if cond is not None:
            raise ConfigError("a denoiser on two scales takes no images to condition on; leave them out")
        return self._estimate(x, sigma)

    def _estimate(self, x: Tensor, sigma: Tensor, *, box: Any = None, narrow: Any = None) -> Tensor:
        """Return the estimate: everywhere, or in a box with denoisers that ``narrow`` makes for their part of it."""
        shares, needed = self.split, box and _grown(box, self._reach, x)
        fine = self.denoiser if needed is None else narrow(needed)
        cleaned = x
        if max(shares.edges) > 1:
            means = _means(x, shares.edges)
            level = sigma if max(sigma.shape[2:]) == 1 else _means(sigma, shares.edges)
            coarse = self.denoiser if needed is None else narrow(self._seen(needed, means, shares.edges))
            change = evaluate(coarse, means, level * shares.coarse) - means
            cleaned = x + _spread(change, shares.edges, x)
        cleaned = evaluate(fine, cleaned, sigma * shares.fine)
        return cleaned if self.spectrum is None else cleaned + self._low(x - cleaned)

    def _low(self, x: Tensor) -> Tensor:
        """Return the low frequencies of every slice; voxels beyond the border repeat it."""
        for axis, (reach, sd) in enumerate(zip(self._reach, self._kept_voxels, strict=True), start=2):
            if reach:
                line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device) / sd) ** 2)
                shape, pad = [1, 1, 1, 1, 1], [0] * 6
                shape[axis] = len(line)
                pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = reach
                x = functional.conv3d(functional.pad(x, pad, mode="replicate"), (line / line.sum()).reshape(shape))
        return x

    def _seen(self, box: tuple[Triple, Triple], means: Tensor, edges: Triple) -> tuple[Triple, Triple]:
        """Return the means on which the estimate in a box of voxels depends."""
        reach = self.halo or 0
        first = [max(at - reach, 0) // edge for at, edge in zip(box[0], edges, strict=True)]
        last = [min(-(-(at + reach) // edge), n) for at, edge, n in zip(box[1], edges, means.shape[2:], strict=True)]
        return (first[0], first[1], first[2]), (last[0], last[1], last[2])


def _grown(box: tuple[Triple, Triple], by: Triple, image: Tensor) -> tuple[Triple, Triple]:
    """Return a box with a margin, as far as the image reaches."""
    first = [max(at - reach, 0) for at, reach in zip(box[0], by, strict=True)]
    last = [min(at + reach, n) for at, reach, n in zip(box[1], by, image.shape[2:], strict=True)]
    return (first[0], first[1], first[2]), (last[0], last[1], last[2])


def _means(x: Tensor, edges: tuple[int, int, int]) -> Tensor:
    """Return the means of blocks; a last, incomplete block repeats its voxels."""
    pad = [p for size, edge in zip(reversed(x.shape[2:]), reversed(edges), strict=True) for p in (0, -size % edge)]
    return functional.avg_pool3d(functional.pad(x, pad, mode="replicate") if any(pad) else x, edges)


def _spread(means: Tensor, edges: tuple[int, int, int], like: Tensor) -> Tensor:
    """Give every voxel of a block the block's value."""
    for axis, edge in enumerate(edges, start=2):
        if edge > 1:
            means = means.repeat_interleave(edge, dim=axis)
    i, j, k = like.shape[2:]
    return means[..., :i, :j, :k]
