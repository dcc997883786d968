"""Attribution against known answers, each with a control that must fail."""

from itertools import pairwise

import pytest
import torch
from captum import attr
from hypothesis import given, settings
from hypothesis import strategies as st

from medinterp.assessment.randomisation import INSENSITIVE, SENSITIVE, check_randomisation, compare_maps
from medinterp.attribution import (
    EquivalentFilter,
    Given,
    InputXGradient,
    IntegratedGradients,
    Ray,
    RegionMean,
    Saliency,
    WeightedSum,
)
from medinterp.denoisers.network import BiasFreeUNet
from medinterp.testing.attribution_oracles import (
    SCAN,
    DenoiserForward,
    EdgeDetector,
    GaussianFilter,
    PeronaMalikStep,
    Quadratic,
    ReluNetwork,
    smooth_noise,
    use_only,
)

SHAPE = (12, 11, 10)
SIGMA = {SCAN: torch.full((1, 1, 1, 1, 1), 0.7, dtype=torch.float64)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def one_voxel(voxel, shape=SHAPE):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[voxel] = True
    return RegionMean(mask, "voxel")


def sum_of_all(shape=SHAPE):
    return WeightedSum(torch.ones(shape, dtype=torch.float64), "sum")


def relative(a, b):
    return float((a - b).norm() / b.norm())


# Oracle 2: linear along rays


@pytest.mark.parametrize("seed", range(3))
def test_a_bias_free_relu_network_is_its_gradient_times_its_input(seed):
    forward = DenoiserForward(ReluNetwork(seeded(seed)))
    inputs, target = {SCAN: normal(1, 1, *SHAPE, seed=seed)}, one_voxel((5, 5, 5))
    product = InputXGradient()(forward, inputs, SIGMA, target)
    ray = IntegratedGradients(Ray(), steps=1)(forward, inputs, SIGMA, target)
    assert product.residual <= 1e-12
    assert relative(ray.maps[SCAN], product.maps[SCAN]) <= 1e-12
    tripled = {SCAN: 3 * inputs[SCAN]}, {SCAN: 3 * SIGMA[SCAN]}
    assert InputXGradient()(forward, *tripled, target).value == pytest.approx(3 * product.value, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_network_with_biases_must_show_a_residual(seed):
    forward = DenoiserForward(ReluNetwork(seeded(seed), bias=True))
    found = InputXGradient()(forward, {SCAN: normal(1, 1, *SHAPE, seed=seed)}, SIGMA, one_voxel((5, 5, 5)))
    assert found.residual > 0.01


# Oracle 9: integrated gradients


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_integrated_gradients_of_a_quadratic_are_exact_with_one_midpoint(seed):
    shape = (3, 2, 4)
    matrix = normal(24, 24, seed=seed)
    quadratic = Quadratic((matrix + matrix.T) / 2)
    x, baseline = normal(1, 1, *shape, seed=seed + 1), normal(1, 1, *shape, seed=seed + 2)
    method = IntegratedGradients(Given({SCAN: baseline}), steps=1)
    found = method(quadratic, {SCAN: x}, SIGMA, sum_of_all(shape))
    assert relative(found.maps[SCAN], quadratic.integrated_gradients(x, baseline)) <= 1e-12


def test_integrated_gradients_from_the_wrong_baseline_must_differ():
    shape, matrix = (3, 2, 4), normal(24, 24)
    quadratic = Quadratic((matrix + matrix.T) / 2)
    x, baseline = normal(1, 1, *shape, seed=1), normal(1, 1, *shape, seed=2)
    found = IntegratedGradients(Given({SCAN: -baseline}), steps=1)(quadratic, {SCAN: x}, SIGMA, sum_of_all(shape))
    assert relative(found.maps[SCAN], quadratic.integrated_gradients(x, baseline)) > 0.1


def steep_case():
    """A model that saturates, and a path through its saturation."""
    forward = DenoiserForward(lambda x, sigma: torch.tanh(8 * x))
    x = normal(1, 1, 4, 4, 4, seed=7).abs() + 0.5
    return forward, x, torch.zeros_like(x), sum_of_all((4, 4, 4))


def test_gauss_legendre_is_complete_where_the_trapezoid_rule_must_fail():
    forward, x, baseline, target = steep_case()
    ours = IntegratedGradients(Given({SCAN: baseline}), steps=32)(forward, {SCAN: x}, SIGMA, target)
    trapezoid, delta = attr.IntegratedGradients(lambda image: target(forward({SCAN: image}, SIGMA))).attribute(
        x, baseline, n_steps=32, method="riemann_trapezoid", return_convergence_delta=True
    )
    assert ours.residual <= 0.01
    assert float(delta.abs()) / abs(ours.value) > 5 * ours.residual
    assert relative(trapezoid, torch.tanh(8 * x)) > 5 * relative(ours.maps[SCAN], torch.tanh(8 * x))


def test_completeness_of_the_midpoint_rule_falls_with_the_square_of_its_points():
    forward = DenoiserForward(lambda x, sigma: torch.tanh(x))
    _, x, baseline, target = steep_case()
    captum = attr.IntegratedGradients(lambda image: target(forward({SCAN: image}, SIGMA)))
    errors = [
        float(captum.attribute(x, baseline, n_steps=n, method="riemann_middle", return_convergence_delta=True)[1].abs())
        for n in (8, 16, 32)
    ]
    for coarse, fine in pairwise(errors):
        assert 3.5 < coarse / fine < 4.5  # second order; the next term is m^-4
    ours = IntegratedGradients(Given({SCAN: baseline}), steps=32)(forward, {SCAN: x}, SIGMA, target)
    assert ours.residual <= 1e-6  # Captum holds the weights of the points in float32


def test_a_map_that_is_complete_by_accident_is_still_refined():
    """Two voxels err by the same amount with opposite signs, so that completeness alone sees nothing."""
    signs = torch.ones(1, 1, 3, 1, 1, dtype=torch.float64)
    signs[0, 0, 1] = -1

    def denoiser(x, sigma):
        bent = torch.tanh(30 * (x - 0.6))
        return torch.cat([bent[:, :, :2] * signs[:, :, :2], x[:, :, 2:]], dim=2)

    x = torch.ones(1, 1, 3, 1, 1, dtype=torch.float64)
    case = DenoiserForward(denoiser), {SCAN: x}, SIGMA, sum_of_all((3, 1, 1))
    start = Given({SCAN: torch.zeros_like(x)})
    true_map = torch.tensor([2.0, -2.0, 1.0], dtype=torch.float64)
    accident = IntegratedGradients(start, steps=8)(*case)
    assert accident.residual <= 1e-6
    assert relative(accident.maps[SCAN].flatten(), true_map) > 0.05
    refined = IntegratedGradients(start)(*case)
    assert refined.evaluations > 9  # the first division
    assert relative(refined.maps[SCAN].flatten(), true_map) <= 0.01


# Oracle 10: credit goes to the modality that was used


@pytest.mark.parametrize(
    "method", [Saliency(), InputXGradient(), IntegratedGradients(), EquivalentFilter()], ids=lambda m: m.name
)
def test_the_modality_that_was_not_used_gets_exactly_nothing(method):
    inputs = {"a": normal(1, 1, *SHAPE, seed=1), "b": normal(1, 1, *SHAPE, seed=2) + 3}
    sigmas = {"a": SIGMA[SCAN], "b": SIGMA[SCAN]}
    lesion = torch.zeros(SHAPE, dtype=torch.float64)
    lesion[4:7, 5:8, 3:6] = 1
    found = method(use_only("b"), inputs, sigmas, WeightedSum(lesion, "lesion"))
    assert not found.maps["a"].any()
    assert not found.maps["b"][0, 0][lesion == 0].any()
    assert found.maps["b"].any()
    leaked = method(lambda i, s: i["b"] + 1e-3 * i["a"], inputs, sigmas, WeightedSum(lesion, "lesion"))
    assert leaked.maps["a"].any()  # the control: a leak of a thousandth must be seen


# Oracle 15: a map must change when the model does


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():  # the layers' own initialisation draws from the global generator
        torch.manual_seed(0)
        return BiasFreeUNet((4, 4, 4), (1, 1, 1)).double().requires_grad_(False)


def explanation(method):
    shape = (24, 24, 24)
    inputs = {SCAN: 5 + smooth_noise((1, 1, *shape), 1.5, seeded(4))}
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[10:14, 10:14, 10:14] = True
    return lambda denoiser: method(DenoiserForward(denoiser), inputs, SIGMA, RegionMean(mask, "block"))


@pytest.mark.parametrize("method", [Saliency(), InputXGradient()], ids=lambda m: m.name)
def test_a_gradient_map_is_found_sensitive_to_the_model(network, method):
    explain = explanation(method)
    found = check_randomisation(explain(network), explain, network, generator=seeded(1))
    assert abs(found.correlation) <= found.threshold < 1
    assert found.verdict == SENSITIVE


def test_an_edge_detector_must_be_found_insensitive_to_the_model(network):
    explain = explanation(EdgeDetector())
    found = check_randomisation(explain(network), explain, network, generator=seeded(1))
    assert found.verdict == INSENSITIVE


@pytest.mark.parametrize("width", [0.0, 1.0, 1.5])
def test_independent_voxels_of_smoothed_maps_follow_the_closed_form(width):
    shape, runs = (1, 20, 20, 20), 40
    nothing = torch.zeros(shape, dtype=torch.float64)
    found = [
        compare_maps(smooth_noise(shape, width, seeded(2 * n)), smooth_noise(shape, width, seeded(2 * n + 1)), nothing)
        for n in range(runs)
    ]
    expected = 8000 / max((2 * torch.pi * width**2) ** 1.5, 1.0)
    mean = sum(f.independent_voxels for f in found) / runs
    assert 0.85 < mean / expected < 1.15  # sampled kernel at width 1: a few per cent; spread of 40 runs: 3 %
    spread = (sum(f.correlation**2 for f in found) / runs) ** 0.5
    assert 0.7 < spread * expected**0.5 < 1.35  # a standard deviation from 40 draws: 11 %
    assert all(f.verdict == SENSITIVE for f in found)  # 0.3 % a draw


def test_a_threshold_blind_to_smoothness_must_raise_false_alarms():
    shape = (1, 20, 20, 20)
    nothing = torch.zeros(shape, dtype=torch.float64)
    found = [
        compare_maps(smooth_noise(shape, 2.0, seeded(2 * n)), smooth_noise(shape, 2.0, seeded(2 * n + 1)), nothing)
        for n in range(40)
    ]
    alarms = sum(abs(f.correlation) > 3 / 8000**0.5 for f in found)
    assert alarms > 20


# Oracle 20: classical filters


@pytest.mark.parametrize("voxel", [(6, 5, 5), (0, 10, 3)], ids=["middle", "corner"])
def test_the_equivalent_filter_of_a_gaussian_filter_is_its_kernel(voxel):
    blur = GaussianFilter(1.3)
    found = EquivalentFilter()(DenoiserForward(blur), {SCAN: normal(1, 1, *SHAPE)}, SIGMA, one_voxel(voxel))
    expected = blur.row(SHAPE, voxel)
    assert relative(found.maps[SCAN][0, 0], expected) <= 1e-12
    assert found.statistics[f"gain:{SCAN}"] == pytest.approx(float(expected.sum()), rel=1e-12)
    assert found.noise_share[SCAN] == 0
    assert relative(found.maps[SCAN][0, 0], GaussianFilter(1.5).row(SHAPE, voxel)) > 0.1  # control: another width


def test_the_widths_of_a_gaussian_filter_come_out_in_millimetres():
    blur, spacing = GaussianFilter(1.2, reach=6), (1.0, 0.5, 2.0)
    shape = (17, 17, 17)
    forward, target = DenoiserForward(blur), one_voxel((8, 8, 8), shape)
    found = EquivalentFilter(spacing)(forward, {SCAN: normal(1, 1, *shape)}, SIGMA, target).statistics
    for axis, step in zip("ijk", spacing, strict=True):
        assert found[f"width_{axis}_mm:{SCAN}"] == pytest.approx(2.3548 * 1.2 * step, rel=1e-3)  # cut at 5 sigma
    assert found[f"negative_share:{SCAN}"] == 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), voxel=st.tuples(*(st.integers(0, n - 1) for n in SHAPE)))
def test_the_equivalent_filter_of_a_perona_malik_step_is_its_jacobian_row(seed, voxel):
    step, x = PeronaMalikStep(), normal(1, 1, *SHAPE, seed=seed)
    found = EquivalentFilter()(DenoiserForward(step), {SCAN: x}, SIGMA, one_voxel(voxel))
    expected, noise_weight = step.row(x[0, 0], 0.7, voxel)
    assert relative(found.maps[SCAN][0, 0], expected) <= 1e-12
    assert found.noise_share[SCAN] == pytest.approx(0.7 * noise_weight, rel=1e-9, abs=1e-12)
    assert found.residual <= 1e-9  # scan and noise level together scale the step's result


def test_a_row_with_frozen_conductivities_must_differ_from_the_equivalent_filter():
    step, x, voxel = PeronaMalikStep(), normal(1, 1, *SHAPE), (6, 5, 5)
    found = EquivalentFilter()(DenoiserForward(step), {SCAN: x}, SIGMA, one_voxel(voxel))
    frozen, _ = step.row(x[0, 0], 0.7, voxel, frozen=True)
    assert relative(found.maps[SCAN][0, 0], frozen) > 0.01
