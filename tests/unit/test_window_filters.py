"""ODCT3D and PRI-NLM3D keep the protocol, equal their schemes written out, and rank as published."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import fft

from medinterp.denoisers import odct, pri_nlm
from medinterp.denoisers.base import jacobian_product, level_product, scalar_sigma
from medinterp.denoisers.classical import PeronaMalik
from medinterp.denoisers.odct import ODCT3D
from medinterp.denoisers.pri_nlm import PRINLM3D
from medinterp.errors import ConfigError
from medinterp.noise.models import add_rician
from medinterp.testing import conformance
from medinterp.testing.phantoms import head
from medinterp.volume import Grid

FILTERS = {"odct": ODCT3D(), "pri_nlm": PRINLM3D(search=2), "pri_nlm_rician": PRINLM3D(search=1, rician=True)}


def noisy(size=8, dtype=torch.float64, batch=1):
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(3, 6, size, dtype=dtype)[:, None, None].expand(batch, 1, size, size, size)
    return ramp + 0.3 * torch.randn(ramp.shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("check", conformance.DENOISER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_the_whole_protocol(name, check, dtype):
    check(FILTERS[name], noisy(dtype=dtype, batch=2))


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_homogeneous_and_their_value_is_the_sum_of_its_derivatives(name):
    y = noisy()
    sigma = scalar_sigma(0.3, y)
    torch.testing.assert_close(FILTERS[name](250 * y, 250 * sigma), 250 * FILTERS[name](y, sigma), rtol=1e-12, atol=0)
    value, along_image = jacobian_product(FILTERS[name], y, sigma, y)
    rest = value - along_image - level_product(FILTERS[name], y, sigma)
    assert float(rest.norm() / value.norm()) < 1e-12  # Euler's identity, to rounding


@pytest.mark.parametrize("name", FILTERS)
def test_gradients_equal_central_differences(name):
    y = noisy(6)
    level = (0.3 + 0.05 * torch.sin(torch.arange(216, dtype=y.dtype))).reshape(y.shape)
    direction = torch.cos(1.7 * torch.arange(216, dtype=y.dtype)).reshape(y.shape)
    start, sigma = y.clone().requires_grad_(), level.clone().requires_grad_()
    weights = torch.sin(0.9 * torch.arange(216, dtype=y.dtype)).reshape(y.shape)
    gradients = torch.autograd.grad((weights * FILTERS[name](start, sigma)).sum(), (start, sigma))
    step = 1e-6
    for gradient, (dy, ds) in zip(gradients, ((direction, 0 * direction), (0 * direction, direction)), strict=True):
        ahead, behind = (FILTERS[name](y + s * dy, level + s * ds) for s in (step, -step))
        difference = float((weights * (ahead - behind)).sum()) / (2 * step)
        # rounding 1e-16/1e-6 of values near 1, and no kink within the step: six digits
        assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", FILTERS)
def test_tiles_change_nothing(name, monkeypatch):
    y = noisy(11)[..., :9, :]
    level = 0.3 + 0.02 * y
    whole = FILTERS[name](y, level), FILTERS[name](y, scalar_sigma(0.3, y))
    monkeypatch.setattr(odct, "TILE", 4)
    monkeypatch.setattr(pri_nlm, "TILE", 4)
    for sigma, wanted in zip((level, scalar_sigma(0.3, y)), whole, strict=True):
        torch.testing.assert_close(FILTERS[name](y, sigma), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", FILTERS)
def test_a_voxel_depends_on_no_other_beyond_the_radius(name):
    y = noisy(20)
    changed = y.clone()
    changed[..., 0, :, :] += 1.0
    sigma = scalar_sigma(0.3, y)
    far = FILTERS[name].radius + 1
    torch.testing.assert_close(
        FILTERS[name](changed, sigma)[..., far:, :, :], FILTERS[name](y, sigma)[..., far:, :, :], rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("name", ["odct", "pri_nlm"])
def test_without_noise_and_on_constant_images_nothing_is_changed(name):
    y, flat = noisy(6), torch.full((1, 1, 2, 5, 7), 3.0, dtype=torch.float64)  # thinner than a window, too
    torch.testing.assert_close(FILTERS[name](y, scalar_sigma(0.0, y)), y, rtol=1e-12, atol=0)
    torch.testing.assert_close(FILTERS[name](flat, scalar_sigma(0.3, flat)), flat, rtol=1e-12, atol=0)


def test_odct_equals_its_scheme_written_out():
    y, filtering = noisy(6)[0, 0].numpy(), ODCT3D(threshold=2.0, ramp=0.3)
    total, weights = np.zeros_like(y), np.zeros_like(y)
    for corner in product(range(3), repeat=3):
        box = tuple(slice(a, a + 4) for a in corner)
        components = fft.dctn(y[box], norm="ortho")
        size = np.abs(components) / 0.3
        gate = np.clip((size - 2.0 * 0.7) / (2.0 * 0.6) * (2.0 * 1.3) / size, 0, 1)  # linear from 0 to the component
        gate[0, 0, 0] = 1
        total[box] += fft.idctn(gate * components, norm="ortho") / gate.sum()
        weights[box] += 1 / gate.sum()
    got = filtering(torch.from_numpy(y)[None, None], torch.full((1, 1, 1, 1, 1), 0.3, dtype=torch.float64))
    np.testing.assert_allclose(got[0, 0].numpy(), total / weights, rtol=1e-12)


@pytest.mark.parametrize("rician", [False, True])
def test_pri_nlm_equals_its_scheme_written_out(rician):
    y, sigma = noisy(5), 0.3
    level = scalar_sigma(sigma, y)
    guide = np.pad(ODCT3D()(y, level)[0, 0].numpy(), 1, mode="edge")
    around = np.array(
        [[[guide[i : i + 3, j : j + 3, k : k + 3].mean() for k in range(5)] for j in range(5)] for i in range(5)]
    )
    value, means, guide = (np.pad(a, 1, mode="edge") for a in (y[0, 0].numpy(), around, guide[1:-1, 1:-1, 1:-1]))
    wanted = np.zeros((5, 5, 5))
    for place in product(range(1, 6), repeat=3):
        box = tuple(slice(a - 1, a + 2) for a in place)
        apart = (guide[place] - guide[box]) ** 2 + 3 * (means[place] - means[box]) ** 2
        weight = np.exp(-apart / (4 * (0.4 * sigma) ** 2))
        mean = (weight * (value[box] ** 2 if rician else value[box])).sum() / weight.sum()
        wanted[tuple(a - 1 for a in place)] = np.sqrt(mean - 2 * sigma**2) if rician else mean
    np.testing.assert_allclose(PRINLM3D(search=1, rician=rician)(y, level)[0, 0].numpy(), wanted, rtol=1e-12)


def test_averaging_squares_takes_the_bias_out_of_magnitudes():
    clean = torch.full((1, 1, 16, 16, 16), 2.0)
    y = add_rician(clean, scalar_sigma(1.0, clean), generator=torch.Generator().manual_seed(0))
    plain, corrected = (PRINLM3D(search=1, rician=r)(y, scalar_sigma(1.0, y)).mean() for r in (False, True))
    assert float(plain) == pytest.approx(2.27, abs=0.03)  # the mean magnitude at two noise levels
    assert float(corrected) == pytest.approx(2.0, abs=0.05)  # the root of a mean that still scatters: a little low


def test_filters_rank_as_published():
    grid = Grid((40, 40, 24), np.array([[2, 0, 0, -40], [0, 2, 0, -40], [0, 0, 2, 10], [0, 0, 0, 1.0]]))
    clean = torch.from_numpy(head("T1", grid))[None, None]
    sigma = scalar_sigma(0.09 * float(clean.max()), clean)
    y = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    tissue = clean > 0.1 * clean.max()

    def error(denoiser):
        return float((denoiser(y, sigma) - clean)[tissue].square().mean().sqrt() / sigma)

    errors = [error(d) for d in (PRINLM3D(), ODCT3D(), PeronaMalik())]
    assert errors == sorted(errors)


@pytest.mark.parametrize("make", [lambda: ODCT3D(threshold=0.0), lambda: ODCT3D(ramp=1.0), lambda: PRINLM3D(search=0)])
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()
