"""Tiling: equal to the whole volume with the receptive radius as halo, and no tile larger than memory allows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medinterp.denoisers.network import STRIDE, receptive_radius
from medinterp.denoisers.tiled import Tiled, choose_tile, spans
from medinterp.errors import ConfigError, DeviceError
from medinterp.testing.networks import random_network

SHAPE = (61, 45, 19)  # odd sizes: the network pads every axis


def example(dtype=torch.float64):
    network = random_network((2, 3, 4), (1, 0, 0)).to(dtype)  # radius 24: small volumes have an inside
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, *SHAPE, generator=generator, dtype=dtype)
    return network, x, 0.1 + torch.rand(1, 1, *SHAPE, generator=generator, dtype=dtype)


def difference(network, tiled, x, sigma):
    whole = network(x, sigma)
    return float((tiled(x, sigma) - whole).norm() / whole.norm())


@pytest.mark.parametrize("tile", [(16, 45, 19), (61, 8, 19), (16, 24, 8), SHAPE, (100, 100, 100)])
def test_tiles_with_the_receptive_radius_equal_the_whole_volume(tile):
    network, x, sigma = example()
    tiled = Tiled(network, tile, halo=receptive_radius(network))
    assert difference(network, tiled, x, sigma) < 1e-12  # the same sums, rounded in another order
    assert difference(network, tiled, x, sigma[..., :1, :1, :1]) < 1e-12


def test_tiles_equal_the_whole_volume_in_float32():
    network, x, sigma = example(torch.float32)
    assert difference(network, Tiled(network, (16, 24, 19), halo=receptive_radius(network)), x, sigma) < 1e-6


def test_control_a_halo_that_is_too_small_differs():
    network, x, sigma = example()
    radius = receptive_radius(network)
    errors = [difference(network, Tiled(network, (16, 45, 19), halo=h), x, sigma) for h in (0, radius - STRIDE)]
    assert errors[0] > 1e-3
    assert errors[1] > 1e-9  # the last cells have little weight, but far more than rounding


def test_control_origins_off_the_stride_differ():
    network, x, sigma = example()
    radius = receptive_radius(network)
    off = Tiled(network, (20, 45, 19), halo=radius, stride=1)
    assert difference(network, off, x, sigma) > 1e-3


def test_gradients_through_tiles_equal_those_of_the_whole_volume():
    network, x, sigma = example()
    gradients = []
    for denoiser in (network, Tiled(network, (16, 45, 19), halo=receptive_radius(network))):
        start = x.clone().requires_grad_()
        gradients += torch.autograd.grad(denoiser(start, sigma)[..., 20:40, 10:20, 5:9].sum(), start)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-12)


def test_condition_is_cut_like_the_image():
    x = torch.arange(32.0 * 8 * 8).reshape(1, 1, 32, 8, 8)
    tiled = Tiled(lambda x, sigma, *, cond: x + cond, (8, 8, 8), halo=8)
    assert torch.equal(tiled(x, torch.ones(1, 1, 1, 1, 1), cond=x), 2 * x)


def test_every_tile_is_reported():
    told = []
    x = torch.zeros(1, 1, 24, 16, 9)
    Tiled(lambda x, sigma: x, (8, 8, 9), halo=0, on_tile=told.append)(x, torch.ones(1, 1, 1, 1, 1))
    assert [(info.stage, info.done, info.total) for info in told] == [("tile", n, 6) for n in range(1, 7)]


def test_tiles_off_the_stride_are_refused():
    with pytest.raises(ConfigError, match="multiple of 8"):
        Tiled(lambda x, sigma: x, (12, 8, 8), halo=8)(torch.zeros(1, 1, 24, 8, 8), torch.ones(1, 1, 1, 1, 1))


@pytest.mark.parametrize(("tile", "halo"), [((0, 8, 8), 8), ((8, 8, 8), -1)])
def test_impossible_tiles_are_refused(tile, halo):
    with pytest.raises(ConfigError, match="expected"):
        Tiled(lambda x, sigma: x, tile, halo=halo)


@given(length=st.integers(1, 300), cells=st.integers(1, 40), halo=st.integers(0, 100))
def test_cores_cover_an_axis_once_and_crops_keep_their_halo(length, cells, halo):
    cuts = spans(length, 8 * cells, halo)
    assert [v for cut in cuts for v in range(cut.core_start, cut.core_stop)] == list(range(length))
    for cut in cuts:
        assert cut.start % STRIDE == 0
        assert cut.start == 0 or cut.core_start - cut.start >= halo
        assert cut.stop == length or cut.stop - cut.core_stop >= halo


@given(shape=st.tuples(*[st.integers(1, 300)] * 3), share=st.floats(0.02, 1.5), radius=st.sampled_from([0, 16, 24, 72]))
def test_chosen_tiles_fit_the_limit(shape, share, radius):
    limit = max(1, int(share * math.prod(shape)))
    try:
        tile = choose_tile(shape, limit, radius)
    except DeviceError:
        assert limit < math.prod(
            min(n, 8 + 2 * radius + 7) for n in shape
        )  # refused only if the smallest crop is too big
        return
    if tile is None:
        assert math.prod(shape) <= limit
        return
    crops = [max(cut.stop - cut.start for cut in spans(n, t, radius)) for n, t in zip(shape, tile, strict=True)]
    assert math.prod(crops) <= limit


def test_slabs_along_the_longest_axis_come_first():
    assert choose_tile((256, 200, 170), 200 * 170 * 210, 72) == (128, 200, 170)


def test_no_tiles_without_a_limit_or_within_it():
    assert choose_tile((64, 64, 64), None, 72) is None
    assert choose_tile((64, 64, 64), 64**3, None) is None


def test_too_little_memory_is_refused_with_what_would_do():
    with pytest.raises(DeviceError, match="smallest crop has"):
        choose_tile((512, 512, 512), 100_000, 72)
    with pytest.raises(DeviceError, match="whole volume at once"):
        choose_tile((64, 64, 64), 1000, None)
