"""Analytic oracle of Rician noise: moments, the stabilising transform and its inverse, Koay's inversion."""

import pytest
import torch

from medinterp.noise.models import add_rician
from medinterp.noise.stabilize import (
    koay_inversion,
    rician_mean,
    rician_second_moment,
    stabilize,
    stabilized_moments,
    unstabilize,
)


def simulate(theta, count=400_000):
    signal, one = torch.full((1, 1, 1, 1, count), theta, dtype=torch.float64), torch.ones(1, 1, 1, 1, 1).double()
    return add_rician(signal, one, generator=torch.Generator().manual_seed(0))


def test_rician_moments_agree_with_quadrature_and_simulation():
    theta = torch.tensor([0.0, 0.3, 1.0, 2.0, 5.0, 20.0, 200.0], dtype=torch.float64)
    one = torch.ones_like(theta)
    mean, second = quadrature(theta)
    assert torch.allclose(rician_mean(theta, one), mean, rtol=1e-10)
    assert torch.allclose(rician_second_moment(theta, one), second, rtol=1e-10)
    for level in (0.0, 1.0, 3.0):
        drawn = simulate(level)
        expected = float(rician_mean(torch.tensor(level).double(), torch.tensor(1.0).double()))
        assert float(drawn.mean()) == pytest.approx(expected, abs=5 / drawn.numel() ** 0.5)


def quadrature(theta):
    """Integrate the Rician density by the trapezoid rule, which converges fast for smooth, decaying integrands."""
    m = theta.clamp_min(12)[:, None] + torch.linspace(-12, 12, 4001, dtype=torch.float64)
    density = m * torch.exp(-(m - theta[:, None]).square() / 2) * torch.special.i0e(m * theta[:, None])
    return (torch.trapezoid(density * m**power, m, dim=1) for power in (1, 2))


def test_stabilised_noise_has_unit_variance_from_twice_the_noise_on():
    _, variance = stabilized_moments(torch.linspace(2, 40, 200, dtype=torch.float64))
    assert variance.min() >= 0.97
    assert variance.max() <= 1.03
    assert float(stabilize(simulate(2.0), torch.ones(1, 1, 1, 1, 1).double()).var()) == pytest.approx(1, abs=0.03)


def test_control_the_delta_method_transform_fails_at_twice_the_noise():
    _, variance = stabilized_moments(torch.tensor([2.0], dtype=torch.float64), shift=1.0)
    assert variance > 1.1  # 1.13


def test_exact_inverse_is_unbiased():
    theta = torch.linspace(1, 60, 500, dtype=torch.float64)
    mean, _ = stabilized_moments(theta)
    bias = unstabilize(3 * mean, torch.tensor([3.0], dtype=torch.float64)) / 3 - theta
    assert bias.abs().max() <= 0.005
    assert (mean - theta).abs().max() > 0.005  # control: without the inverse the bias is there


def test_exact_inverse_is_unbiased_on_simulated_noise():
    one = torch.ones(1, 1, 1, 1, 1).double()
    for theta in (1.0, 2.0, 4.0):
        mean = stabilize(simulate(theta, 1_000_000), one).mean()[None, None, None, None, None]
        assert float(unstabilize(mean, one)) == pytest.approx(theta, abs=0.005)  # Monte-Carlo error 0.001


def test_koay_inversion_returns_signal_and_noise():
    nu = torch.linspace(0.1, 100, 800, dtype=torch.float64)
    sigma = torch.full_like(nu, 1.7)
    mean = rician_mean(nu, sigma)
    spread = (rician_second_moment(nu, sigma) - mean.square()).sqrt()
    found = koay_inversion(mean, spread)
    assert torch.allclose(found.nu, nu, rtol=1e-6)
    assert torch.allclose(found.sigma, sigma, rtol=1e-6)
    assert not torch.allclose(mean, nu, rtol=1e-6)  # control: the mean alone is biased
