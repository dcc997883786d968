"""Noise estimators: which model, which method, and what they refuse."""

import numpy as np
import pytest

from medinterp.errors import InputError, TooFewVoxels, UnitMismatch
from medinterp.noise.estimate import Auto, FlatWindows, HaarMad, PatchPca, SoftTissueSd, choose_model
from medinterp.volume import Grid, Provenance, Source, Volume

GENERAL = [FlatWindows(), HaarMad(), PatchPca()]


def name_of(estimator):
    return type(estimator).__name__


def scan(voxels, modality="MR", unit="a.u.", spacing=(1.0, 1.0, 1.0)):
    grid = Grid(voxels.shape[-3:], np.diag([*spacing, 1.0]))
    return Volume(voxels.reshape(-1, *grid.shape), grid, unit, modality, Provenance(Source("memory")))


def noise(shape=(24, 24, 24), seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_magnitude_mr_is_rician_and_everything_else_gaussian():
    positive = np.abs(noise()) + 1
    assert choose_model(scan(positive)) == "rician"
    assert choose_model(scan(positive - 1.5)) == "gaussian"
    assert choose_model(scan(positive, "CT", "HU")) == "gaussian"


@pytest.mark.parametrize("estimator", GENERAL, ids=name_of)
def test_white_noise_on_a_bright_plain_is_found(estimator):
    found = estimator(scan(10 + 0.5 * noise()))
    # 24^3 voxels, of which PatchPca sees the calmer half (about 5 % low) and the others a tenth (4 % statistical error)
    assert found.sigma == pytest.approx(0.5, rel=0.1)
    assert found.low < found.sigma < found.high
    assert found.model == "rician"
    assert found.map is None


@pytest.mark.parametrize("estimator", GENERAL, ids=name_of)
@pytest.mark.parametrize("factor", [1e-3, 500.0])
def test_estimates_scale_with_the_scan(estimator, factor):
    voxels = np.hypot(10 + noise(), noise(seed=1))
    assert estimator(scan(factor * voxels)).sigma == pytest.approx(factor * estimator(scan(voxels)).sigma, rel=1e-4)


@pytest.mark.parametrize("estimator", GENERAL, ids=name_of)
def test_a_scan_without_noise_reads_zero(estimator):
    found = estimator(scan(np.full((16, 16, 16), 7.0, dtype=np.float32)))
    assert (found.sigma, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_constant_ct_reads_zero():
    assert SoftTissueSd()(scan(np.full((16, 16, 16), 40, dtype=np.float32), "CT", "HU")).sigma == 0.0


@pytest.mark.parametrize("estimator", [*GENERAL, Auto()], ids=name_of)
def test_estimates_repeat_to_the_bit(estimator):
    volume = scan(10 + noise((64, 60, 56)))  # more places than windows: they are drawn at random
    assert estimator(volume) == estimator(volume)


def test_another_seed_draws_other_windows():
    volume = scan(10 + noise((64, 60, 56)))
    assert FlatWindows(seed=1)(volume).sigma != FlatWindows(seed=0)(volume).sigma


@pytest.mark.parametrize("estimator", GENERAL, ids=name_of)
def test_too_little_tissue_is_refused(estimator):
    voxels = np.zeros((24, 24, 24), dtype=np.float32)
    voxels[:9, :9, :9] = 10 + noise((9, 9, 9))
    with pytest.raises(TooFewVoxels, match="729 voxels of tissue"):
        estimator(scan(voxels))
    with pytest.raises(TooFewVoxels, match="0 voxels of tissue"):
        estimator(scan(np.zeros((12, 12, 12), dtype=np.float32)))


def test_too_little_soft_tissue_and_other_units_are_refused():
    with pytest.raises(TooFewVoxels, match="soft tissue"):
        SoftTissueSd()(scan(-1000 + noise(), "CT", "HU"))
    with pytest.raises(UnitMismatch, match="needs HU"):
        SoftTissueSd()(scan(noise(), "CT", "1"))


@pytest.mark.parametrize("estimator", [*GENERAL, SoftTissueSd()], ids=name_of)
def test_several_channels_are_refused(estimator):
    with pytest.raises(InputError, match="2 channels"):
        estimator(scan(noise((2, 16, 16, 16)), "CT", "HU"))


def test_the_default_takes_soft_tissue_for_ct_in_hu_and_flat_windows_else():
    assert Auto()(scan(10 * noise(), "CT", "HU")).method == "soft-tissue SD"
    assert Auto()(scan(10 + noise())).method == "flat windows"
    assert Auto()(scan(noise(), "CT", "1")).method == "flat windows"


def test_ct_noise_is_found_in_hu_whatever_its_colour():
    white = noise((48, 48, 12))
    smooth = white + np.roll(white, 1, axis=0) + np.roll(white, 1, axis=1)
    smooth *= 12 / smooth.std()
    found = SoftTissueSd()(scan(40 + smooth, "CT", "HU", (1.0, 1.0, 3.0)))
    # correlated neighbours: taking the trend out of 7x7 voxels takes 4 to 8 % of the noise with it
    assert found.sigma == pytest.approx(12, rel=0.1)
    assert found.model == "gaussian"
    assert FlatWindows()(scan(40 + smooth, "CT", "HU")).sigma < 9  # control: the finest detail misses coloured noise


def test_ct_padding_and_air_do_not_count():
    voxels = -1000 * np.ones((40, 40, 16), dtype=np.float32)
    voxels[:, :8] = -2048
    voxels[8:32, 12:36] = 40 + 9 * noise((24, 24, 16))
    # about 5000 whole windows of heavily overlapping places: 3 % statistical error
    assert SoftTissueSd()(scan(voxels, "CT", "HU", (1.0, 1.0, 5.0))).sigma == pytest.approx(9, rel=0.1)


def test_a_scan_of_one_slice_is_estimated():
    assert FlatWindows()(scan(10 + noise((80, 80, 1)))).sigma == pytest.approx(1.0, rel=0.1)
