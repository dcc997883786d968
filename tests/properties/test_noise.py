"""Noise estimates are right on anatomy-like scans, for any noise level, brightness and masking."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medinterp.noise.estimate import Auto, FlatWindows, HaarMad, PatchPca
from medinterp.volume import Grid, Provenance, Source, Volume

REAL = os.environ.get("MEDINTERP_REAL_DATA")
LEVELS = [0.02, 0.05, 0.09, 0.15]


def scan(voxels, modality="MR", unit="a.u."):
    grid = Grid(voxels.shape, np.eye(4))
    return Volume(voxels[None], grid, unit, modality, Provenance(Source("memory")))


def anatomy(size=40, seed=0):
    """A round head of bright (1.0), middling (0.7) and dark (0.35) folds with soft borders, in air."""
    generator = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(generator.standard_normal((size,) * 3), 4)
    field /= field.std()
    index = np.indices((size,) * 3) - (size - 1) / 2
    head = np.linalg.norm(index, axis=0) < 0.45 * size
    values = np.select([field > 0.6, field > -0.6], [1.0, 0.7], 0.35)
    return ndimage.gaussian_filter(values * head, 0.6).astype(np.float32), head


CLEAN, HEAD = anatomy()


def rician(clean, sigma, seed):
    generator = np.random.default_rng(seed)
    real, imaginary = (sigma * generator.standard_normal(clean.shape, dtype=np.float32) for _ in range(2))
    return np.hypot(clean + real, imaginary)


@settings(max_examples=12, deadline=None)
@given(level=st.floats(0.02, 0.2), brightness=st.floats(1e-2, 1e3), seed=st.integers(0, 1000), masked=st.booleans())
def test_the_default_is_within_10_percent_from_2_to_20_percent_noise(level, brightness, seed, masked):
    noisy = brightness * rician(CLEAN, level, seed) * (HEAD if masked else 1)
    found = Auto()(scan(noisy.astype(np.float32)))
    assert found.sigma == pytest.approx(level * brightness, rel=0.1)


@pytest.mark.parametrize("level", LEVELS)
def test_the_interval_holds_the_truth(level):
    # interval: 95 %; forty draws that miss at 5 % each would exceed six misses once in 300
    hits = 0
    for seed in range(10):
        found = FlatWindows(windows=20_000)(scan(rician(CLEAN, level, seed)))
        hits += found.low <= level <= found.high
    assert hits >= 9


@pytest.mark.parametrize(("estimator", "tolerance"), [(HaarMad(windows=60_000), 0.15), (PatchPca(), 0.15)])
@pytest.mark.parametrize("level", [0.05, 0.15])
def test_the_others_are_within_their_stated_errors(estimator, tolerance, level):
    assert estimator(scan(rician(CLEAN, level, 1))).sigma == pytest.approx(level, rel=tolerance)


def test_without_the_rician_correction_strong_noise_would_be_missed():
    """Control: read as Gaussian, magnitudes in dark tissue (signal 1.33 sigma) are too calm."""
    noisy = rician(np.full((32, 32, 32), 0.2, dtype=np.float32), 0.15, 0)
    assert FlatWindows()(scan(noisy)).sigma == pytest.approx(0.15, rel=0.1)
    assert FlatWindows()(scan(noisy, "OT")).sigma < 0.9 * 0.15


def test_white_ct_noise_is_found_in_soft_tissue_beside_air():
    hu = np.select([CLEAN > 0.85, CLEAN > 0.5, HEAD], [29.0, 37.0, 6.0], -1000.0).astype(np.float32)
    noisy = hu + 15 * np.random.default_rng(0).standard_normal(hu.shape, dtype=np.float32)
    assert Auto()(scan(noisy, "CT", "HU")).sigma == pytest.approx(15, rel=0.1)


@pytest.mark.skipif(REAL is None, reason="MEDINTERP_REAL_DATA names no folder of real scans")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_default_is_within_10_percent_on_real_scans(level, masked):
    from medinterp.io import read_nifti

    for path in sorted(Path(str(REAL)).rglob("*colin27*.nii.gz")) + sorted(Path(str(REAL)).rglob("infant1*.nii.gz")):
        clean = read_nifti(path).voxels[0]
        bright = float(np.quantile(clean[clean > 0.1 * clean.max()], 0.98))
        head = ndimage.binary_fill_holes(clean > 0.1 * bright)
        noisy = rician(clean, level * bright, 1) * (head if masked else 1)
        assert Auto()(scan(noisy.astype(np.float32))).sigma == pytest.approx(level * bright, rel=0.1)
