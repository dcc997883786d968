"""Coloured noise on two scales: what the spectrum decides, and what stays exact."""

import numpy as np
import pytest
import torch

from medinterp.denoisers.coloured import TwoScale, split
from medinterp.denoisers.network import BiasFreeUNet, receptive_radius
from medinterp.denoisers.symmetric import Symmetric
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
    """A small network as a denoiser with a radius that can be narrowed to a box, as a pretrained one is."""

    def __init__(self, network):
        self.network, self.radius, self.within = network, receptive_radius(network), network.within

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


def test_an_unknown_spectrum_leaves_the_denoiser_as_it_is_and_white_noise_its_high_frequencies():
    denoiser, (x, sigma) = small(), example((96, 96, 16))
    alone = TwoScale(denoiser)
    assert torch.equal(alone(x, sigma), denoiser(x, sigma))
    assert (alone.radius, alone.stride) == (24, 8)
    white = alone.told(white_spectrum(2.0, SPACING))
    assert (white.radius, white.stride) == (32, 8)
    given_back = torch.fft.fft2(white(x, sigma) - denoiser(x, sigma), dim=(2, 3)).abs()[0, 0].square().mean(dim=-1)
    frequency = torch.hypot(*torch.meshgrid(*[torch.fft.fftfreq(96).double()] * 2, indexing="ij"))
    assert given_back[frequency > 0.25].sum() < 0.02 * given_back[frequency < 0.1].sum()  # borders leak some
    assert not torch.equal(alone.told(spectrum())(x, sigma), denoiser(x, sigma))


@pytest.mark.parametrize("edges", [(2, 2, 1), (1, 1, 1)])
def test_the_mean_of_an_organ_is_kept_whatever_the_denoiser_makes_of_it(edges):
    """A denoiser that returns half the image takes half of a disk's contrast; 20 mm inside, none is missing."""
    told = TwoScale(lambda x, sigma, cond=None: 0.5 * x).told(spectrum(edges))
    distance = torch.hypot(*torch.meshgrid(*[torch.arange(96.0) - 48] * 2, indexing="ij"))
    disk = (30.0 * (distance < 30)).double()[None, None, :, :, None].expand(1, 1, 96, 96, 4)
    found = told(disk, torch.ones(1, 1, 1, 1, 1).double())[0, 0, ..., 2]
    assert torch.allclose(found[distance < 10], torch.tensor(30.0).double(), atol=0.01)  # Gaussian cut at 3 sd
    assert found[distance < 29].mean() < 29.5  # the control: at its border it is


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
    assert (told.radius, told.stride, start % told.stride) == (96, 16, 0)
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


@pytest.mark.parametrize("box", [((16, 8, 0), (32, 24, 16)), ((90, 35, 3), (96, 41, 17)), ((41, 13, 5), (42, 14, 6))])
def test_within_a_box_the_estimate_and_its_gradient_are_the_same_on_either_scale(box):
    told = TwoScale(Symmetric(small())).told(spectrum())
    x, sigma = example((96, 41, 17))
    inside = (..., *(slice(a, b) for a, b in zip(*box, strict=True)))
    x.requires_grad_()
    found = []
    for denoiser in (told, told.within(box)):
        estimate = denoiser(x, sigma)[inside]
        found.append((estimate.detach(), *torch.autograd.grad(estimate.square().sum(), x)))
    for whole, narrowed in zip(*found, strict=True):
        assert torch.allclose(whole, narrowed, atol=1e-12)


def test_a_mirrored_denoiser_moves_the_mean_of_a_noise_and_of_its_mirror_image_by_opposite_amounts():
    """So that it moves no mean of noise without a sign; a network alone, the control, does."""
    network = random_network().double()
    network.magnitude = False
    x, sigma = example((48, 48, 16))
    alone, mirrored = (
        float((d(40 + x, sigma) + d(40 - x, sigma)).mean() / 2 - 40) for d in (network, Symmetric(network))
    )
    assert abs(alone) > 0.01
    assert abs(mirrored) < 1e-12
    assert euler_account(Symmetric(network), x, sigma).residual < 1e-12


def test_another_network_takes_the_place_of_the_one_inside_every_wrapper():
    first, other, (x, sigma) = small(), random_network(seed=5).double(), example((16, 16, 16))
    replaced = TwoScale(Symmetric(first)).told(spectrum()).with_network(other)
    assert torch.equal(replaced(x, sigma), TwoScale(Symmetric(other)).told(spectrum())(x, sigma))


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
