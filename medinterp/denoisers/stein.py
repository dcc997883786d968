"""Stein's estimate of a denoiser's error from the noisy scan alone, voxel by voxel, for Gaussian and Rician noise.

The scan y has mean m(x0) and variance v. A denoiser D is judged by its prediction m(D(y)): for Gaussian noise m is the
identity and v = sigma², for Rician noise they are the mean and variance of the magnitude. Stein's identity then gives

    E (m(D) - m(x0))² = E [ (m(D) - y)² - v + 2 v d m(D) / d y ],

and division by the slope of m squared turns it, to first order, into the error of D itself. It is exact for Gaussian
noise; for Rician noise it takes magnitudes as Gaussian about their mean, so it is used only where the signal is at
least ``BRIGHT_SIGMAS`` noise levels.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.denoisers.base import Denoiser, evaluate
from medinterp.errors import InputError
from medinterp.noise.stabilize import rician_mean

BRIGHT_SIGMAS = 2.0
"""Rician magnitudes of signals above this many noise levels are near enough to Gaussian (bias: test_truth_free.py)."""
STEP = 0.05
"""Length of the probe, in noise levels a voxel, for the derivative along it."""


@dataclass(frozen=True)
class Scatter:
    """What the noise model says of the scan's values where the signal is about as estimated.

    Args:
        variance: of the scan's value.
        slope: change of its mean with the signal.
    """

    variance: Tensor
    slope: Tensor


def expected_scan(
    signal: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, rician: bool
) -> Float[Tensor, "B C I J K"]:
    """Return the mean of the scan's values for a signal: the signal itself, or the mean magnitude."""
    return rician_mean(signal.clamp_min(0), sigma) if rician else signal


def expected_scatter(
    signal: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, rician: bool
) -> Scatter:
    """Return variance and slope of the scan's values for a signal; ``sigma`` must be positive for Rician noise.

    Source:
        Gudbjartsson & Patz, Magn Reson Med 34 (1995); the slope is the derivative of its mean.
    """
    if not rician:
        return Scatter(sigma.square().expand(signal.shape), torch.ones_like(signal))
    level = sigma.double()
    theta = signal.double().clamp_min(0) / level
    quarter = theta.square() / 4
    slope = math.sqrt(math.pi / 8) * theta * (torch.special.i0e(quarter) + torch.special.i1e(quarter))
    mean = rician_mean(theta, torch.ones_like(theta))
    spread = (2 + theta.square() - mean.square()).clamp(2 - math.pi / 2, 1)  # from pure noise to far above it
    return Scatter((level.square() * spread).to(signal), slope.to(signal))


@dataclass(frozen=True)
class Probe:
    """A denoiser's answer to a scan, and to a small random change of it.

    Args:
        y: the scan.
        estimate: D(y).
        expected: the scan's mean value if the estimate were the truth.
        scatter: variance and slope that the noise model gives the scan's values.
        mask: 1 for voxels that count.
        coins: random +1 and -1 in the mask, 0 outside; the scan was changed along coins times its standard deviation.
        answer: change of the expected value along it, over the standard deviation. Its mean product with the coins is
            the mean diagonal of the Jacobian in noise units.
    """

    y: Tensor
    estimate: Tensor
    expected: Tensor
    scatter: Scatter
    mask: Tensor
    coins: Tensor
    answer: Tensor

    def removed(self) -> Tensor:
        """Return what the denoiser took away, in standard deviations of the noise, 0 outside the mask."""
        return self.mask * (self.y - self.expected) / self.scatter.variance.sqrt()

    def risk(self, *, scale: float = 1.0) -> Tensor:
        """Return Stein's estimate of each voxel's squared error, in the scan's unit squared, 0 outside the mask.

        Only sums over many voxels mean anything: single values scatter about as much as the noise's variance.

        Args:
            scale: the true noise level over the one assumed.
        """
        noise = scale**2 * self.noise()
        return self.weight() * (self.y - self.expected).square() - noise * (1 - 2 * self.coins * self.answer)

    def noise(self) -> Tensor:
        """Return each voxel's noise variance, as an error of the signal, 0 outside the mask."""
        return self.weight() * self.scatter.variance

    def weight(self) -> Tensor:
        """Return what turns squared errors of the expected scan into those of the signal, 0 outside the mask."""
        return self.mask / torch.where(self.mask > 0, self.scatter.slope, 1.0).square()


def probe(
    denoiser: Denoiser,
    y: Float[Tensor, "B C I J K"],
    sigma: Float[Tensor, "#B #C #I #J #K"],
    mask: Float[Tensor, "B C I J K"],
    *,
    rician: bool,
    generator: torch.Generator,
    estimate: Float[Tensor, "B C I J K"] | None = None,
    scatter: Scatter | None = None,
) -> Probe:
    """Ask a denoiser about a scan and about the scan plus a small random change, at two evaluations.

    The derivative is a difference over 0.05 noise levels, so any denoiser will do; what that adds to the estimate of
    the error averages out over random changes to first order. Differentiable in the denoiser's parameters.

    Args:
        denoiser: what is judged.
        y: the scan.
        sigma: its noise level.
        mask: 1 for voxels that count, 0 for others.
        rician: whether the scan is a magnitude image.
        generator: of the random change.
        estimate: D(y), when it is known already: saves one evaluation.
        scatter: of the scan's values; from the estimate when not given. Give one to compare several denoisers.

    Raises:
        InputError: the noise level is not positive where voxels count.
    """
    if not bool((sigma.expand(y.shape)[mask > 0] > 0).all()):
        raise InputError("a noise level of 0 or less: without noise there is nothing to estimate; leave this scan out")
    first = evaluate(denoiser, y, sigma) if estimate is None else estimate
    known = expected_scatter(first.detach(), sigma, rician=rician) if scatter is None else scatter
    draw = torch.randint(0, 2, y.shape, generator=generator, device=generator.device).to(y)
    coins, length = mask * (2 * draw - 1), STEP * known.variance.sqrt()
    second = evaluate(denoiser, y + length * coins, sigma)
    expected, moved = (expected_scan(signal, sigma, rician=rician) for signal in (first, second))
    return Probe(y, first, expected, known, mask, coins, mask * (moved - expected) / length)
