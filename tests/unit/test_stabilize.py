"""Stabilising transform: units, gradients and the ends of its range."""

import torch

from medinterp.noise.stabilize import koay_inversion, stabilize, unstabilize


def magnitudes():
    return torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) * 5


def test_transform_and_inverse_are_homogeneous():
    m, sigma = magnitudes(), torch.full((1, 1, 1, 1, 1), 0.4)
    for function in (stabilize, unstabilize):
        scaled = function(1000 * m, 1000 * sigma)
        assert torch.allclose(scaled, 1000 * function(m, sigma), rtol=1e-4, atol=1e-2)  # float32 near the threshold


def test_inverse_follows_a_sigma_map():
    z = magnitudes()
    sigma = 0.2 + torch.rand(z.shape, generator=torch.Generator().manual_seed(1))
    whole = unstabilize(z, sigma)
    assert torch.equal(whole[..., 3:4, 3:4, 3:4], unstabilize(z[..., 3:4, 3:4, 3:4], sigma[..., 3:4, 3:4, 3:4]))


def test_gradients_are_finite_everywhere():
    for function in (stabilize, unstabilize):
        m = torch.linspace(0, 30, 3001, requires_grad=True)
        sigma = torch.ones(1, requires_grad=True)
        for gradient in torch.autograd.grad(function(m, sigma).sum(), (m, sigma)):
            assert torch.isfinite(gradient).all()


def test_inverse_is_continuous_and_rising():
    z = torch.linspace(0, 30, 100_001, dtype=torch.float64)
    nu = unstabilize(z, torch.ones(1, dtype=torch.float64))
    assert (nu.diff() >= 0).all()
    assert nu.diff()[z[1:] > 1.1].max() < 3 * 30 / 100_000  # no jump where table and asymptote meet


def test_less_than_pure_noise_is_no_signal():
    sigma = torch.ones(1)
    assert torch.equal(stabilize(torch.tensor([0.0, 0.7]), sigma), torch.zeros(2))
    assert torch.equal(unstabilize(torch.tensor([0.0, 0.9]), sigma), torch.zeros(2))


def test_koay_reads_too_small_a_ratio_as_pure_noise():
    found = koay_inversion(torch.tensor([1.0]), torch.tensor([1.0]))
    assert float(found.nu) < 1e-6
    assert abs(float(found.sigma) - 1 / (2 - torch.pi / 2) ** 0.5) < 1e-6
