"""Infidelity and max-sensitivity: closed forms on linear and quadratic models, and what Captum finds."""

import math

import pytest
import torch
from captum import metrics

from medinterp.assessment.sensitivity import block_changes, infidelity, max_sensitivity, multiplier
from medinterp.errors import ConfigError
from medinterp.testing.attribution_oracles import ReluNetwork, smooth_noise

SHAPE = (1, 1, 8, 9, 10)
SIGMA = torch.full((1, 1, 1, 1, 1), 0.7, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def case():
    weights, scan = smooth_noise(SHAPE, 1.0, seeded(1)), 2 + smooth_noise(SHAPE, 1.0, seeded(2))
    return weights, scan, lambda y: (y * weights).flatten(1).sum(dim=1)


def gaussian_changes(count, scale=0.5, seed=3, batch=16):
    noise = scale * torch.randn((count, *SHAPE[1:]), generator=seeded(seed), dtype=torch.float64)
    return list(noise.split(batch))


def test_the_gradient_of_a_linear_model_predicts_every_change():
    weights, scan, measure = case()
    found = infidelity(measure, scan, weights, gaussian_changes(64))
    assert found.rms < 1e-10
    assert found.relative < 1e-24
    assert found.best_scale == pytest.approx(1, abs=1e-12)


def test_contributions_predict_as_well_once_divided_by_the_distance_from_their_baseline():
    weights, scan, measure = case()
    baseline = torch.ones_like(scan)
    baseline[..., 0] = scan[..., 0]  # no distance, no contribution
    effect = multiplier(weights * (scan - baseline), scan, baseline)
    changes = block_changes(scan, baseline, block=3, changes=20, batch=6, generator=seeded(4))
    assert infidelity(measure, scan, effect, changes).rms < 1e-10
    assert torch.equal(multiplier(weights, scan, None), weights)


def test_the_infidelity_of_an_error_in_the_map_is_its_variance_under_the_change():
    weights, scan, measure = case()
    error = smooth_noise(SHAPE, 1.0, seeded(5))
    found = infidelity(measure, scan, weights + error, gaussian_changes(4000))
    expected = 0.25 * float(error.square().sum())  # sd 0.5: E (I error)^2, in the measurement's unit squared
    assert found.value.low < expected < found.value.high
    assert found.rms == pytest.approx(math.sqrt(expected), rel=0.05)


def test_infidelity_is_in_the_unit_of_the_measurement_squared():
    weights, scan, measure = case()
    once = infidelity(measure, scan, 0 * weights, gaussian_changes(8))
    thousand = infidelity(lambda y: 1000 * measure(y), scan, 0 * weights, gaussian_changes(8))
    assert thousand.value.value == pytest.approx(1e6 * once.value.value)
    assert thousand.rms == pytest.approx(1e3 * once.rms)
    assert (once.relative, once.best_scale) == (1.0, None)


def test_a_map_of_noise_must_predict_no_better_than_nothing():
    _, scan, measure = case()
    found = infidelity(measure, scan, smooth_noise(SHAPE, 1.0, seeded(9)), gaussian_changes(500))
    assert found.relative > 1
    assert found.relative_at_best > 0.9


def test_a_map_of_the_wrong_size_is_told_by_the_best_scale():
    weights, scan, measure = case()
    found = infidelity(measure, scan, 5 * weights, gaussian_changes(50))
    assert found.best_scale == pytest.approx(0.2)
    assert found.relative == pytest.approx(16)
    assert found.relative_at_best == pytest.approx(0, abs=1e-12)


def relu_case():
    network, scan = ReluNetwork(seeded(6), bias=True), 2 + smooth_noise(SHAPE, 1.0, seeded(2))
    weights = smooth_noise(SHAPE, 2.0, seeded(7))

    def measure(y):
        return (network(y, SIGMA) * weights).flatten(1).sum(dim=1)

    def gradient(y):
        with torch.enable_grad():  # Captum asks for maps without a graph
            leaf = y.detach().requires_grad_()
            return torch.autograd.grad(measure(leaf).sum(), leaf)[0]

    return measure, gradient, scan


def test_infidelity_is_that_of_captum_on_the_same_changes():
    measure, gradient, scan = relu_case()
    effect, changes = gradient(scan), gaussian_changes(10, batch=10)
    ours = infidelity(measure, scan, effect, changes)
    theirs = metrics.infidelity(
        measure, lambda y: (changes[0], y - changes[0]), scan, effect, n_perturb_samples=10, max_examples_per_batch=10
    )
    assert ours.value.value == pytest.approx(float(theirs), rel=1e-6)


def test_max_sensitivity_is_that_of_captum_on_the_same_scans():
    _, gradient, scan = relu_case()
    moved = []

    def explain(y):
        moved.append(y)
        return gradient(y)[0]

    ours = max_sensitivity(explain, scan, gradient(scan)[0], radius=0.3, changes=7, generator=seeded(8))
    again = iter(moved)
    theirs = metrics.sensitivity_max(
        lambda y: gradient(y[0] if isinstance(y, tuple) else y),
        scan,
        perturb_func=lambda y: next(again),
        n_perturb_samples=7,
        max_examples_per_batch=1,
    )
    assert ours.relative == pytest.approx(float(theirs), rel=1e-6)
    assert max(float((y - scan).abs().max()) for y in moved) <= 0.3


def test_the_map_of_a_linear_model_does_not_move_and_that_of_a_quadratic_moves_by_its_curvature():
    weights, scan, _ = case()
    still = max_sensitivity(lambda y: weights[0], scan, weights[0], radius=1.0, changes=3, generator=seeded())
    assert (still.value, still.relative) == (0.0, 0.0)
    moving = max_sensitivity(
        lambda y: (2 * y)[0], scan, (2 * scan)[0], radius=0.1, changes=20, generator=seeded(), sigma=0.2
    )
    expected = 2 * 0.1 * math.sqrt(scan.numel() / 3)  # uniform in +-r: variance r^2/3
    assert moving.value == pytest.approx(expected, rel=0.1)
    assert moving.radius_sigmas == pytest.approx(0.5)


def test_cubes_lie_inside_the_scan_and_have_their_size():
    _, scan, _ = case()
    for change in block_changes(scan, scan - 1, block=4, changes=9, batch=2, generator=seeded()):
        assert (change.flatten(1).sum(dim=1) == 64).all()


def test_too_few_changes_and_no_radius_are_refused():
    weights, scan, measure = case()
    with pytest.raises(ConfigError, match="fewer than 2"):
        infidelity(measure, scan, weights, gaussian_changes(1))
    with pytest.raises(ConfigError, match="positive"):
        max_sensitivity(lambda y: y[0], scan, scan[0], radius=0.0, changes=1, generator=seeded())
