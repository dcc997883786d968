"""Measures of a fused image: their values on images whose answer is known, and who wins them."""

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from medinterp.assessment import fusion_metrics as measures

SHAPE = (24, 26, 28)


def texture(seed, shape=SHAPE):
    made = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (made - made.min()) / (made.max() - made.min())


def ramp(axis):
    return np.linspace(0, 1, SHAPE[axis]).reshape([-1 if a == axis else 1 for a in range(3)]) * np.ones(SHAPE)


def test_a_copy_holds_everything_of_what_it_copies():
    image = texture(0)
    assert measures.correlation(image, image) == pytest.approx(1, abs=1e-12)
    assert measures.similarity(image, image) == pytest.approx(1, abs=1e-12)
    assert measures.visual_information(image, image) == pytest.approx(1, abs=1e-4)  # but for the guard of a division
    strength = 0.9994 / (1 + math.exp(-15 * 0.5))  # Xydeas and Petrovic's curves at their best
    orientation = 0.9879 / (1 + math.exp(-22 * 0.2))
    assert measures.edge_quality(image, image)[0] == pytest.approx(strength * orientation, rel=1e-6)


def test_an_unrelated_image_holds_next_to_nothing():
    image, other = texture(0), texture(1)
    assert abs(measures.correlation(image, other)) < 0.2
    assert measures.visual_information(image, other) < 0.2
    assert measures.edge_quality(image, other)[0] < 0.3


def test_edges_turned_by_a_right_angle_are_not_kept():
    along, across = ramp(0), ramp(1)
    assert measures.edge_quality(along, across)[0] < 1e-3
    assert measures.edge_quality(along, 1 - along)[0] > 0.9  # turned around they still are: contrast may invert


def test_entropy_of_evenly_used_values_is_that_of_their_number():
    levels = (np.arange(256) + 0.5) / 256
    assert measures.entropy(np.tile(levels, 16).reshape(16, 16, 16)) == pytest.approx(8, abs=1e-12)
    assert measures.entropy(np.zeros(SHAPE)) == 0


def test_spatial_frequency_of_a_ramp_is_its_step():
    assert measures.spatial_frequency(ramp(2)) == pytest.approx(1 / (SHAPE[2] - 1), rel=1e-12)


def test_what_is_added_to_the_other_correlates_with_what_was_put_in():
    a, b = texture(0), texture(1)
    assert measures.correlation_of_differences(a + b, {"a": a, "b": b}) == pytest.approx(2, abs=1e-12)
    assert measures.correlation_of_differences(a, {"a": a, "b": b}) < 1.2  # the control: a copy of one


def test_structural_similarity_is_scikit_images():
    image = texture(0)
    noisy = np.clip(image + np.random.default_rng(2).normal(0, 0.1, SHAPE), 0, 1)
    _, theirs = structural_similarity(
        image, noisy, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    inner = (slice(6, -6),) * 3  # scikit-image mirrors at the border after 3.5 sigma, scipy's filter after 4
    assert measures.similarity(image, noisy) == pytest.approx(float(theirs.mean()), abs=2e-3)
    assert 0.1 < float(theirs[inner].mean()) < 0.9


def test_a_copy_wins_classic_measures_and_loses_their_least():
    """The fused image to beat: each half of it shows the modality that has anything there."""
    a, b = texture(0), texture(1)
    a[12:], b[:12] = 0.5, 0.5
    joined = np.where(np.arange(SHAPE[0])[:, None, None] < 12, a, b)
    inputs = {"a": a, "b": b}
    copy, fused = measures.fusion_metrics(a, inputs), measures.fusion_metrics(joined, inputs)
    assert all(fused.least[name] > copy.least[name] for name in ("VIF", "Qabf", "SSIM", "CC", "MI"))
    assert copy.least["Qabf"] < 0.1
    assert set(copy.classic) == {"EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM", "CC"}
