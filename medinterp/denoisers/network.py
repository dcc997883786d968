"""The bias-free, norm-free 3D U-Net: piecewise linear through the origin in (image, sigma)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

DARK_SIGMAS = 4.0
"""Local means above this many noise levels look all the same to the network."""
STRIDE = 8
"""Voxels between two positions of the coarsest level: crops and tiles must start on a multiple of it."""


def _haar_kernel() -> Tensor:
    """Return the orthonormal 2x2x2 Haar analysis kernels, shape (8, 1, 2, 2, 2); the first is the low band."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    return torch.einsum("ai,bj,ck->abcijk", pair, pair, pair).reshape(8, 1, 2, 2, 2)


def _convolution(inputs: int, outputs: int, *, gain: float = 1.0) -> nn.Conv3d:
    layer = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
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
        width = widths[0]
        self.down = nn.Sequential(*[ResidualBlock(width) for _ in range(blocks[0])])
        self.inner: Level | None = None
        if len(widths) > 1:
            self.shrink = nn.Conv3d(width, widths[1], 2, stride=2, bias=False)
            self.inner = Level(widths[1:], blocks[1:])
            self.grow = nn.ConvTranspose3d(widths[1], width, 2, stride=2, bias=False)
            self.up = nn.Sequential(*[ResidualBlock(width) for _ in range(blocks[0])])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, i, j, k) to the same shape."""
        x = self.down(x)
        if self.inner is None:
            return x
        return self.up(x + self.grow(self.inner(self.shrink(x))))


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

    Source:
        Mohan et al., "Robust and interpretable blind image denoising via bias-free CNNs", ICLR 2020 (bias-free);
        Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, eq. 7
        (preconditioning).
    """

    def __init__(self, widths: Sequence[int] = (64, 96, 128), blocks: Sequence[int] = (1, 2, 1)) -> None:
        super().__init__()
        if 2 ** len(widths) != STRIDE or len(blocks) != len(widths):
            raise ValueError(f"widths {widths} and blocks {blocks}: give three of each, for 1/2, 1/4, 1/8 resolution")
        self.haar: Tensor
        self.register_buffer("haar", _haar_kernel(), persistent=False)
        self.relu = nn.ReLU()
        self.stem = _convolution(10, widths[0])
        self.body = Level(tuple(widths), tuple(blocks))
        self.head = _convolution(widths[0], 8, gain=0.1)

    def forward(
        self, x: Float[Tensor, "B 1 I J K"], sigma: Float[Tensor, "#B 1 #I #J #K"] | None = None
    ) -> Float[Tensor, "B 1 I J K"]:
        """Return the estimate of the clean image, in the unit of ``x``.

        Args:
            x: noisy image; any size, padded inside to a multiple of 8, and at least 16, by repeating its border.
            sigma: noise standard deviation, in the unit of ``x``, a scalar or a map. Without it (the single-tensor
                call that MONAI's tools make) each sample's is estimated from its finest diagonal detail.
        """
        shape = x.shape[2:]
        pad = [p for size in reversed(shape) for p in (0, max(-size % STRIDE, 2 * STRIDE - size))]
        padded = functional.pad(x, pad, mode="replicate") if any(pad) else x
        bands = functional.conv3d(padded, self.haar, stride=2)
        half = self._half_sigma(bands, sigma, x, pad)
        mean_band = functional.avg_pool3d(bands[:, :1], 5, stride=1, padding=2, count_include_pad=False)
        mean = mean_band / 2**1.5  # the orthonormal low band is 2^1.5 times the mean intensity
        level = self.relu(mean) + self.relu(-mean)  # far below zero, as air in HU, is as far from dark as far above
        dark = level - self.relu(level - DARK_SIGMAS * half)  # min(level, 4 sigma), and still piecewise linear
        features = torch.cat([bands[:, :1] - mean_band, bands[:, 1:], dark, half], dim=1)
        removed = self.head(self.body(self.stem(features)))
        noise = functional.conv_transpose3d(removed, self.haar, stride=2)
        return x - noise[..., : shape[0], : shape[1], : shape[2]]

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
