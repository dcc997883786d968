"""The error estimated without truth is the true one, and what was removed is told from noise."""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch.nn import functional

from medinterp.assessment.truth_free import assess, estimate_risk
from medinterp.bundle import load_pipeline
from medinterp.catalogue import find_bundle
from medinterp.denoisers.base import scalar_sigma
from medinterp.denoisers.classical import HeatEquation
from medinterp.denoisers.stein import expected_scan, expected_scatter, probe
from medinterp.errors import InputError, MethodNotValid, TooFewVoxels
from medinterp.noise.estimate import NoiseEstimate
from medinterp.noise.models import add_gaussian, add_rician
from medinterp.testing.oracles import NOISE, linear_gaussian
from medinterp.testing.phantoms import head
from medinterp.volume import Grid

SHARE = 0.07
SIGMA = 30.0


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise_of(sigma, model="rician", *, exact=True):
    slack = 0.0 if exact else 0.07
    return NoiseEstimate(sigma, (1 - slack) * sigma, (1 + slack) * sigma, model, "given")


@lru_cache(maxsize=1)
def clean():
    grid = Grid((48, 48, 40), np.array([[2, 0, 0, -48], [0, 2, 0, -58], [0, 0, 2, -20], [0, 0, 0, 1.0]]))
    return torch.from_numpy(head("T1", grid))[None, None]


@lru_cache(maxsize=1)
def magnitudes():
    return add_rician(clean(), scalar_sigma(SIGMA, clean()), generator=seeded())


@lru_cache(maxsize=1)
def shipped():
    return load_pipeline(find_bundle("mri_denoise")).denoiser


def quality(denoiser, y, *, told=SIGMA, model="rician", **options):
    with torch.no_grad():
        return assess(denoiser, y, scalar_sigma(told, y), noise_of(told, model), generator=seeded(), **options)


def figure(found, name):
    return next(f for f in found.figures if f.name == name)


def perfect(x, sigma, *, cond=None):
    return clean()


def test_estimated_error_and_its_standard_error_hold_on_the_linear_gaussian_oracle():
    world, differences = linear_gaussian(16), []
    generator = seeded()
    for _ in range(60):
        x0 = world.draw(1, generator)
        y = add_gaussian(x0, scalar_sigma(NOISE, x0), generator=generator)
        answer = probe(world, y, scalar_sigma(NOISE, y), torch.ones_like(y), rician=False, generator=generator)
        risk = estimate_risk(answer)
        differences.append((risk.mse - float((answer.estimate - x0).square().mean())) / risk.standard_error)
    # standard normal: the mean of 60 lies within 0.39 and their deviation within 0.25 of 1, at three sigma
    assert abs(np.mean(differences)) < 0.39
    assert abs(np.std(differences) - 1) < 0.27


def test_only_voxels_in_the_mask_count():
    world, generator = linear_gaussian(16), seeded()
    x0 = world.draw(1, generator)
    y = add_gaussian(x0, scalar_sigma(NOISE, x0), generator=generator)
    y[..., :8, :, :] += 100.0  # outside the mask, and far from what the oracle expects
    mask = torch.zeros_like(y)
    mask[..., 12:, :, :] = 1
    answer = probe(world, y, scalar_sigma(NOISE, y), mask, rician=False, generator=generator)
    risk = estimate_risk(answer)
    error = float((answer.estimate - x0)[mask > 0].square().mean())
    assert risk.voxels == 4 * 256
    assert abs(risk.mse - error) < 3 * risk.standard_error


def test_control_a_sigma_wrong_by_half_puts_the_estimated_error_off():
    world, generator = linear_gaussian(16), seeded()
    x0 = world.draw(1, generator)
    y = add_gaussian(x0, scalar_sigma(NOISE, x0), generator=generator)
    for factor in (1.5, 1 / 1.5):
        answer = probe(world, y, scalar_sigma(factor * NOISE, y), torch.ones_like(y), rician=False, generator=generator)
        risk = estimate_risk(answer)
        assert abs(risk.mse - float((answer.estimate - x0).square().mean())) > 10 * risk.standard_error


def test_the_interval_of_sigma_widens_that_of_the_error():
    answer = probe(shipped(), magnitudes(), scalar_sigma(SIGMA, clean()), (clean() > 60).float(), rician=True,
                   generator=seeded())  # fmt: skip
    sharp, wide = estimate_risk(answer), estimate_risk(answer, (0.9, 1.1))
    assert wide.low < sharp.low < sharp.mse < sharp.high < wide.high
    assert wide.psnr_low < wide.psnr < wide.psnr_high
    assert wide.mse == sharp.mse


def test_magnitudes_have_the_mean_slope_and_variance_that_sampling_shows():
    signal = torch.tensor([0.0, 1.0, 2.0, 5.0, 50.0], dtype=torch.float64).reshape(1, 1, 5, 1, 1)
    sigma, step = scalar_sigma(1.0, signal), 1e-5
    many = signal.expand(200_000, 1, 5, 1, 1)
    drawn = add_rician(many, sigma, generator=seeded())
    scatter = expected_scatter(signal, sigma, rician=True)
    # a mean of 200 000 is good to 0.0022 sigma, their variance to 0.3 %: four times that
    torch.testing.assert_close(drawn.mean(0), expected_scan(signal, sigma, rician=True)[0], rtol=0, atol=0.009)
    torch.testing.assert_close(drawn.var(0), scatter.variance[0], rtol=0.013, atol=0)
    ahead, behind = (expected_scan(signal + s, sigma, rician=True) for s in (step, 0.0))
    torch.testing.assert_close((ahead - behind) / step, scatter.slope, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma", [15.0, SIGMA, 60.0])
def test_estimated_psnr_of_the_shipped_model_is_the_true_one_on_magnitudes(sigma):
    y = add_rician(clean(), scalar_sigma(sigma, clean()), generator=seeded(3))
    found = quality(shipped(), y, told=sigma, peak=float(clean().max()))
    with torch.no_grad():
        estimate = shipped()(y, scalar_sigma(sigma, y))
    counted = (estimate > 2 * sigma) & (estimate > 0.1 * estimate.max())
    true = 20 * math.log10(float(clean().max())) - 10 * math.log10(float((estimate - clean())[counted].square().mean()))
    # chance moves it by 0.1 to 0.3 dB here (30 000 voxels); magnitudes taken as Gaussian add 0.2 dB in the dark
    assert found.risk.psnr == pytest.approx(true, abs=0.5)
    assert found.risk.gain == pytest.approx(found.risk.psnr - 10 * math.log10(found.risk.peak**2 / found.risk.noise))
    assert found.risk.voxels == int(counted.sum())


def test_the_shipped_model_with_the_right_sigma_passes():
    found = quality(shipped(), magnitudes())
    assert found.passed, found.figures
    assert found.notes == ()


@pytest.mark.parametrize("factor", [1.5, 1 / 1.5])
def test_control_a_sigma_wrong_by_half_is_told_by_what_was_removed(factor):
    found = quality(shipped(), magnitudes(), told=factor * SIGMA)
    assert not figure(found, "level").passed
    verdict = "over-estimated" if factor > 1 else "under-estimated"
    assert verdict in found.notes[0]


@pytest.mark.parametrize("model", ["gaussian", "rician"])
def test_removing_nothing_but_white_noise_passes(model):
    y = magnitudes() if model == "rician" else add_gaussian(clean(), scalar_sigma(SIGMA, clean()), generator=seeded())
    found = quality(perfect, y, model=model, mask=(clean() > 60).float())
    assert found.passed, found.figures
    assert [f.expected for f in found.figures] == pytest.approx([1, 0, 0, 0, 1, 0], abs=0.02)
    assert found.risk.low == 0.0  # there is no error, and no more than chance is read


def test_control_blurred_anatomy_fails_by_its_neighbours_and_by_its_detail():
    found = quality(HeatEquation(1.5), magnitudes())
    for name in ("lag I", "lag J", "lag K", "flatness", "structure"):
        assert not figure(found, name).passed, name
    assert any("anatomy was removed" in note for note in found.notes)


def test_control_correlated_noise_is_noticed():
    white = torch.randn(clean().shape, generator=seeded())
    between = (white + functional.pad(white, [0, 0, 0, 0, 1, 0])[..., :-1, :, :]) / 2**0.5  # half a voxel along I
    found = quality(perfect, clean() + SIGMA * between, model="gaussian", mask=(clean() > 60).float())
    assert figure(found, "lag I").value == pytest.approx(0.5, abs=0.03)
    assert not figure(found, "lag I").passed
    assert figure(found, "lag J").passed
    assert "correlated" in found.notes[0]


def test_a_large_scan_is_judged_in_its_middle_away_from_the_cut():
    seen = []

    def watched(x, sigma, *, cond=None):
        seen.append(tuple(x.shape[2:]))
        return HeatEquation(1.0)(x, sigma)

    found = quality(watched, magnitudes(), max_voxels=32 * 32 * 40)
    assert seen == [(32, 32, 40)] * 2
    assert found.risk.voxels <= 16 * 16 * 40


def test_a_noise_map_of_one_value_is_read_as_the_scalar():
    y = magnitudes()
    with torch.no_grad():
        found = assess(HeatEquation(1.0), y, torch.full_like(y, SIGMA), noise_of(SIGMA), generator=seeded())
    assert found.risk.mse == pytest.approx(quality(HeatEquation(1.0), y).risk.mse, rel=1e-5)


def test_the_same_generator_gives_the_same_figures():
    assert quality(HeatEquation(1.0), magnitudes()) == quality(HeatEquation(1.0), magnitudes())


def test_what_cannot_be_judged_is_refused():
    y = magnitudes()
    with pytest.raises(InputError, match="no noise"):
        quality(perfect, y, told=0.0)
    with pytest.raises(TooFewVoxels, match="at least 1000"):
        quality(HeatEquation(1.0), y[..., :8, :8, :8])
    with pytest.raises(MethodNotValid, match="returns its input"):
        quality(lambda x, sigma: x, y, model="gaussian")
    with pytest.raises(InputError, match="0 or less"):
        probe(perfect, y, 0 * y, torch.ones_like(y), rician=False, generator=seeded())
