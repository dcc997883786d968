"""Rician magnitude images: moments, the variance-stabilising transform and its exact inverse, Koay's inversion.

A magnitude m has m^2 = (nu + n1)^2 + n2^2 with n1, n2 white Gaussian of standard deviation sigma; nu is the signal.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Float64
from torch import Tensor

STEP = 0.01
"""Spacing of the inverse's table, in units of sigma; linear interpolation is then exact to 1e-5 sigma squared."""
LAST = 12.0
"""Stabilised signal, in units of sigma, from which on the inverse's asymptote is used."""


def rician_mean(nu: Float[Tensor, "*S"], sigma: Float[Tensor, "*#S"]) -> Float[Tensor, "*S"]:
    """Return the mean magnitude of a signal ``nu`` under noise ``sigma``, in their unit.

    Source:
        Gudbjartsson & Patz, Magn Reson Med 34 (1995); Rice, Bell System Technical Journal 24 (1945).
    """
    return sigma * _unit_mean(nu / sigma)


def rician_second_moment(nu: Float[Tensor, "*S"], sigma: Float[Tensor, "*#S"]) -> Float[Tensor, "*S"]:
    """Return the mean squared magnitude, nu^2 + 2 sigma^2."""
    return nu.square() + 2 * sigma.square()


def stabilize(magnitude: Float[Tensor, "*S"], sigma: Float[Tensor, "*#S"]) -> Float[Tensor, "*S"]:
    """Turn Rician noise into nearly Gaussian noise of the same ``sigma`` at every brightness: sqrt(m^2 - sigma^2/2).

    The result keeps the magnitude's unit and is homogeneous of degree 1 in (magnitude, sigma). Its noise variance is
    within 3 % of sigma^2 where nu >= 2 sigma; below, it falls (0.80 of it at nu = sigma, 0.60 in air). Magnitudes under
    sigma / sqrt(2) become 0.

    Source:
        Foi, "Noise estimation and removal in MR imaging: the variance-stabilization approach", ISBI 2011.
    """
    return _root(magnitude.square() - sigma.square() / 2)


def unstabilize(stabilized: Float[Tensor, "*S"], sigma: Float[Tensor, "*#S"]) -> Float[Tensor, "*S"]:
    """Return the signal nu whose stabilised magnitude has the given mean: the exact unbiased inverse.

    Give it a denoised image: for one of pure noise the bias comes back. Below the mean that pure noise has (0.98
    sigma) the signal is 0. ``sigma`` must be positive. Differentiable; the slope is steep just above pure noise.

    Source:
        Foi, ISBI 2011, section 2 (exact unbiased inversion).
    """
    z = stabilized / sigma
    table = _inverse_table()
    offset = table.offsets.to(z)
    place = ((z - table.first) / STEP).clamp(0, len(offset) - 1)
    left = place.detach().floor().clamp(max=len(offset) - 2).long()
    inside = offset[left] + (place - left) * (offset[left + 1] - offset[left])
    beyond = -0.5 + (offset[-1] + 0.5) * (LAST / z.clamp_min(LAST)).square()
    square = z.square() + torch.where(z > LAST, beyond, inside)
    return sigma * _root(torch.where(z > table.first, square, 0.0))


@dataclass(frozen=True)
class RicianParameters:
    """Signal and noise behind a region's magnitudes, in their unit."""

    nu: Tensor
    sigma: Tensor


def koay_inversion(mean: Float[Tensor, "*S"], spread: Float[Tensor, "*S"]) -> RicianParameters:
    """Return the signal and noise that give magnitudes of this mean and standard deviation.

    Assumes one signal and one noise level in the region. A mean below 1.913 spreads cannot come from Rician noise and
    is read as pure noise. Solved by bisection in float64, so no gradient flows.

    Source:
        Koay & Basser, J Magn Reson 179 (2006), eqs. 12-19.
    """
    ratio = mean.double() / spread.double()
    low, high = torch.zeros_like(ratio), ratio
    for _ in range(60):  # halvings: to float64's last bits
        middle = (low + high) / 2
        below = (2 + middle.square()) / _unit_variance(middle) - 1 < ratio.square()
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    sigma = spread.double() / _unit_variance(low).sqrt()
    return RicianParameters((low * sigma).to(mean.dtype), sigma.to(mean.dtype))


def _root(square: Tensor) -> Tensor:
    """Return sqrt(max(square, 0)) with gradient 0, not NaN, where nothing is left."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _unit_mean(theta: Tensor) -> Tensor:
    """Return the mean magnitude for sigma 1: sqrt(pi/2) L_1/2(-theta^2/2), by scaled Bessel functions."""
    square = theta.square()
    bessel = (2 + square) * torch.special.i0e(square / 4) + square * torch.special.i1e(square / 4)
    return math.sqrt(math.pi / 8) * bessel


def _unit_variance(theta: Tensor) -> Tensor:
    """Return the magnitude's variance for sigma 1; its asymptote where the closed form would cancel."""
    closed = 2 + theta.square() - _unit_mean(theta).square()
    return torch.where(theta > 1000, 1 - 0.5 / theta.square(), closed)


@dataclass(frozen=True)
class _InverseTable:
    """nu^2 - z^2 at evenly spaced means z of the stabilised magnitude, from pure noise on, for sigma 1.

    Tabulated as a difference of squares because that is smooth and bounded, while nu(z) starts with infinite slope.
    """

    first: float
    offsets: Float64[Tensor, " n"]


@lru_cache(maxsize=1)
def _inverse_table() -> _InverseTable:
    theta = torch.linspace(0, LAST + 1, 4001, dtype=torch.float64)
    z = stabilized_moments(theta)[0]
    wanted = torch.arange(float(z[0]), LAST + 2 * STEP, STEP, dtype=torch.float64)
    right = torch.searchsorted(z, wanted).clamp(1, len(z) - 1)
    share = (wanted - z[right - 1]) / (z[right] - z[right - 1])
    offset = theta.square() - z.square()
    return _InverseTable(float(z[0]), offset[right - 1] + share * (offset[right] - offset[right - 1]))


def stabilized_moments(
    theta: Float64[Tensor, " n"], *, shift: float = 0.5
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """Return mean and variance of sqrt(max(m^2 - shift, 0)) for sigma 1 and signals ``theta``, by quadrature.

    Args:
        theta: signal over noise.
        shift: what the transform subtracts; 1/2 is ours, 1 is what the delta method gives.
    """
    nodes, weights = _legendre(256)
    low, high = (theta - 10).clamp_min(0), theta + 10
    half = (high - low) / 2
    u = low[:, None] + half[:, None] * (1 + nodes)  # the stabilised value: m dm = u du has no kink at the cut
    m = (u.square() + shift).sqrt()
    density = u * torch.exp(-(m - theta[:, None]).square() / 2) * torch.special.i0e(m * theta[:, None])
    mean, second = (half * (weights * density * u**power).sum(dim=1) for power in (1, 2))
    return mean, second - mean.square()


def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Return Gauss-Legendre nodes and weights on [-1, 1] from the Jacobi matrix."""
    order = torch.arange(1, count, dtype=torch.float64)
    beta = order / (4 * order.square() - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return values, 2 * vectors[0].square()
