"""Is a posterior sampler's spread the truth? Measured where the posterior is known in closed form (oracle 8)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from medinterp.denoisers.base import Denoiser, scalar_sigma
from medinterp.sampling.samplers import Sampler
from medinterp.testing.oracles import NOISE, LinearGaussian


@dataclass(frozen=True)
class Calibration:
    """Figures of a posterior sampler on the linear Gaussian oracle; each is 1 for a perfect one unless said.

    Args:
        mean_error: error of the samples' mean against the posterior mean, over its Monte-Carlo floor.
        variance_ratio: the samples' variance over the posterior's, mean over voxels.
        coarse_ratio: the same over the frequencies that the scan decides (gain of at least a half).
        fine_ratio: the same over the others, which the prior decides.
        single_ratio: squared error of one sample over the smallest possible; 2 for a perfect sampler.
        mean_ratio: squared error of the mean of ``draws`` samples over the smallest possible; 1 + 1/draws.
        draws: samples a scan.
    """

    mean_error: float
    variance_ratio: float
    coarse_ratio: float
    fine_ratio: float
    single_ratio: float
    mean_ratio: float
    draws: int


def calibrate(
    sampler: Sampler,
    denoiser: Denoiser,
    world: LinearGaussian,
    fractions: Float64[Tensor, " N"],
    *,
    generator: torch.Generator,
    scans: int = 4,
    images: int = 2,
    draws: int = 64,
) -> Calibration:
    """Sample the posterior of simulated scans and compare mean, spread and error with the closed form.

    Args:
        sampler: the sampler in question.
        denoiser: what it samples with; ``world`` itself to test the sampler alone.
        world: where the scans come from.
        fractions: the sampler's noise levels.
        generator: source of the scans and of the sampler's noise.
        scans: independent groups of scans; the oracle has only about 100 effective degrees of freedom a scan, so
            four groups bring the sampling error of ``mean_error`` to 3.5 %.
        images: scans a group; they share the sampler's noise.
        draws: samples a scan.
    """
    groups = [_group(sampler, denoiser, world, fractions, generator, (images, draws)) for _ in range(scans)]
    mean_square, variance, coarse, fine, single, mean = torch.stack(groups).mean(dim=0).tolist()
    return Calibration(mean_square**0.5, variance, coarse, fine, single, mean, draws)


def _group(
    sampler: Sampler,
    denoiser: Denoiser,
    world: LinearGaussian,
    fractions: Tensor,
    generator: torch.Generator,
    size: tuple[int, int],
) -> Float[Tensor, "6"]:
    images, draws = size
    clean = world.draw(images, generator)
    y = clean + NOISE * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    sigma, mmse = scalar_sigma(NOISE, y), world.mmse(NOISE)
    samples = torch.stack([sampler(denoiser, y, sigma, fractions, generator=generator) for _ in range(draws)])
    mean = samples.mean(dim=0)
    deviation = samples - mean
    power = torch.fft.fftn(deviation, dim=(-3, -2, -1), norm="ortho").abs().square().sum(dim=0) / (draws - 1)
    gain = world.gain(sigma)[0, 0]
    ratio = {name: power[..., part].mean() / (NOISE**2 * gain[part]).mean() for name, part in _bands(gain).items()}
    return torch.stack(
        [
            (mean - world(y, sigma)).square().mean() * draws / mmse,
            ratio["all"],
            ratio["coarse"],
            ratio["fine"],
            (samples - clean).square().mean() / mmse,
            (mean - clean).square().mean() / mmse,
        ]
    )


def _bands(gain: Tensor) -> dict[str, Tensor]:
    return {"all": gain > 0, "coarse": gain >= 0.5, "fine": gain < 0.5}
