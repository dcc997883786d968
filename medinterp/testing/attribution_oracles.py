"""Known answers for attribution: forwards whose explanation has a closed form, and a method that must be rejected."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medinterp.attribution.result import Attribution, Forward
from medinterp.attribution.targets import Target

SCAN = "scan"
"""Name under which the one-input forwards take their image."""


@dataclass(frozen=True)
class DenoiserForward:
    """The forward of one denoising step of one scan.

    Args:
        denoiser: called once, on the input named SCAN.
        explained: what the image is.
    """

    denoiser: Callable[..., Tensor]
    explained: str = "one denoising step"

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        """Return the denoised image."""
        return self.denoiser(inputs[SCAN], sigmas[SCAN])


@dataclass(frozen=True, eq=False)
class Quadratic:
    """A forward whose voxels sum to ``0.5 xᵀ A x``, for a symmetric matrix A over all voxels."""

    matrix: Float[Tensor, "N N"]

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        """Return ``0.5 x * (A x)``, voxel by voxel."""
        x = inputs[SCAN]
        return 0.5 * x * (x.flatten(1) @ self.matrix).reshape(x.shape)

    def integrated_gradients(self, x: Tensor, baseline: Tensor) -> Tensor:
        """Return the integrated gradients of the sum of all voxels, ``(x - b) * A (x + b) / 2``."""
        return (x - baseline) * ((x + baseline).flatten(1) @ self.matrix).reshape(x.shape) / 2


def use_only(name: str) -> Forward:
    """Return a forward of several inputs whose image is one of them: the others deserve no credit."""
    return lambda inputs, sigmas: inputs[name]


class ReluNetwork(nn.Module):
    """Two convolutions and a ReLU, as a denoiser: without bias, linear along rays; with bias, not.

    Args:
        generator: source of the weights.
        bias: whether the convolutions have one (the control that must fail).
        width: channels between them.
    """

    def __init__(self, generator: torch.Generator, *, bias: bool = False, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv3d(2, width, 3, padding=1, bias=bias, dtype=torch.float64)
        self.second = nn.Conv3d(width, 1, 3, padding=1, bias=bias, dtype=torch.float64)
        with torch.no_grad():  # initialisation only
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 5)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Map an image and its noise level to an image."""
        features = torch.cat([x, sigma.expand(x.shape)], dim=1)
        estimate: Tensor = self.second(torch.relu(self.first(features)))
        return estimate


@dataclass(frozen=True)
class GaussianFilter:
    """A denoiser that blurs, zero beyond the border: its equivalent filter is its kernel.

    Args:
        width: standard deviation in voxels.
        reach: voxels to where the kernel is cut off.
    """

    width: float
    reach: int = 4

    def kernel(self) -> Float[Tensor, "N N N"]:
        """Return the kernel in float64; it sums to one."""
        line = torch.exp(-0.5 * (torch.arange(-self.reach, self.reach + 1, dtype=torch.float64) / self.width) ** 2)
        line = line / line.sum()
        return torch.einsum("i,j,k->ijk", line, line, line)

    def __call__(self, x: Tensor, sigma: Tensor, *, cond: Tensor | None = None) -> Tensor:
        """Return the blurred image; the noise level is not used."""
        return functional.conv3d(x, self.kernel()[None, None].to(x), padding=self.reach)

    def row(self, shape: tuple[int, int, int], voxel: tuple[int, int, int]) -> Float[Tensor, "I J K"]:
        """Return the weight of every input voxel in one output voxel."""
        weights, kernel = torch.zeros(shape, dtype=torch.float64), self.kernel()
        offsets = range(-self.reach, self.reach + 1)
        for offset in product(offsets, offsets, offsets):
            index = tuple(v + o for v, o in zip(voxel, offset, strict=True))
            if all(0 <= i < n for i, n in zip(index, shape, strict=True)):
                weights[index] = kernel[tuple(o + self.reach for o in offset)]
        return weights


@dataclass(frozen=True)
class PeronaMalikStep:
    """One explicit step of edge-stopping diffusion, its edge height given in units of the noise level.

    Args:
        rate: step size; stable up to 1/6.
        edge: difference between neighbours that counts as an edge, over sigma (one number for the image).

    Source:
        Perona & Malik, IEEE PAMI 12 (1990), eq. 7 with the exponential conductivity.
    """

    rate: float = 0.125
    edge: float = 2.0

    def __call__(self, x: Tensor, sigma: Tensor, *, cond: Tensor | None = None) -> Tensor:
        """Return the image after the step; nothing flows over the border."""
        result, height = x, (self.edge * sigma).clamp_min(torch.finfo(x.dtype).tiny)  # noise level 0: no flow
        for axis in (2, 3, 4):
            step = x.diff(dim=axis)
            flow = step * torch.exp(-((step / height) ** 2))
            pad = [0] * 6
            pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = 1
            result = result + self.rate * functional.pad(flow, pad).diff(dim=axis)
        return result

    def row(
        self, x: Float[Tensor, "I J K"], sigma: float, voxel: tuple[int, int, int], *, frozen: bool = False
    ) -> tuple[Float[Tensor, "I J K"], float]:
        """Return the derivative of one output voxel with respect to every input voxel, and to sigma.

        A neighbour at difference d contributes ``rate g(u) d`` with u = d / (edge sigma), g(u) = exp(-u²); hence
        ``rate g(u) (1 - 2 u²)`` in its own weight and the negative in the voxel's, and ``rate g(u) 2 u² d / sigma`` for
        the noise level.

        Args:
            x: the image at which to linearise.
            sigma: its noise level.
            voxel: the output voxel.
            frozen: hold the conductivities g fixed, a frequent mistake (the control that must fail).
        """
        weights, noise_weight = torch.zeros_like(x), 0.0
        weights[voxel] = 1.0
        for axis, side in product(range(3), (-1, 1)):
            index = tuple(v + side * (a == axis) for a, v in enumerate(voxel))
            if not 0 <= index[axis] < x.shape[axis]:
                continue
            difference = float(x[index] - x[voxel])
            u = difference / (self.edge * sigma)
            conductivity = self.rate * math.exp(-(u**2))
            weight = conductivity if frozen else conductivity * (1 - 2 * u**2)
            weights[index] += weight
            weights[voxel] -= weight
            noise_weight += conductivity * 2 * u**2 * difference / sigma
        return weights, noise_weight


@dataclass(frozen=True)
class EdgeDetector:
    """Not an explanation: the scan's edges near the region, whatever the model; checks of sanity must reject it."""

    name: str = "edge_detector"

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Return each input's Laplacian magnitude, scaled so that it sums to the measurement."""
        value = float(target(forward(inputs, sigmas))[0].detach())
        kernel = torch.zeros(3, 3, 3, dtype=torch.float64)
        kernel[1, 1, :] = kernel[1, :, 1] = kernel[:, 1, 1] = 1.0
        kernel[1, 1, 1] = -6.0
        edges = {
            name: functional.conv3d(image.detach(), kernel[None, None].to(image), padding=1).abs()
            for name, image in inputs.items()
        }
        total = sum(float(edge.sum()) for edge in edges.values())
        return Attribution(
            maps={name: edge * (value / total) for name, edge in edges.items()},
            kind="contribution",
            noise_share=dict.fromkeys(inputs, 0.0),
            value=value,
            baseline_value=0.0,
            residual=0.0,
            convergence=None,
            evaluations=1,
            method=self.name,
            target=target.name,
            explained="output image",
        )


def smooth_noise(shape: tuple[int, ...], width: float, generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Return white noise smoothed by a periodic Gaussian of standard deviation ``width`` voxels, at unit variance."""
    white = torch.randn(shape, generator=generator, dtype=torch.float64)
    spectrum = torch.fft.fftn(white, dim=(-3, -2, -1))
    for axis in (-3, -2, -1):
        frequency = 2 * math.pi * torch.fft.fftfreq(shape[axis], dtype=torch.float64)
        view = [1, 1, 1]
        view[axis] = -1
        spectrum = spectrum * torch.exp(-0.5 * (width * frequency) ** 2).reshape(view)
    smooth = torch.fft.ifftn(spectrum, dim=(-3, -2, -1)).real
    return smooth / smooth.std()
