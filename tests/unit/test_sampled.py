"""SmoothGrad and GradientSHAP: Captum's averages over the same draws, from a generator of the caller's."""

import numpy as np
import pytest
import torch
from captum import attr

from medinterp.attribution import Given, GradientShap, RegionMean, Saliency, SmoothGrad
from medinterp.attribution.sampled import RunningMean, spread_points
from medinterp.errors import ConfigError
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward
from medinterp.testing.networks import random_network

SHAPE = (16, 16, 16)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


SCANS = {SCAN: 3 + normal(1, 1, *SHAPE)}
SIGMAS = {SCAN: torch.full((1, 1, 1, 1, 1), 0.7, dtype=torch.float64)}


def block():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[6:9, 5:9, 7:9] = True
    return RegionMean(mask, "block")


@pytest.fixture
def forward():
    return DenoiserForward(random_network().double())


def relative(a, b):
    return float((a - b).norm() / b.norm())


def one_tensor(forward):
    return lambda image: block()(forward({SCAN: image}, SIGMAS))


def test_smoothgrad_equals_captums_noise_tunnel_on_the_same_noise(forward, monkeypatch):
    generator = seeded(4)
    draws = torch.cat([torch.randn((1, 1, *SHAPE), generator=generator, dtype=torch.float64) for _ in range(4)])
    monkeypatch.setattr(torch, "normal", lambda mean, std: draws * std)
    tunnel = attr.NoiseTunnel(attr.Saliency(one_tensor(forward)))
    theirs = tunnel.attribute(SCANS[SCAN].clone(), nt_type="smoothgrad", nt_samples=4, stdevs=0.7, abs=False)
    monkeypatch.undo()
    ours = SmoothGrad(draws=4, generator=seeded(4))(forward, SCANS, SIGMAS, block())
    assert relative(ours.maps[SCAN], theirs) <= 1e-10


def test_gradient_shap_equals_captums_on_the_same_draws(forward, monkeypatch):
    start, count = normal(1, 1, *SHAPE, seed=8), 4
    generator = seeded(2)
    points = spread_points(count, generator)
    starts = [start + 0.7 * torch.randn(start.shape, generator=generator, dtype=start.dtype) for _ in range(count)]
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.array(points))
    shap = attr.GradientShap(one_tensor(forward))
    monkeypatch.setattr(torch, "normal", lambda mean, std: torch.zeros_like(std))
    monkeypatch.setattr(np.random, "choice", lambda options, size: np.arange(size))
    theirs = shap.attribute(SCANS[SCAN].clone(), torch.cat(starts), n_samples=count, stdevs=0.0)
    monkeypatch.undo()
    ours = GradientShap(Given({SCAN: start}), draws=count, generator=seeded(2))(forward, SCANS, SIGMAS, block())
    assert relative(ours.maps[SCAN], theirs.detach()) <= 1e-6  # Captum holds the points in float32


def test_without_noise_smoothgrad_is_saliency(forward):
    found = SmoothGrad(draws=3, scale=0.0)(forward, SCANS, SIGMAS, block())
    assert relative(found.maps[SCAN], Saliency()(forward, SCANS, SIGMAS, block()).maps[SCAN]) <= 1e-12
    assert found.statistics["standard_error"] <= 1e-7


def test_the_standard_error_says_how_far_the_mean_still_is(forward):
    """Of a tenth of the draws, the stated error is that of the map against the mean of many."""
    many = SmoothGrad(draws=150, generator=seeded(9))(forward, SCANS, SIGMAS, block()).maps[SCAN]
    few = SmoothGrad(draws=20, generator=seeded(1))(forward, SCANS, SIGMAS, block())
    assert 0.7 < few.statistics["standard_error"] / relative(few.maps[SCAN], many) < 1.4  # 20 draws: 16 %


def test_gradient_shap_is_complete_on_average(forward):
    few, many = (
        GradientShap(Given({SCAN: normal(1, 1, *SHAPE, seed=8)}), draws=n)(forward, SCANS, SIGMAS, block())
        for n in (4, 96)
    )
    assert many.residual <= 0.05
    assert many.statistics["standard_error"] < few.statistics["standard_error"] / 4
    assert many.noise_share[SCAN] == 0  # the level is held


def test_the_noise_is_the_scans_own_level_voxel_by_voxel(forward):
    level = torch.zeros(1, 1, *SHAPE, dtype=torch.float64)
    level[..., 8:] = 0.5
    seen = []
    spy = DenoiserForward(lambda x, sigma: seen.append(x.detach()) or forward.denoiser(x, sigma))
    SmoothGrad(draws=30)(spy, SCANS, {SCAN: level}, block())
    spread = torch.stack(seen[1:]).std(dim=0)
    assert not spread[..., :8].any()
    assert float(spread[..., 8:].square().mean().sqrt()) == pytest.approx(0.5, rel=0.02)


def test_the_callers_generator_is_left_as_it_was(forward):
    generator = seeded(3)
    before = generator.get_state()
    first = SmoothGrad(draws=2, generator=generator)(forward, SCANS, SIGMAS, block())
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(
        first.maps[SCAN], SmoothGrad(draws=2, generator=generator)(forward, SCANS, SIGMAS, block()).maps[SCAN]
    )
    other = SmoothGrad(draws=2, generator=seeded(4))(forward, SCANS, SIGMAS, block())
    assert relative(first.maps[SCAN], other.maps[SCAN]) > 0.01


def test_points_lie_one_in_each_part_of_the_path():
    points = sorted(spread_points(8, seeded(1)))
    assert [int(8 * point) for point in points] == list(range(8))


def test_the_running_mean_is_the_mean():
    maps = [(normal(3, seed=n),) for n in range(6)]
    mean = RunningMean(6)
    for one in maps:
        mean.add(one)
    stack = torch.stack([one[0] for one in maps])
    assert torch.allclose(mean.value()[0], stack.mean(dim=0))
    expected = (stack.var(dim=0) / 6).sum().sqrt() / stack.mean(dim=0).norm()
    assert mean.standard_error() == pytest.approx(float(expected), rel=1e-9)
    half = stack[:3].mean(dim=0)
    assert mean.change_since_half() == pytest.approx(relative(half, stack.mean(dim=0)), rel=1e-9)


@pytest.mark.parametrize("settings", [{"draws": 0}, {"scale": -1.0}])
def test_impossible_settings_are_refused(settings):
    for method in (SmoothGrad, GradientShap):
        with pytest.raises(ConfigError):
            method(**settings)
