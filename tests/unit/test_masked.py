"""Masked and padded voxels: found where a scan holds a fill value in blocks, and left alone by every denoiser."""

import numpy as np
import pytest
import torch

from medinterp.denoisers.base import evaluate, one_level
from medinterp.errors import InputError
from medinterp.noise.estimate import NoiseEstimate
from medinterp.noise.masked import masked_voxels, silent_where_masked
from medinterp.testing.networks import random_network
from medinterp.volume import Grid, Provenance, Source, Volume

ESTIMATE = NoiseEstimate(0.5, 0.4, 0.6, "rician", "told")


def scan(voxels, unit="a.u.", modality="MR"):
    grid = Grid(voxels.shape, np.eye(4))
    return Volume(voxels[None].astype(np.float32), grid, unit, modality, Provenance(Source("memory")))


def magnitude(shape=(24, 20, 16), sigma=1.0):
    real, imaginary = np.random.default_rng(0).standard_normal((2, *shape))
    return np.hypot(sigma * real, sigma * imaginary)


def test_a_cut_away_background_is_found_and_tissue_beside_it_is_not():
    voxels = 5 + magnitude()
    voxels[:6] = 0
    voxels[10, 10, 10] = 0  # one dark voxel is no block
    expected = np.zeros(voxels.shape, dtype=bool)
    expected[:6] = True
    np.testing.assert_array_equal(masked_voxels(scan(voxels)), expected)


def test_air_whose_noise_was_rounded_to_whole_numbers_is_not_taken_as_masked():
    air = np.round(magnitude((40, 40, 40), sigma=0.8))
    assert np.mean(air == 0) > 0.15
    assert not masked_voxels(scan(air)).any()
    assert silent_where_masked(ESTIMATE, scan(air)) is ESTIMATE


@pytest.mark.parametrize("value", [-1024.0, -2000.0])
def test_padding_of_ct_is_its_lowest_value_and_water_is_not(value):
    voxels = 30 * np.random.default_rng(0).standard_normal((20, 20, 20))
    voxels[:, :4] = value
    voxels[:, 10:14] = 0  # HU: a block of water, in a synthetic scan
    masked = masked_voxels(scan(voxels, "HU", "CT"))
    assert masked[:, :4].all()
    assert not masked[:, 4:].any()


def test_a_plain_volume_and_one_thinner_than_a_block_are_read():
    assert not masked_voxels(scan(np.zeros((5, 5, 5)))).any()
    thin = 5 + magnitude((24, 20, 2))
    thin[:6] = 0
    assert masked_voxels(scan(thin))[:6].all()


def test_the_noise_map_is_zero_where_the_scan_was_masked_and_the_estimate_elsewhere():
    voxels = 5 + magnitude()
    voxels[:6] = 0
    found = silent_where_masked(ESTIMATE, scan(voxels))
    assert (found.sigma, found.low, found.high) == (0.5, 0.4, 0.6)
    assert not found.map.voxels[0, :6].any()
    assert (found.map.voxels[0, 6:] == 0.5).all()


def test_no_denoiser_changes_a_voxel_without_noise():
    x = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    sigma = torch.full_like(x, 0.1)
    sigma[..., :5] = 0
    network = random_network()
    cleaned = evaluate(network, x, sigma)
    assert torch.equal(cleaned[..., :5], x[..., :5])
    assert torch.equal(cleaned[..., 5:], network(x, sigma)[..., 5:])
    assert not torch.equal(network(x, sigma)[..., :5], x[..., :5])  # it is not the network that does it


def test_a_denoiser_of_one_level_takes_a_map_that_is_zero_in_places_and_refuses_one_that_varies():
    sigma = torch.zeros(1, 1, 4, 4, 4)
    assert one_level(sigma).item() == 0
    sigma[..., 2:] = 0.3
    assert one_level(sigma).item() == pytest.approx(0.3)
    sigma[..., 3:] = 0.4
    with pytest.raises(InputError, match=r"0\.3 to 0\.4"):
        one_level(sigma)
