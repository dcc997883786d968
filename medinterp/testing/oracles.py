"""Known answers: a linear Gaussian world whose denoiser, Jacobian, posterior and trajectories are analytic.

The figures returned here are relative errors or ratios against closed forms. Tests hold them to tolerances; a model
report prints them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from medinterp.denoisers.base import Denoiser, evaluate, jacobian_product, scalar_sigma
from medinterp.errors import InputError
from medinterp.sampling.samplers import Sampler

NOISE = 0.7
"""The noise standard deviation at which the linear Gaussian oracle is asked, in its own unit."""


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """Images x0 ~ N(mean, F* diag(spectrum) F) on a periodic grid, F the unitary Fourier transform.

    The object is itself the exact denoiser of its images: D(x) = mean + F* W F (x - mean), W = lam / (lam + sigma^2).
    Assumes noise of one level per image; a map must be constant.

    Args:
        mean: mean image (1, 1, I, J, K).
        spectrum: prior variance lam of every Fourier coefficient (I, J, K).
    """

    mean: Float64[Tensor, "1 1 I J K"]
    spectrum: Float64[Tensor, "I J K"]

    def __call__(
        self,
        x: Float[Tensor, "B 1 I J K"],
        sigma: Float[Tensor, "#B 1 #I #J #K"],
        *,
        cond: Tensor | None = None,
    ) -> Float[Tensor, "B 1 I J K"]:
        """Return E[x0 | x] exactly, in the dtype of ``x``; ``cond`` is accepted and unused.

        Raises:
            InputError: the noise level varies over space, for which there is no closed form here.
        """
        if not bool((sigma == sigma[..., :1, :1, :1]).all()):
            raise InputError("the linear Gaussian oracle knows no spatially varying sigma; give one level per image")
        gain = self.gain(sigma[..., :1, :1, :1])
        mean = self.mean.to(x)
        return mean + apply_transfer(x - mean, gain.to(x))

    def gain(self, sigma: Float[Tensor, "B 1 1 1 1"]) -> Float[Tensor, "B 1 I J K"]:
        """Return W, the Jacobian's eigenvalue at every frequency."""
        spectrum = self.spectrum.to(sigma)
        return spectrum / (spectrum + sigma.square())

    def draw(self, count: int, generator: torch.Generator) -> Float64[Tensor, "B 1 I J K"]:
        """Draw clean images."""
        white = torch.randn((count, 1, *self.spectrum.shape), generator=generator, dtype=torch.float64)
        return self.mean + apply_transfer(white, self.spectrum.sqrt())

    def mmse(self, sigma: float) -> float:
        """Return the smallest mean squared error a voxel that any denoiser can reach; the posterior's variance."""
        return float((self.spectrum * sigma**2 / (self.spectrum + sigma**2)).mean())

    def flow_transfer(self, sigma: float) -> Float64[Tensor, "I J K"]:
        """Return what the probability-flow ODE from noise ``sigma`` to 0 multiplies every frequency by."""
        return (self.spectrum / (self.spectrum + sigma**2)).sqrt()

    def flow_end(self, y: Float[Tensor, "B 1 I J K"], sigma: float) -> Float[Tensor, "B 1 I J K"]:
        """Return where the probability-flow ODE that starts at ``y`` ends."""
        mean = self.mean.to(y)
        return mean + apply_transfer(y - mean, self.flow_transfer(sigma).to(y))


def linear_gaussian(size: int = 16) -> LinearGaussian:
    """Return the standard oracle: lam = (1 + k²/2)^-1.5, anisotropic, about a mean that varies over space."""
    frequency = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    k2 = sum(weight * along.square() for weight, along in zip((1.0, 0.6, 1.6), _as_axes(frequency), strict=True))
    wave = torch.cos(2 * torch.pi * torch.arange(size, dtype=torch.float64) / size)
    mean = 3 + sum(_as_axes(wave))
    return LinearGaussian(torch.as_tensor(mean)[None, None], (1 + 0.5 * torch.as_tensor(k2)) ** -1.5)


def _as_axes(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return values[:, None, None], values[None, :, None], values[None, None, :]


def apply_transfer(
    image: Float[Tensor, "B C I J K"], transfer: Float[Tensor, "*#B I J K"]
) -> Float[Tensor, "B C I J K"]:
    """Multiply every frequency of an image by a real function of it, even along each axis: F* diag(transfer) F."""
    half = transfer[..., : image.shape[-1] // 2 + 1]
    return torch.fft.irfftn(half * torch.fft.rfftn(image, dim=(-3, -2, -1)), s=image.shape[-3:], dim=(-3, -2, -1))


def relative_error(measured: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what was expected."""
    return float((measured - expected).norm() / expected.norm())


def jacobian_error(
    denoiser: Denoiser,
    world: LinearGaussian,
    x: Float[Tensor, "B 1 I J K"],
    tangent: Float[Tensor, "B 1 I J K"],
    sigma: float = NOISE,
) -> float:
    """Return the relative error of a denoiser's Jacobian-vector product against F* W F ``tangent`` (oracle 1)."""
    level = scalar_sigma(sigma, x)
    _, product = jacobian_product(denoiser, x, level, tangent)
    return relative_error(product, apply_transfer(tangent, world.gain(level)))


def central_difference_error(
    denoiser: Denoiser,
    world: LinearGaussian,
    x: Float[Tensor, "B 1 I J K"],
    tangent: Float[Tensor, "B 1 I J K"],
    *,
    step: float,
    sigma: float = NOISE,
) -> float:
    """Return the same error for a central difference of ``step`` times the tangent: why differences are not used."""
    level = scalar_sigma(sigma, x)
    ahead, behind = (evaluate(denoiser, x + sign * step * tangent, level) for sign in (1, -1))
    return relative_error((ahead - behind) / (2 * step), apply_transfer(tangent, world.gain(level)))


@dataclass(frozen=True)
class MmseFigures:
    """What a denoiser reaches on images whose smallest possible error is known (oracle 3).

    Args:
        mse: mean squared error measured over the draws.
        mmse: the analytic minimum.
        standard_error: of ``mse`` over the draws.
        sure_bias: mean of SURE - squared error over the draws, 0 for a correct estimator.
        sure_standard_error: of ``sure_bias``.
    """

    mse: float
    mmse: float
    standard_error: float
    sure_bias: float
    sure_standard_error: float


def mmse_figures(
    denoiser: Denoiser, world: LinearGaussian, *, draws: int, generator: torch.Generator, sigma: float = NOISE
) -> MmseFigures:
    """Measure a denoiser's error and its own estimate of it (SURE, one probe) against the analytic minimum."""
    clean = world.draw(draws, generator)
    y = clean + sigma * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    level = scalar_sigma(sigma, y)
    error = (evaluate(denoiser, y, level) - clean).square().flatten(1).mean(dim=1)
    difference = estimate_risk(denoiser, y, level, probes=1, generator=generator) - error
    count = draws**0.5
    return MmseFigures(
        float(error.mean()),
        world.mmse(sigma),
        float(error.std()) / count,
        float(difference.mean()),
        float(difference.std()) / count,
    )


def estimate_divergence(
    denoiser: Denoiser,
    y: Float[Tensor, "B C I J K"],
    sigma: Float[Tensor, "#B #C #I #J #K"],
    *,
    probes: int,
    generator: torch.Generator,
) -> Float[Tensor, "probes B"]:
    """Return Hutchinson's estimates of the trace of the Jacobian, one for each random +-1 probe and image.

    Source:
        Hutchinson, Communications in Statistics 18 (1989), 1059-1076.
    """
    traces = []
    for _ in range(probes):
        coins = torch.randint(0, 2, y.shape, generator=generator, device=generator.device).to(y)
        probe = 2 * coins - 1
        _, product = jacobian_product(denoiser, y, sigma, probe)
        traces.append((probe * product).flatten(1).sum(dim=1))
    return torch.stack(traces)


def estimate_risk(
    denoiser: Denoiser,
    y: Float[Tensor, "B C I J K"],
    sigma: Float[Tensor, "#B 1 1 1 1"],
    *,
    probes: int,
    generator: torch.Generator,
) -> Float[Tensor, " B"]:
    """Return SURE: an unbiased estimate of each image's mean squared error that needs no clean image.

    Assumes white Gaussian noise of the given level.

    Source:
        Stein, Annals of Statistics 9 (1981), theorem 1.
    """
    residual = (evaluate(denoiser, y, sigma) - y).square().flatten(1).mean(dim=1)
    voxels = y[0].numel()
    divergence = estimate_divergence(denoiser, y, sigma, probes=probes, generator=generator).mean(dim=0)
    variance = sigma.flatten().square()
    return residual - variance + 2 * variance * divergence / voxels


def flow_error(
    sampler: Sampler,
    denoiser: Denoiser,
    world: LinearGaussian,
    y: Float64[Tensor, "B 1 I J K"],
    fractions: Float64[Tensor, " N"],
    *,
    generator: torch.Generator,
    sigma: float = NOISE,
) -> float:
    """Return the relative error of an ODE sampler's end point against the closed form (oracle 7)."""
    end = sampler(denoiser, y, scalar_sigma(sigma, y), fractions, generator=generator)
    return relative_error(end - world.mean, world.flow_end(y, sigma) - world.mean)


def flow_gradient_error(
    sampler: Sampler,
    denoiser: Denoiser,
    world: LinearGaussian,
    y: Float64[Tensor, "B 1 I J K"],
    fractions: Float64[Tensor, " N"],
    weights: Float64[Tensor, "B 1 I J K"],
    *,
    generator: torch.Generator,
) -> float:
    """Return the relative error of the gradient, through an ODE sampler, of a weighted sum of the image (oracle 7)."""
    start = y.detach().requires_grad_()
    end = sampler(denoiser, start, scalar_sigma(NOISE, y), fractions, generator=generator)
    (gradient,) = torch.autograd.grad((weights * end).sum(), start)
    return relative_error(gradient, apply_transfer(weights, world.flow_transfer(NOISE)))


@dataclass(frozen=True)
class Evaluation:
    """One call of a denoiser: the state, the noise level it was told, and the estimate."""

    x: Tensor
    sigma: Tensor
    estimate: Tensor


class RecordingDenoiser:
    """A denoiser that keeps every evaluation of the one it wraps, to see which path a sampler took."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.evaluations: list[Evaluation] = []

    def __call__(
        self,
        x: Float[Tensor, "B C I J K"],
        sigma: Float[Tensor, "#B #C #I #J #K"],
        *,
        cond: Tensor | None = None,
    ) -> Float[Tensor, "B C I J K"]:
        """Return the wrapped denoiser's estimate."""
        estimate = evaluate(self.denoiser, x, sigma, cond)
        self.evaluations.append(Evaluation(x, sigma, estimate))
        return estimate
