"""The bias-free, norm-free 3D U-Net: piecewise linear through the origin in (image, sigma)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medinterp.denoisers.convolution import Convolution
from medinterp.denoisers.focus import Focus, Triple, Window, focus_on

DARK_SIGMAS = 4.0
"""Local means above this many noise levels look all the same to the network."""
STRIDE = 8
"""Voxels between two positions of the coarsest level: crops and tiles must start on a multiple of it."""


def _haar_kernel() -> Tensor:
    """Return the orthonormal 2x2x2 Haar analysis kernels, shape (8, 1, 2, 2, 2); the first is the low band."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    return torch.einsum("ai,bj,ck->abcijk", pair, pair, pair).reshape(8, 1, 2, 2, 2)


def _convolution(inputs: int, outputs: int, *, gain: float = 1.0) -> Convolution:
    layer = Convolution(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    with torch.no_grad():  # initialisation only; nothing is differentiated here
        layer.weight.mul_(gain)
    return layer


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), without bias or normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.relu = nn.ReLU()
        self.second = _convolution(width, width, gain=0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, i, j, k) to the same shape."""
        return x + self.second(self.relu(self.first(x)))


class Level(nn.Module):
    """Residual blocks on the way down, the coarser level, residual blocks on the way up."""

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.width = width = widths[0]
        self.down = nn.Sequential(*[ResidualBlock(width) for _ in range(blocks[0])])
        self.inner: Level | None = None
        if len(widths) > 1:
            self.shrink = nn.Conv3d(width, widths[1], 2, stride=2, bias=False)
            self.inner = Level(widths[1:], blocks[1:])
            self.grow = nn.ConvTranspose3d(widths[1], width, 2, stride=2, bias=False)
            self.up = nn.Sequential(*[ResidualBlock(width) for _ in range(blocks[0])])

    def forward(self, x: Tensor, focus: Focus | None = None) -> Tensor:
        """Map (B, width, i, j, k) to the same shape; with a focus, from its ``given`` window to its ``result``."""
        x = self.down(x)
        if self.inner is None:
            return x
        if focus is None or focus.inner is None or focus.kept is None:
            return self.up(x + self.grow(self.inner(self.shrink(x))))
        x = focus.kept.cut(x, focus.given)
        coarse = self.grow(self.inner(self.shrink(x), focus.inner))
        return self.up(focus.result.cut(x, focus.kept) + focus.result.cut(coarse, focus.inner.result.doubled()))


class BiasFreeUNet(nn.Module):
    """Estimate the clean image from a noisy one and its noise level, with convolutions and ReLUs only.

    There is no bias and no normalisation over space, so the network is piecewise linear through the origin:
    D(a x, a sigma) = a D(x, sigma) and D(x, sigma) = J_x x + J_sigma sigma, exactly. Degree-1 homogeneity also makes
    EDM's input scaling c_in and output scaling c_out cancel, so the preconditioning reduces to D = x - F(x, sigma).

    The image enters as orthonormal 2x2x2 Haar bands at half resolution. The low band's local mean is taken out of it,
    so that structure does not ride on a large offset, and enters by itself only as far as it matters: up to
    ``DARK_SIGMAS`` noise levels, where Rician noise is biased. Every feature is thus of the size of the noise or of an
    edge, which the training needs.

    Args:
        widths: channels at 1/2, 1/4 and 1/8 resolution.
        blocks: residual blocks at each of these, on the way down and again on the way up (once at the coarsest).
        magnitude: whether noise is biased where the signal is near zero, as in magnitude MRI. Without it, as for CT in
            HU, nothing counts as dark, so that a constant added to the scan is added to the estimate.

    Source:
        Mohan et al., "Robust and interpretable blind image denoising via bias-free CNNs", ICLR 2020 (bias-free);
        Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, eq. 7
        (preconditioning).
    """

    def __init__(
        self, widths: Sequence[int] = (64, 96, 128), blocks: Sequence[int] = (1, 2, 1), *, magnitude: bool = True
    ) -> None:
        super().__init__()
        self.magnitude = magnitude
        if 2 ** len(widths) != STRIDE or len(blocks) != len(widths):
            raise ValueError(f"widths {widths} and blocks {blocks}: give three of each, for 1/2, 1/4, 1/8 resolution")
        self.haar: Tensor
        self.register_buffer("haar", _haar_kernel(), persistent=False)
        self.relu = nn.ReLU()
        self.stem = _convolution(10, widths[0])
        self.body = Level(tuple(widths), tuple(blocks))
        self.head = _convolution(widths[0], 8, gain=0.1)

    def forward(
        self,
        x: Float[Tensor, "B 1 I J K"],
        sigma: Float[Tensor, "#B 1 #I #J #K"] | None = None,
        box: tuple[Triple, Triple] | None = None,
    ) -> Float[Tensor, "B 1 I J K"]:
        """Return the estimate of the clean image, in the unit of ``x``.

        Args:
            x: noisy image; any size, padded inside to a multiple of 8, and at least 16, by repeating its border.
            sigma: noise standard deviation, in the unit of ``x``, a scalar or a map. Without it (the single-tensor
                call that MONAI's tools make) each sample's is estimated from its finest diagonal detail.
            box: first voxel, and one past the last, along I, J and K, of the only part of the estimate that will be
                looked at. Nothing is computed that it does not depend on, and outside of it is no estimate.
        """
        features = self.features(x, sigma)
        if box is None:
            return self.subtract(x, self.head(self.body(self.stem(features))))
        shape = (features.shape[2], features.shape[3], features.shape[4])
        whole, asked = Window((0, 0, 0), shape), Window(*box).halved()
        focus = focus_on(self.body, asked.grown(1, shape), shape)  # 1: the head's own reach
        entered = focus.given.grown(1, shape)
        stem = focus.given.cut(self.stem(entered.cut(features, whole)), entered)
        removed = asked.cut(self.head(self.body(stem, focus)), focus.result)
        return self.subtract(x, functional.pad(removed, asked.margins(shape)))

    def within(self, box: tuple[Triple, Triple]) -> Callable[[Tensor, Tensor], Tensor]:
        """Return this denoiser for those who will look at a box of its estimate only: cheaper, and the same there."""
        return partial(self, box=box)

    def features(self, x: Tensor, sigma: Tensor | None) -> Tensor:
        """Return what the network looks at, (B, 10, i, j, k) at half resolution: the bands, darkness, and noise level.

        Args:
            x: noisy image.
            sigma: noise standard deviation, or None to estimate it.
        """
        pad = _padding(x)
        padded = functional.pad(x, pad, mode="replicate") if any(pad) else x
        bands = functional.conv3d(padded, self.haar, stride=2)
        half = self._half_sigma(bands, sigma, x, pad)
        mean_band = functional.avg_pool3d(bands[:, :1], 5, stride=1, padding=2, count_include_pad=False)
        if not self.magnitude:
            everywhere = (DARK_SIGMAS * half).expand(mean_band.shape)
            return torch.cat([bands[:, :1] - mean_band, bands[:, 1:], everywhere, half], dim=1)
        mean = mean_band * 2**-1.5  # the orthonormal low band is 2^1.5 times the mean intensity
        level = self.relu(mean) + self.relu(-mean)  # far below zero, as air in HU, is as far from dark as far above
        dark = level - self.relu(level - DARK_SIGMAS * half)  # min(level, 4 sigma), and still piecewise linear
        return torch.cat([bands[:, :1] - mean_band, bands[:, 1:], dark, half], dim=1)

    def subtract(self, x: Tensor, removed: Tensor) -> Tensor:
        """Return the image less its noise, which is given as bands (B, 8, i, j, k) at half resolution."""
        noise = functional.conv_transpose3d(removed, self.haar, stride=2)
        return x - noise[..., : x.shape[2], : x.shape[3], : x.shape[4]]

    def _half_sigma(self, bands: Tensor, sigma: Tensor | None, x: Tensor, pad: list[int]) -> Tensor:
        if sigma is None:
            finest = bands[:, -1].abs().flatten(1)
            level = finest.median(dim=1).values / 0.6745
            return level.reshape(-1, 1, 1, 1, 1).expand(-1, 1, *bands.shape[2:])
        if max(sigma.shape[2:]) == 1:
            return sigma.expand(x.shape[0], 1, *bands.shape[2:])
        full = sigma.expand(x.shape)
        full = functional.pad(full, pad, mode="replicate") if any(pad) else full
        return functional.avg_pool3d(full, 2)


def _padding(x: Tensor) -> list[int]:
    """Return what is added, last axis first, to reach a multiple of the stride and two cells of it at least."""
    return [p for size in reversed(x.shape[2:]) for p in (0, max(-size % STRIDE, 2 * STRIDE - size))]


def receptive_radius(network: BiasFreeUNet) -> int:
    """Return how many voxels around an output voxel can influence it, as a multiple of the stride.

    A crop that contains a region and this margin, and starts on a multiple of the stride, gives the region's value
    and gradient exactly. No smaller multiple of the stride would do: the reach is one voxel less in the direction and
    at the position inside a coarsest cell where it is longest (72 voxels for the default network). Holds when
    ``sigma`` is given; without it the estimated noise level depends on the whole image.
    """
    level: Level | None = network.body
    reach, scale = 2 * (2 + 1 + 1), 2  # local mean, stem and head, one after the other at half resolution
    while level is not None:
        convolutions = sum(2 for _ in level.down) + (sum(2 for _ in level.up) if level.inner is not None else 0)
        reach += scale * convolutions
        level, scale = level.inner, scale * 2
    reach += STRIDE - 1  # the strided cells themselves: an output voxel sees its whole coarsest cell
    return -(-reach // STRIDE) * STRIDE
