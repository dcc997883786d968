"""Analytic oracles: Jacobian, bias-free accounts, MMSE and SURE, probability flow, posterior samples."""

from itertools import pairwise

import pytest
import torch

from medinterp.denoisers.base import evaluate, scalar_sigma
from medinterp.sampling.samplers import Heun, PosteriorMean, ReverseSDE
from medinterp.sampling.schedules import PowerSchedule
from medinterp.testing import linearity
from medinterp.testing.calibration import calibrate
from medinterp.testing.networks import add_biases, random_network
from medinterp.testing.oracles import (
    NOISE,
    RecordingDenoiser,
    central_difference_error,
    estimate_divergence,
    estimate_risk,
    flow_error,
    flow_gradient_error,
    jacobian_error,
    linear_gaussian,
    mmse_figures,
)

WORLD = linear_gaussian(16)
FLOW = PowerSchedule(2.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scan(count=1, seed=0):
    source = generator(seed)
    clean = WORLD.draw(count, source)
    return clean + NOISE * torch.randn(clean.shape, generator=source, dtype=clean.dtype)


def white(like, seed=9):
    return torch.randn(like.shape, generator=generator(seed), dtype=like.dtype)


class WrongLevel:
    """The exact denoiser, told another noise level than the scan's."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x, sigma, *, cond=None):
        return WORLD(x, self.factor * sigma)


# Oracle 1: Jacobian


def test_jvp_is_the_analytic_jacobian():
    y = scan(2)
    assert jacobian_error(WORLD, WORLD, y, white(y)) < 1e-10  # float64 rounding of two transforms
    y = y.float()
    assert jacobian_error(WORLD, WORLD, y, white(y)) < 1e-5  # float32 rounding, summed over 4096 voxels


def test_control_another_denoiser_fails_the_jacobian():
    y = scan()
    assert jacobian_error(WrongLevel(1.1), WORLD, y, white(y)) > 0.05  # W falls about as sigma^-2: some 20 %


def test_central_differences_work_only_with_a_large_step():
    y = scan(2).float()
    assert central_difference_error(WORLD, WORLD, y, white(y), step=0.03 * NOISE) < 1e-3
    assert central_difference_error(WORLD, WORLD, y, white(y), step=1e-5 * NOISE) > 0.08  # float32 cancellation


# Oracle 2: the bias-free network's accounts


def tiny_example():
    network = random_network().double()
    x = 1 + torch.rand(2, 1, 16, 16, 16, generator=generator(), dtype=torch.float64)
    return network, x, scalar_sigma(0.3, x)


def sigma_map(x):
    return 0.1 + 0.4 * torch.rand((*x.shape[:1], 1, *x.shape[2:]), generator=generator(3), dtype=x.dtype)


def test_bias_free_network_is_its_jacobian_applied_to_scan_and_noise_level():
    network, x, sigma = tiny_example()
    for level in (sigma, sigma_map(x)):
        account = linearity.euler_account(network, x, level)
        assert account.residual < 1e-12  # float64 rounding
        assert account.sigma_share > 0  # else the noise level would not enter at all


def test_bias_free_network_is_homogeneous():
    network, x, sigma = tiny_example()
    for level in (sigma, sigma_map(x)):
        assert linearity.homogeneity_error(network, x, level) < 1e-12


def test_integrated_gradients_from_zero_are_gradient_times_input():
    network, x, sigma = tiny_example()
    assert linearity.ray_integral_error(network, x, sigma, white(x)) < 1e-12


def test_control_a_biased_network_fails_every_account():
    network, x, sigma = tiny_example()
    biased = add_biases(network)
    assert linearity.euler_account(biased, x, sigma).residual > 0.01
    assert linearity.homogeneity_error(biased, x, sigma) > 0.01
    assert linearity.ray_integral_error(biased, x, sigma, white(x)) > 0.01


def test_jacobian_asymmetry_tells_a_posterior_mean_from_a_random_network():
    y = scan()
    assert linearity.jacobian_asymmetry(WORLD, y, scalar_sigma(NOISE, y), generator=generator()) < 1e-12
    network, x, sigma = tiny_example()
    assert linearity.jacobian_asymmetry(network, x, sigma, generator=generator()) > 0.01


# Oracle 3: MMSE and SURE


def test_exact_denoiser_reaches_the_mmse_and_sure_is_unbiased():
    figures = mmse_figures(WORLD, WORLD, draws=64, generator=generator())
    assert abs(figures.mse - figures.mmse) < 3 * figures.standard_error
    assert abs(figures.sure_bias) < 3 * figures.sure_standard_error


def test_control_a_denoiser_told_another_noise_level_misses_the_mmse():
    for factor in (0.5, 2.0):
        figures = mmse_figures(WrongLevel(factor), WORLD, draws=64, generator=generator())
        assert figures.mse - figures.mmse > 3 * figures.standard_error


def test_control_sure_of_another_noise_level_is_biased():
    source = generator()
    clean = WORLD.draw(64, source)
    y = clean + NOISE * torch.randn(clean.shape, generator=source, dtype=clean.dtype)
    sigma = scalar_sigma(1.1 * NOISE, y)
    error = (WORLD(y, sigma) - clean).square().flatten(1).mean(dim=1)
    difference = estimate_risk(WORLD, y, sigma, probes=1, generator=source) - error
    assert abs(difference.mean()) > 3 * difference.std() / 8


def test_hutchinson_spread_is_the_predicted_one():
    y = scan()
    gain = WORLD.gain(scalar_sigma(NOISE, y))
    predicted = (2 * (gain.square().sum() - gain.numel() * gain.mean().square())).sqrt() / gain.sum()
    traces = estimate_divergence(WORLD, y, scalar_sigma(NOISE, y), probes=200, generator=generator())
    assert traces.std() / gain.sum() <= 1.2 * predicted
    assert abs(traces.mean() / gain.sum() - 1) < 3 * predicted / 200**0.5
    assert traces.std() / gain.sum() > 1.2 * predicted / 2  # control: one probe is not as good as four


# Oracle 7: the probability-flow ODE


def test_heun_error_falls_fourfold_and_eulers_twofold_when_steps_double():
    y = scan()
    for correct, order in ((True, 4), (False, 2)):
        errors = [
            flow_error(Heun(correct=correct), WORLD, WORLD, y, FLOW(n, start=1.0), generator=generator())
            for n in (20, 40, 80)
        ]
        for before, after in pairwise(errors):
            assert before / after == pytest.approx(order, rel=0.1)  # the next order's share at 20 steps
    assert errors[-1] < 0.02


def test_heun_reaches_the_analytic_end():
    assert flow_error(Heun(), WORLD, WORLD, scan(), FLOW(80, start=1.0), generator=generator()) < 5e-4


def test_control_a_mislabelled_noise_level_never_converges():
    y = scan()
    coarse, fine = (
        flow_error(Heun(), WrongLevel(1.1), WORLD, y, FLOW(n, start=1.0), generator=generator()) for n in (40, 80)
    )
    assert fine > 0.02
    assert coarse / fine < 2


def region(y):
    weights = torch.zeros_like(y)
    weights[..., 4:9, 5:9, 6:9] = 1 / 60
    return weights


def test_gradient_through_heun_is_the_analytic_one():
    y = scan()
    fractions = FLOW(40, start=1.0)
    assert flow_gradient_error(Heun(), WORLD, WORLD, y, fractions, region(y), generator=generator()) < 1e-3
    euler = flow_gradient_error(Heun(correct=False), WORLD, WORLD, y, fractions, region(y), generator=generator())
    assert euler > 1e-3  # control


def ledger(evaluations, fractions, weights):
    """Return what every step of Heun's method added to a weighted sum, from the denoiser's recorded answers."""
    slopes = [(call.x - call.estimate) * NOISE / call.sigma for call in evaluations]  # (x - D) / t
    pairs = [*zip(slopes[0:-1:2], slopes[1:-1:2], strict=True), (slopes[-1], slopes[-1])]
    return [
        float((weights * (t_next - t) * (first + second) / 2).sum())
        for t, t_next, (first, second) in zip(fractions[:-1], fractions[1:], pairs, strict=True)
    ]


def test_contributions_along_the_trajectory_sum_to_the_change_of_the_target():
    y, fractions = scan(), FLOW(10, start=1.0)
    recording = RecordingDenoiser(WORLD)
    end = Heun()(recording, y, scalar_sigma(NOISE, y), fractions, generator=generator())
    change = float((region(y) * (end - y)).sum())
    contributions = ledger(recording.evaluations, fractions, region(y))
    assert sum(contributions) == pytest.approx(change, rel=1e-6)
    assert sum(contributions[1:]) != pytest.approx(change, rel=1e-2)  # control: a step left out is missed


def test_posterior_mean_is_one_evaluation():
    y = scan()
    sigma, recording = scalar_sigma(NOISE, y), RecordingDenoiser(WORLD)
    image = PosteriorMean()(recording, y, sigma, FLOW(5, start=1.0), generator=generator())
    assert torch.equal(image, evaluate(WORLD, y, sigma))
    assert len(recording.evaluations) == 1


# Oracle 8: calibration of posterior samples. Tolerances: the oracle's own; four groups of 64 samples with about 100
# effective degrees of freedom put a standard error of 3.5 % on the mean error, 1 % on the variance.


def test_five_steps_of_the_reverse_sde_are_calibrated():
    result = calibrate(ReverseSDE(), WORLD, WORLD, FLOW(5, start=1.0), generator=generator(3))
    assert 0.9 <= result.mean_error <= 1.1
    assert 0.95 <= result.variance_ratio <= 1.05
    assert 0.9 <= result.coarse_ratio <= 1.1
    assert 0.95 <= result.fine_ratio <= 1.05
    assert result.single_ratio == pytest.approx(2, abs=0.1)
    assert result.mean_ratio == pytest.approx(1 + 1 / result.draws, abs=0.05)  # 8 scans: 3.5 % standard error


def test_control_ten_ancestral_steps_understate_the_variance():
    ancestral = ReverseSDE(jacobian_products=0)
    result = calibrate(ancestral, WORLD, WORLD, FLOW(10, start=1.0), generator=generator(3), scans=1)
    assert result.variance_ratio < 0.7
    assert result.mean_error < 0.9
    assert result.single_ratio < 1.8


class WhiteSpread:
    """A sampler with the right total variance, spread white over the frequencies."""

    stochastic = True

    def evaluations(self, steps):
        return 1

    def __call__(self, denoiser, y, sigma, fractions, *, generator, cond=None, on_step=None):
        noise = torch.randn((1, *y.shape[1:]), generator=generator, dtype=y.dtype)
        return denoiser(y, sigma) + WORLD.mmse(NOISE) ** 0.5 * noise


def test_control_white_noise_of_the_right_variance_fails_at_coarse_scale():
    result = calibrate(WhiteSpread(), WORLD, WORLD, FLOW(1, start=1.0), generator=generator(), scans=1)
    assert result.variance_ratio == pytest.approx(1, abs=0.05)
    assert result.coarse_ratio < 0.1
