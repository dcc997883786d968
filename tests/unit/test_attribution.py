"""Attributors: the same as Captum called directly, honest about baselines and convergence, and loud when degenerate."""

import logging
import math

import pytest
import torch
from captum import attr

from medinterp.attribution import (
    Attribution,
    Blurred,
    EquivalentFilter,
    Given,
    InputXGradient,
    IntegratedGradients,
    NoiseResampled,
    Ray,
    RegionContrast,
    RegionEnergy,
    RegionMean,
    Saliency,
    WeightedSum,
    edge_sharpness,
)
from medinterp.attribution.equivalent_filter import filter_statistics
from medinterp.attribution.result import completeness_residual
from medinterp.denoisers.network import BiasFreeUNet
from medinterp.errors import ConfigError, InputError, MethodNotValid, NonFinite
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, PeronaMalikStep, smooth_noise

SHAPE = (16, 9, 11)


@pytest.fixture
def scan():
    noise = smooth_noise((1, 1, *SHAPE), 0.8, torch.Generator().manual_seed(3))
    return {SCAN: 10 + 2 * noise}


@pytest.fixture(params=["scalar", "map"])
def sigma(request):
    shape = (1, 1, 1, 1, 1) if request.param == "scalar" else (1, 1, *SHAPE)
    return {SCAN: torch.full(shape, 0.7, dtype=torch.float64)}


@pytest.fixture
def region():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[5:8, 3:6, 4:6] = True
    return RegionMean(mask, "block")


def network(dtype=torch.float64):
    with torch.random.fork_rng():  # the layers' own initialisation draws from the global generator
        torch.manual_seed(0)
        return BiasFreeUNet((4, 4, 4), (1, 1, 1)).to(dtype).requires_grad_(False)


def captum_call(forward, target):
    """The measurement as a user of Captum would write it: two tensors in, one number a sample out."""
    return lambda image, level: target(forward({SCAN: image}, {SCAN: level}))


def equal(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm()) <= 1e-5


def test_saliency_equals_captum(scan, sigma, region):
    forward = DenoiserForward(network())
    leaves = (scan[SCAN].clone().requires_grad_(), sigma[SCAN].clone().requires_grad_())
    theirs = attr.Saliency(captum_call(forward, region)).attribute(leaves, abs=False)
    ours = Saliency()(forward, scan, sigma, region)
    assert equal(ours.maps[SCAN], theirs[0])
    assert math.isclose(ours.noise_share[SCAN], float((theirs[1] * sigma[SCAN]).sum()), rel_tol=1e-9)


def test_gradient_x_input_equals_captum(scan, sigma, region):
    forward = DenoiserForward(network())
    leaves = (scan[SCAN].clone().requires_grad_(), sigma[SCAN].clone().requires_grad_())
    theirs = attr.InputXGradient(captum_call(forward, region)).attribute(leaves)
    ours = InputXGradient()(forward, scan, sigma, region)
    assert equal(ours.maps[SCAN], theirs[0].detach())
    assert math.isclose(ours.noise_share[SCAN], float(theirs[1].detach().sum()), rel_tol=1e-9)


def test_integrated_gradients_equal_captum(scan, sigma, region):
    forward = DenoiserForward(network())
    start = Blurred()(forward, scan, sigma)[0][SCAN]
    theirs = attr.IntegratedGradients(captum_call(forward, region)).attribute(
        (scan[SCAN], sigma[SCAN]), (start, sigma[SCAN]), n_steps=8, method="gausslegendre"
    )
    ours = IntegratedGradients(steps=8)(forward, scan, sigma, region)
    assert equal(ours.maps[SCAN], theirs[0])
    assert ours.noise_share[SCAN] == 0  # the level is held
    assert ours.evaluations == 10  # both ends and eight points


def test_equivalent_filter_is_the_saliency_with_statistics(scan, sigma, region):
    forward = DenoiserForward(network())
    row, saliency = EquivalentFilter()(forward, scan, sigma, region), Saliency()(forward, scan, sigma, region)
    assert torch.equal(row.maps[SCAN], saliency.maps[SCAN])
    assert math.isclose(row.statistics[f"gain:{SCAN}"], float(row.maps[SCAN].sum()), rel_tol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [Saliency(), InputXGradient(), IntegratedGradients(Ray(), steps=1)])
def test_nothing_is_left_over_on_the_bias_free_network(scan, sigma, region, method, dtype):
    scan, sigma = {SCAN: scan[SCAN].to(dtype)}, {SCAN: sigma[SCAN].to(dtype)}
    found = method(DenoiserForward(network(dtype)), scan, sigma, region)
    assert found.baseline_value == 0
    assert found.residual <= (1e-5 if dtype == torch.float32 else 1e-12)  # rounding of a few thousand terms


def test_the_ray_needs_one_evaluation_on_the_bias_free_network(scan, sigma, region):
    found = IntegratedGradients(Ray())(DenoiserForward(network()), scan, sigma, region)
    assert found.evaluations == 3  # both ends and one point
    assert found.convergence is None
    assert found.residual <= 1e-9


def test_the_ray_is_divided_where_one_evaluation_leaves_something_over(scan, sigma, region):
    bent = DenoiserForward(lambda x, sigma: torch.tanh(0.1 * x) * x)
    found = IntegratedGradients(Ray())(bent, scan, sigma, region)
    assert found.residual <= 0.01
    assert found.evaluations == 2 + 9
    assert found.convergence <= 0.1


def test_a_path_is_divided_until_both_criteria_hold(scan, region):
    smooth = DenoiserForward(lambda x, sigma: torch.tanh(0.3 * (x - 10)))
    sigma = {SCAN: torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)}
    found = IntegratedGradients(tolerance=1e-4, change=1e-3)(smooth, scan, sigma, region)
    assert found.residual <= 1e-4
    assert found.convergence <= 1e-3
    assert found.evaluations <= 65
    start = Blurred()(smooth, scan, sigma)[0][SCAN]
    exact = IntegratedGradients(Given({SCAN: start}), steps=64)(smooth, scan, sigma, region)
    assert float((found.maps[SCAN] - exact.maps[SCAN]).norm() / exact.maps[SCAN].norm()) <= 1e-3


def test_a_path_that_does_not_converge_is_returned_as_it_is_with_a_warning(scan, region, caplog):
    steep = DenoiserForward(lambda x, sigma: torch.tanh(50 * (x - 10)))
    sigma = {SCAN: torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)}
    with caplog.at_level(logging.WARNING):
        found = IntegratedGradients(change=1e-6, most=16)(steep, scan, sigma, region)
    assert "did not converge in intervals of 1/16" in caplog.text
    assert found.convergence > 1e-6
    assert found.evaluations == 17


def test_one_kink_between_two_points_is_found_exactly(scan, sigma, region):
    """Every voxel bends at 0.3 of its own path, inside one interval of the first division."""
    start = torch.full_like(scan[SCAN], 5.0)
    kink = start + 0.3 * (scan[SCAN] - start)
    bent = DenoiserForward(lambda x, s: x + 2 * torch.relu((x - kink) * (scan[SCAN] - start).sign()))
    found = IntegratedGradients(Given({SCAN: start}))(bent, scan, sigma, region)
    across = scan[SCAN] - start
    exact = region.mask * (across + 2 * 0.7 * across.abs()) / region.mask.sum()
    assert found.evaluations == 9
    assert float((found.maps[SCAN] - exact).norm() / exact.norm()) <= 1e-12


def test_integrated_gradients_start_at_the_measurement_of_their_baseline(scan, sigma, region):
    forward = DenoiserForward(PeronaMalikStep())
    level = {SCAN: sigma[SCAN].reshape(-1)[:1].reshape(1, 1, 1, 1, 1)}
    start = torch.full_like(scan[SCAN], 9.0)
    found = IntegratedGradients(Given({SCAN: start}))(forward, scan, level, region)
    assert math.isclose(found.baseline_value, 9.0, rel_tol=1e-12)


def test_a_noise_resampled_baseline_draws_the_same_noise_at_every_call(scan, sigma):
    forward, generator = DenoiserForward(network()), torch.Generator().manual_seed(5)
    state = generator.get_state()
    baseline = NoiseResampled(generator)
    first, second = baseline(forward, scan, sigma)[0][SCAN], baseline(forward, scan, sigma)[0][SCAN]
    assert torch.equal(first, second)
    assert torch.equal(state, generator.get_state())
    spread = (first - forward(scan, sigma)).std()
    assert 0.95 < float(spread) / 0.7 < 1.05  # 1584 voxels: standard error 1.8 %


def test_a_noise_resampled_baseline_of_several_inputs_is_refused(scan, sigma):
    two, levels = {SCAN: scan[SCAN], "b": scan[SCAN]}, {SCAN: sigma[SCAN], "b": sigma[SCAN]}
    with pytest.raises(MethodNotValid, match="use the blurred baseline"):
        NoiseResampled(torch.Generator())(DenoiserForward(network()), two, levels)


def test_blurring_keeps_a_constant_and_widens_an_impulse_by_its_width():
    identity = DenoiserForward(lambda x, sigma: x)
    flat = {SCAN: torch.full((1, 2, 5, 4, 3), 7.0, dtype=torch.float64)}
    assert torch.allclose(Blurred(1.5)(identity, flat, {})[0][SCAN], flat[SCAN], rtol=1e-14)
    impulse = torch.zeros(1, 1, 21, 21, 21, dtype=torch.float64)
    impulse[0, 0, 10, 10, 10] = 1
    blurred = Blurred(2.0)(identity, {SCAN: impulse}, {})[0][SCAN]
    profile, offset = blurred.sum((0, 1, 3, 4)), torch.arange(-10, 11, dtype=torch.float64)
    assert 0.96 < float((profile * offset**2).sum()) / 4 < 1.0  # cut off at three widths: 2.7 % of the variance


def test_a_model_whose_last_layer_is_zero_is_refused(scan, sigma, region):
    zero = DenoiserForward(lambda x, sigma: x * 0)
    for method in (Saliency(), InputXGradient(), IntegratedGradients(), EquivalentFilter()):
        with pytest.raises(MethodNotValid, match="exactly zero everywhere"):
            method(zero, scan, sigma, region)


def test_a_forward_that_detaches_is_refused(scan, sigma, region):
    with pytest.raises(MethodNotValid, match="no gradient with respect to any input"):
        Saliency()(DenoiserForward(lambda x, sigma: x.detach().round()), scan, sigma, region)


def test_a_model_that_returns_nan_is_an_error_and_not_a_map(scan, sigma, region):
    with pytest.raises(NonFinite, match="NaN or infinite in: value"):
        Saliency()(DenoiserForward(lambda x, sigma: x * torch.nan), scan, sigma, region)


def test_a_noise_level_under_another_name_is_refused(scan, sigma, region):
    with pytest.raises(InputError, match="expected the same names"):
        Saliency()(DenoiserForward(network()), scan, {"other": sigma[SCAN]}, region)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"most": 0}, {"tolerance": 0.0}, {"change": math.nan}])
def test_settings_that_never_end_are_refused(settings):
    with pytest.raises(ConfigError, match="expected positive numbers"):
        IntegratedGradients(**settings)


def test_a_contrast_of_zero_gives_finite_numbers(sigma):
    flat, inside = {SCAN: torch.full((1, 1, *SHAPE), 5.0, dtype=torch.float64)}, torch.zeros(SHAPE, dtype=torch.bool)
    inside[5:7, 4:6, 4:6] = True
    ring = torch.zeros_like(inside)
    ring[9:11, 4:6, 4:6] = True
    found = InputXGradient()(DenoiserForward(lambda x, s: x), flat, sigma, RegionContrast(inside, ring, "flat"))
    assert found.value == 0
    assert math.isfinite(found.residual)


def test_the_residual_is_relative_to_the_change_and_finite_where_there_is_none():
    assert completeness_residual(10.0, 8.0, 1.9, torch.float64) == pytest.approx(0.05)
    assert completeness_residual(8.0, 8.0, 0.0, torch.float32) == 0
    assert math.isfinite(completeness_residual(0.0, 0.0, 1e-3, torch.float32))


def test_an_attribution_with_nan_in_a_map_cannot_be_made():
    bad = torch.full((1, 1, 2, 2, 2), torch.nan)
    with pytest.raises(NonFinite, match="map of scan"):
        Attribution({SCAN: bad}, "gradient", {SCAN: 0.0}, 1.0, 0.0, 0.0, None, 1, "m", "t", "e")


def test_filter_statistics_of_two_equal_taps_are_those_of_two_points():
    weights = torch.zeros(1, 1, 9, 3, 3, dtype=torch.float64)
    weights[0, 0, 2, 1, 1] = weights[0, 0, 6, 1, 1] = 0.5
    found = filter_statistics(weights, (0.5, 1.0, 3.0))
    assert found["gain"] == 1
    assert found["negative_share"] == 0
    assert found["noise_gain"] == pytest.approx(0.5**0.5)
    assert found["width_i_mm"] == pytest.approx(2.3548200450309493)  # standard deviation 1 mm: taps 2 mm apart
    assert found["width_j_mm"] == found["width_k_mm"] == 0
    assert found["half_weight_radius_mm"] == pytest.approx(1.0)


def test_filter_statistics_of_a_sharpening_filter_show_its_negative_share():
    weights = torch.tensor([-0.25, 1.5, -0.25], dtype=torch.float64).reshape(1, 1, 3, 1, 1)
    found = filter_statistics(weights, (1.0, 1.0, 1.0))
    assert (found["gain"], found["negative_share"]) == (1.0, 0.25)


def test_weighted_sums_are_explained_like_regions(scan, sigma):
    weights = torch.zeros(SHAPE, dtype=torch.float64)
    weights[4:6, 4:6, 4:6] = torch.arange(8, dtype=torch.float64).reshape(2, 2, 2)
    found = Saliency()(DenoiserForward(lambda x, s: 2 * x), scan, sigma, WeightedSum(weights, "w"))
    assert torch.equal(found.maps[SCAN][0, 0], 2 * weights)


def test_an_energy_is_divided_by_its_degree_so_that_its_parts_sum_to_it(scan, sigma, region):
    forward, energy = DenoiserForward(network()), RegionEnergy(region.mask, "energy")
    parts = InputXGradient()(forward, scan, sigma, energy)
    assert parts.residual < 1e-9
    assert math.isclose(parts.total() + parts.noise_share[SCAN], parts.value, rel_tol=1e-9)
    assert Saliency()(forward, scan, sigma, energy).residual < 1e-9


def test_a_measurement_without_scale_has_no_parts_along_the_ray_and_is_refused(scan, sigma, region):
    forward = DenoiserForward(network())
    edge = edge_sharpness(region.mask.numpy(), (1.0, 1.0, 1.0), "edge", gap_mm=0.5, width_mm=1.5)
    with pytest.raises(MethodNotValid, match="baseline blurred"):
        InputXGradient()(forward, scan, sigma, edge)
    bright = {SCAN: scan[SCAN] + 20 * region.mask}
    slope = Saliency()(forward, bright, sigma, edge)
    assert slope.residual < 1e-9  # its products sum to zero, as they must
    plain = DenoiserForward(lambda x, s: x)  # whose contrast, unlike a random network's, is nowhere zero on the path
    assert IntegratedGradients(Blurred(1.0))(plain, bright, sigma, edge).residual <= 0.01
