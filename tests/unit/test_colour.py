"""What is said of a scan's noise: white, correlated or resampled, and its level voxel by voxel."""

import numpy as np
import pytest
from scipy import ndimage

from medinterp.errors import InputError
from medinterp.noise.colour import colour_of, estimate_colour, estimate_level_map
from medinterp.noise.ct import Coloured
from medinterp.noise.estimate import Auto
from medinterp.noise.spectrum import spectrum_of, white_spectrum
from medinterp.noise.spectrum_estimate import estimate_spectrum
from medinterp.volume import Grid, Provenance, Source, Volume

SPACING = (0.8, 0.8, 2.5)
SHAPE = (96, 96, 24)


def scan(voxels, modality="CT", unit="HU", spacing=SPACING):
    grid = Grid(voxels.shape, np.diag([*spacing, 1.0]))
    return Volume(voxels[None].astype(np.float32), grid, unit, modality, Provenance(Source("memory")))


def white(sigma=10.0, shape=SHAPE, seed=0):
    return sigma * np.random.default_rng(seed).standard_normal(shape)


def soft(sigma=10.0, seed=0):
    noise = ndimage.gaussian_filter(white(seed=seed), (0.8, 0.8, 0), mode="wrap")
    return noise * (sigma / noise.std())


def test_white_noise_is_called_white():
    colour = estimate_colour(scan(40 + white()), estimate_spectrum(scan(40 + white())))
    assert colour.is_white
    assert colour.interpolated == (False, False, False)
    assert "white" in colour.describe()


def test_smoothed_noise_is_called_coloured_with_its_width_in_mm():
    colour = colour_of(spectrum_of(soft(), SPACING))
    assert not colour.is_white
    # the autocorrelation of noise smoothed by 0.8 voxels is a Gaussian of 0.8 * sqrt(2) voxels: FWHM 2.355 of these
    assert colour.width_mm[0] == pytest.approx(0.8 * 2**0.5 * 2.355 * SPACING[0], rel=0.1)
    assert colour.neighbours[2] == pytest.approx(0, abs=0.05)
    assert "coloured" in colour.describe()
    assert "leaves texture" in colour.describe()
    assert "leaves texture" not in colour.describe(told=True)


def test_white_noise_on_fine_anatomy_is_not_called_coloured():
    texture = ndimage.gaussian_filter(white(seed=1), 1.0, mode="wrap")
    seen = 40 + texture * (10.0 / texture.std())
    colour = estimate_colour(scan(seen + white()), estimate_spectrum(scan(seen + white())))
    assert colour.strongest > 0.1  # it does look correlated
    assert colour.may_be_anatomy
    assert not colour.is_coloured
    assert "fine anatomy" in colour.describe()
    assert colour_of(spectrum_of(soft(), SPACING)).is_coloured  # the control: noise without its finest detail


def test_a_scan_interpolated_to_smaller_voxels_is_recognised_and_its_axis_named():
    small = 100 + white(4.0, (64, 64, 32))
    finer = ndimage.zoom(small, (1.6, 1, 1), order=1, grid_mode=True, mode="nearest")
    volume = scan(finer, "MR", "a.u.", (1.0, 1.0, 1.0))
    colour = estimate_colour(volume, estimate_spectrum(volume))
    assert colour.interpolated == (True, False, False)
    assert "resampled along I" in colour.describe()
    plain = scan(small, "MR", "a.u.", (1.0, 1.0, 1.0))
    assert estimate_colour(plain, estimate_spectrum(plain)).interpolated == (False, False, False)


def test_the_default_estimate_says_the_colour_of_an_interpolated_mri():
    finer = ndimage.zoom(100 + white(4.0, (48, 48, 24)), 2, order=1)
    found = Auto()(scan(finer, "MR", "a.u.", (1.0, 1.0, 1.0)))
    assert found.model == "rician"  # the colour is reported; what the denoiser is told stays as it was
    assert found.colour is not None
    assert not found.colour.is_white


def test_a_scan_too_small_for_a_spectrum_still_has_a_noise_level():
    found = Auto()(scan(100 + white(4.0, (16, 16, 16)), "MR", "a.u.", (1.0, 1.0, 1.0)))
    assert found.sigma == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("noise", [white, soft])
def test_the_level_map_follows_a_level_that_doubles_over_the_scan_within_10_percent(noise):
    truth = np.broadcast_to(np.linspace(8, 16, SHAPE[0])[:, None, None], SHAPE)
    values = np.full(SHAPE, 40.0)
    values[:, 40:56] = 90.0  # an organ with sharp edges
    volume = scan(values + noise(1.0, seed=3) * truth)
    found = estimate_level_map(volume, spectrum_of(noise(1.0, seed=3), SPACING)).voxels[0]
    inside = (slice(12, -12), slice(12, -12), slice(None))  # the map is constant beyond the middle of the last block
    assert np.median(found[inside] / truth[inside]) == pytest.approx(1, abs=0.1)
    assert np.quantile(np.abs(found[inside] / truth[inside] - 1), 0.9) < 0.15
    flat = np.median(found)  # the control: one level for all is wrong by far more
    assert np.quantile(np.abs(flat / truth[inside] - 1), 0.9) > 0.2


def test_the_ct_estimator_gives_level_interval_map_and_colour():
    found = Coloured()(scan(40 + soft(12.0)))
    assert found.model == "coloured"
    assert found.sigma == pytest.approx(12.0, rel=0.1)
    assert found.low < 12.0 < found.high
    assert found.map is not None
    assert found.colour is not None
    assert not found.colour.is_white
    assert Coloured(level_map=False)(scan(40 + soft(12.0))).map is None


def test_a_scan_without_noise_has_no_map():
    assert Coloured()(scan(np.full(SHAPE, 40.0))).sigma == 0
    with pytest.raises(InputError, match="some noise"):
        estimate_level_map(scan(np.full(SHAPE, 40.0)), white_spectrum(0.0, SPACING))
