"""Coloured noise on two scales: what the spectrum decides, and what stays exact."""

import numpy as np
import pytest
import torch

from medinterp.denoisers.coloured import TwoScale, split
from medinterp.denoisers.network import BiasFreeUNet, receptive_radius
from medinterp.denoisers.tiled import Tiled
from medinterp.errors import ConfigError
from medinterp.noise.spectrum import spectrum_of, white_spectrum
from medinterp.testing.linearity import euler_account, homogeneity_error
from medinterp.testing.networks import random_network

SPACING = (1.0, 1.0, 3.0)


def smoothed(shape, edges, seed=0):
    """White noise averaged over ``edges`` voxels: neighbours are correlated along those axes."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    for axis, edge in enumerate(edges):
        noise = sum(np.roll(noise, n, axis) for n in range(edge)) / edge
    return noise


def spectrum(edges=(2, 2, 1)):
    return spectrum_of(smoothed((64, 64, 32), edges), SPACING)


class Network:
    """A small network as a denoiser with a radius, as a pretrained one is."""

    def __init__(self, network):
        self.network, self.radius = network, receptive_radius(network)

    def __call__(self, x, sigma, *, cond=None):
        return self.network(x, sigma)


def small(dtype=torch.float64):
    return Network(random_network((2, 3, 4), (1, 0, 0)).to(dtype))  # radius 24


def example(shape=(48, 40, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 1, *shape, generator=generator, dtype=torch.float64), torch.full((1,) * 5, 0.5).double()


def test_only_correlated_axes_are_pooled():
    assert split(spectrum((2, 2, 1))).edges == (2, 2, 1)
    assert split(spectrum((1, 1, 2))).edges == (1, 1, 2)
    assert split(white_spectrum(3.0, SPACING)).edges == (1, 1, 1)


def test_the_levels_of_both_scales_are_those_of_the_noise():
    noise = smoothed((64, 64, 32), (2, 2, 1))
    found = split(spectrum_of(noise, SPACING))
    means = noise.reshape(32, 2, 32, 2, 32).mean(axis=(1, 3))
    rest = noise - np.repeat(np.repeat(means, 2, 0), 2, 1)
    assert found.coarse == pytest.approx(means.std() / noise.std(), rel=0.01)
    assert found.fine == pytest.approx((np.square(rest).mean() * 4 / 3) ** 0.5 / noise.std(), rel=0.01)


def test_white_noise_and_an_unknown_spectrum_leave_the_denoiser_as_it_is():
    denoiser, (x, sigma) = small(), example()
    for wrapped in (TwoScale(denoiser), TwoScale(denoiser).told(white_spectrum(2.0, SPACING))):
        assert torch.equal(wrapped(x, sigma), denoiser(x, sigma))
        assert (wrapped.radius, wrapped.stride) == (24, 8)
    assert not torch.equal(TwoScale(denoiser).told(spectrum())(x, sigma), denoiser(x, sigma))


def test_the_estimate_is_exactly_its_jacobian_applied_to_image_and_noise_level():
    told = TwoScale(small()).told(spectrum())
    x, sigma = example((16, 16, 16))
    assert euler_account(told, x, sigma).residual < 1e-12
    assert homogeneity_error(told, x, sigma) < 1e-12


def test_a_constant_added_to_the_scan_is_added_to_the_estimate_without_a_dark_zone():
    network = random_network().double()
    network.magnitude = False
    x, sigma = example((16, 16, 16))
    moved = TwoScale(network).told(spectrum())
    assert torch.allclose(moved(x - 1000, sigma), moved(x, sigma) - 1000, atol=1e-9)
    network.magnitude = True  # the control: near zero, magnitudes are biased
    assert not torch.allclose(moved(x - 1000, sigma), moved(x, sigma) - 1000, atol=1e-3)


def test_a_network_without_a_dark_zone_has_the_same_weights():
    assert BiasFreeUNet(magnitude=False).state_dict().keys() == BiasFreeUNet().state_dict().keys()


def test_a_crop_on_the_stride_with_the_radius_around_it_gives_the_same_voxels():
    told = TwoScale(small()).told(spectrum())
    x, sigma = example((256, 16, 16))
    whole = told(x, sigma)
    start, stop = 96 - told.radius, 112 + told.radius
    assert (told.radius, told.stride, start % told.stride) == (80, 16, 0)
    crop = told(x[:, :, start:stop], sigma)
    assert torch.allclose(crop[:, :, 96 - start : 112 - start], whole[:, :, 96:112], atol=1e-12)
    off = told(x[:, :, start + 8 : stop], sigma)  # the control: not on the stride, other pairs are averaged
    assert not torch.allclose(off[:, :, 88 - start : 104 - start], whole[:, :, 96:112], atol=1e-6)


def test_in_tiles_the_estimate_is_the_same():
    told = TwoScale(small()).told(spectrum())
    x, sigma = example((96, 41, 17))
    tiled = told.in_tiles((32, 41, 17), told.halo)
    assert isinstance(tiled.denoiser, Tiled)
    assert torch.allclose(tiled(x, sigma), told(x, sigma), atol=1e-12)
    level = sigma * (1 + torch.rand(x.shape, generator=torch.Generator().manual_seed(1)).double())
    assert torch.allclose(tiled(x, level), told(x, level), atol=1e-12)


def test_odd_sizes_keep_their_shape_and_gradients_flow():
    told = TwoScale(small()).told(spectrum())
    x, sigma = example((17, 19, 9))
    x.requires_grad_()
    estimate = told(x, sigma)
    assert estimate.shape == x.shape
    (gradient,) = torch.autograd.grad(estimate.sum(), x)
    assert bool((gradient != 0).any())


def test_images_to_condition_on_are_refused():
    x, sigma = example((16, 16, 16))
    with pytest.raises(ConfigError, match="condition"):
        TwoScale(small())(x, sigma, cond=x)
