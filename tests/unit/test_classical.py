"""Classical denoisers keep the protocol, are homogeneous, remove noise, and have the filters they claim."""

import builtins
import sys

import pytest
import torch

from medinterp.denoisers import classical
from medinterp.denoisers.base import scalar_sigma
from medinterp.denoisers.classical import (
    Curvature,
    HeatEquation,
    NonLocalMeans,
    PeronaMalik,
    PeronaMalikStep,
    TotalVariation,
    Wavelet,
)
from medinterp.errors import InputError, MethodNotValid, PluginError
from medinterp.testing import conformance

NEEDS = {"TotalVariation": "skimage", "Wavelet": "pywt", "NonLocalMeans": "dipy"}
FOREIGN = [PeronaMalik(), Curvature(), TotalVariation(), Wavelet(), NonLocalMeans()]
OURS = [HeatEquation(0.7), PeronaMalikStep()]


def name_of(denoiser):
    return type(denoiser).__name__


def available(denoiser):
    if name_of(denoiser) in NEEDS:
        pytest.importorskip(NEEDS[name_of(denoiser)])
    return denoiser


def steps_in_noise(sigma=0.2, size=16, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    clean = torch.zeros(2, 1, size, size, size, dtype=dtype)
    clean[0, :, size // 2 :], clean[1, :, :, : size // 2] = 1.0, 2.0
    return clean, clean + sigma * torch.randn(clean.shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("denoiser", FOREIGN + OURS, ids=name_of)
@pytest.mark.parametrize("factor", [1e-3, 250.0])
def test_filters_are_homogeneous_in_image_and_noise_level(denoiser, factor):
    _, y = steps_in_noise()
    sigma = scalar_sigma(0.2, y)
    # iterative filters stop by relative criteria that rounding can tip: 1e-6 of the image's range, not 1e-15
    torch.testing.assert_close(
        available(denoiser)(factor * y, factor * sigma), factor * denoiser(y, sigma), rtol=0, atol=2e-6 * factor
    )


@pytest.mark.parametrize("denoiser", [*FOREIGN, PeronaMalikStep()], ids=name_of)
def test_filters_halve_the_error_of_a_step_in_noise(denoiser):
    clean, y = steps_in_noise()
    if isinstance(denoiser, PeronaMalikStep):  # one step averages over seven voxels at most
        denoiser = PeronaMalikStep(edge=4.0, step=1 / 7)
    error = (available(denoiser)(y, scalar_sigma(0.2, y)) - clean).square().mean().sqrt()
    # the step is 5 or 10 sigma high: a filter that keeps it and averages the flats at least halves the error (0.2)
    assert float(error) < 0.12


@pytest.mark.parametrize("denoiser", FOREIGN, ids=name_of)
@pytest.mark.parametrize(
    "check",
    [c for c in conformance.DENOISER_CHECKS if c.__name__ not in ("lets_gradients_flow", "derivatives_agree")],
    ids=lambda check: check.__name__,
)
def test_filters_of_other_libraries_keep_the_protocol_except_for_gradients(denoiser, check):
    check(available(denoiser), steps_in_noise(dtype=torch.float32)[1])


@pytest.mark.parametrize("check", conformance.DENOISER_CHECKS, ids=lambda check: check.__name__)
def test_perona_malik_step_keeps_the_whole_protocol(check):
    check(PeronaMalikStep(), steps_in_noise()[1])


@pytest.mark.parametrize("denoiser", FOREIGN, ids=name_of)
def test_filters_of_other_libraries_refuse_gradients_and_noise_maps(denoiser):
    _, y = steps_in_noise(size=8)
    with pytest.raises(MethodNotValid, match="no gradient"):
        denoiser(y.clone().requires_grad_(), scalar_sigma(0.2, y))
    with pytest.raises(InputError, match="one noise level"):
        denoiser(y, 0.2 + 0.1 * y.abs())


@pytest.mark.parametrize("denoiser", [*FOREIGN, PeronaMalikStep()], ids=name_of)
def test_without_noise_nothing_is_changed(denoiser):
    _, y = steps_in_noise(size=8)
    assert torch.equal(denoiser(y, scalar_sigma(0.0, y)), y)


@pytest.mark.parametrize("denoiser", [PeronaMalik(), Curvature()], ids=name_of)
def test_diffusion_leaves_a_constant_image_alone(denoiser):
    flat = torch.full((1, 1, 6, 6, 6), 3.0)
    torch.testing.assert_close(denoiser(flat, scalar_sigma(0.2, flat)), flat)


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    _, y = steps_in_noise(size=8)
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("dipy"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "dipy.denoise.nlmeans", None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(PluginError, match=r"needs dipy.*pip install 'medinterp\[bench\]'"):
        NonLocalMeans()(y, scalar_sigma(0.2, y))


def test_heat_equation_answers_an_impulse_with_its_kernel():
    heat, impulse = HeatEquation(0.8), torch.zeros(1, 1, 15, 15, 15, dtype=torch.float64)
    impulse[..., 7, 7, 7] = 1.0
    kernel = heat.kernel()
    reach = len(kernel) // 2
    wanted = torch.einsum("i,j,k->ijk", kernel, kernel, kernel)
    got = heat(impulse, scalar_sigma(1.0, impulse))[0, 0]
    box = slice(7 - reach, 8 + reach)
    torch.testing.assert_close(got[box, box, box], wanted, rtol=0, atol=1e-15)
    assert float(got.sum()) == pytest.approx(1.0, abs=1e-12)


def test_heat_equation_equals_the_heat_kernel_of_its_time():
    heat = HeatEquation(1.5)
    place = torch.arange(-6, 7, dtype=torch.float64)
    analytic = torch.exp(-place.square() / (2 * 1.5**2)) / (2 * torch.pi * 1.5**2) ** 0.5
    torch.testing.assert_close(heat.kernel(), analytic, rtol=1e-3, atol=0)  # cut at 4 widths: 6e-5 is missing


def test_perona_malik_step_equals_the_scheme_written_out():
    _, y = steps_in_noise(size=5)
    sigma, step = 0.2, PeronaMalikStep(edge=1.5, step=0.1)
    image, wanted = y[0, 0], y[0, 0].clone()
    for index in torch.cartesian_prod(*(torch.arange(5),) * 3).tolist():
        for axis in range(3):
            for way in (-1, 1):
                beside = list(index)
                beside[axis] += way
                if 0 <= beside[axis] < 5:
                    d = image[tuple(beside)] - image[tuple(index)]
                    wanted[tuple(index)] += 0.1 * torch.exp(-((d / (1.5 * sigma)) ** 2)) * d
    torch.testing.assert_close(step(y, scalar_sigma(sigma, y))[0, 0], wanted, rtol=0, atol=1e-14)


def test_perona_malik_step_keeps_the_mean_and_takes_a_noise_map():
    _, y = steps_in_noise(size=8)
    level = 0.1 + 0.05 * torch.rand(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
    out = PeronaMalikStep()(y, level)
    assert float((out - y).mean().abs()) < 1e-15
    assert not torch.equal(out, PeronaMalikStep()(y, scalar_sigma(0.1, y)))


def test_non_local_means_leaves_the_number_of_threads_alone():
    _, y = steps_in_noise(size=8)
    before = torch.get_num_threads()
    available(NonLocalMeans())(y, scalar_sigma(0.2, y))
    assert torch.get_num_threads() == before  # dipy sets it for the whole process, one for every core


def test_settings_are_values_that_can_be_compared():
    assert classical.PeronaMalik(edge=2.0) == PeronaMalik(edge=2.0)
    assert hash(TotalVariation()) == hash(TotalVariation(1.0))
