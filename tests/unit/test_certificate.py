"""The certificate says what held, what did not, and can be stored as JSON."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from medinterp.assessment.certificate import Tolerances, certify, homogeneity_residual
from medinterp.assessment.randomisation import (
    INSENSITIVE,
    SENSITIVE,
    UNDECIDED,
    check_randomisation,
    compare_maps,
    randomised,
)
from medinterp.attribution import Attribution, InputXGradient, RegionMean
from medinterp.denoisers.network import BiasFreeUNet
from medinterp.errors import InputError, NonFinite
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, ReluNetwork, smooth_noise

SHAPE = (1, 14, 14, 14)


def attribution(**changes):
    plain = Attribution(
        maps={SCAN: torch.ones(1, 1, 2, 2, 2)},
        kind="contribution",
        noise_share={SCAN: 2.0},
        value=10.0,
        baseline_value=0.0,
        residual=1e-7,
        convergence=None,
        evaluations=1,
        method="m",
        target="t",
        explained="e",
    )
    return replace(plain, **changes)


def noise(seed, width=0.7):
    return smooth_noise(SHAPE, width, torch.Generator().manual_seed(seed))


def network(dtype=torch.float32):
    with torch.random.fork_rng():  # the layers' own initialisation draws from the global generator
        torch.manual_seed(0)
        return BiasFreeUNet((4, 4, 4), (1, 1, 1)).to(dtype).requires_grad_(False)


def test_a_complete_map_passes_and_states_its_noise_share_of_the_change():
    found = certify(attribution(), homogeneity=1e-7)
    assert found.passed
    assert found.noise_share == {SCAN: 0.2}
    assert found.converged is None
    assert found.notes == ("dependence on the model's weights was not checked",)


@pytest.mark.parametrize(
    ("changes", "homogeneity", "words"),
    [
        ({"residual": 0.2}, None, "20 % of the measurement is not accounted for"),
        ({"convergence": 0.2}, None, "changed by 20 % at the last doubling"),
        ({}, 1e-3, "not homogeneous"),
    ],
)
def test_each_failed_check_fails_the_certificate_and_is_said_in_words(changes, homogeneity, words):
    found = certify(attribution(**changes), homogeneity=homogeneity)
    assert not found.passed
    assert words in found.notes[0]


def test_tolerances_draw_the_line():
    assert certify(attribution(residual=0.2), tolerances=Tolerances(completeness=0.3)).passed


def test_a_map_like_that_of_a_random_network_fails():
    same = noise(0)
    found = certify(attribution(), randomisation=compare_maps(same, same, torch.zeros_like(same)))
    assert found.randomisation.verdict == INSENSITIVE
    assert not found.passed
    assert "insensitive to the model: correlation 1.00" in found.notes[0]


def test_a_map_unlike_that_of_a_random_network_passes_without_a_note():
    found = certify(attribution(), randomisation=compare_maps(noise(0), noise(1), torch.zeros(SHAPE)))
    assert found.randomisation.verdict == SENSITIVE
    assert (found.passed, found.notes) == (True, ())


def test_certificates_can_be_stored_as_json():
    whole = certify(attribution(), randomisation=compare_maps(noise(0), noise(1), noise(2)), homogeneity=0.0)
    assert json.loads(json.dumps(asdict(whole), allow_nan=False))["randomisation"]["verdict"] == SENSITIVE


def test_what_the_untouched_input_would_show_is_taken_out_of_both_maps():
    shared = 10 * noise(2)
    found = compare_maps(shared + noise(0), shared + noise(1), shared)
    assert found.plain_correlation > 0.9
    assert 0.9 < found.input_share < 1
    assert found.verdict == SENSITIVE


def test_a_map_that_only_shows_the_untouched_input_is_insensitive():
    assert compare_maps(noise(2), noise(1), noise(2)).verdict == INSENSITIVE


def test_a_few_bright_voxels_cannot_decide():
    a, b = torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64)
    a[0, 5, 5, 5], b[0, 5, 5, 5] = 1.0, 1.0
    a[0, 9, 9, 9], b[0, 9, 9, 9] = 1.0, -1.0
    assert compare_maps(a, b, torch.zeros_like(a)).verdict == UNDECIDED


def test_maps_of_zeros_give_finite_numbers():
    nothing = torch.zeros(SHAPE, dtype=torch.float64)
    found = compare_maps(nothing, nothing, nothing)
    assert found.verdict == INSENSITIVE
    json.dumps(asdict(found), allow_nan=False)


def test_maps_of_different_shapes_are_refused():
    with pytest.raises(InputError, match="expected one"):
        compare_maps(noise(0), noise(1)[:, 1:], noise(2))


def test_randomising_copies_the_network_and_keeps_the_size_of_its_weights():
    original = nn.Sequential(nn.Conv3d(4, 8, 3), nn.GroupNorm(2, 8))
    before = {name: value.clone() for name, value in original.state_dict().items()}
    random = randomised(original, torch.Generator().manual_seed(0))
    again = randomised(original, torch.Generator().manual_seed(0))
    for name, value in original.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(random.state_dict()[name], again.state_dict()[name])
    was, now = original[0].weight.detach(), random[0].weight.detach()
    assert not torch.isclose(was, now).all()
    assert 0.9 < float(now.square().mean() / was.square().mean()) < 1.1  # 864 weights: standard error 5 %
    assert torch.equal(random[1].weight, torch.ones(8))  # the scale of a normalising layer has no spread to redraw


def test_checking_leaves_the_network_as_it_was():
    original = network()
    before = original.stem.weight.clone()
    mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    mask[7:9, 7:9, 7:9] = True
    scan = {SCAN: 3 + torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))}
    sigma = {SCAN: torch.full((1, 1, 1, 1, 1), 0.2)}

    def explain(denoiser):
        return InputXGradient()(DenoiserForward(denoiser), scan, sigma, RegionMean(mask, "block"))

    check_randomisation(explain(original), explain, original, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, original.stem.weight)


@pytest.mark.parametrize("sigma_shape", [(1, 1, 1, 1, 1), (1, 1, 17, 16, 19)])
def test_the_bias_free_network_is_homogeneous_in_float32(sigma_shape):
    x = 3 + torch.randn(1, 1, 17, 16, 19, generator=torch.Generator().manual_seed(0))
    assert homogeneity_residual(network(), x, torch.full(sigma_shape, 0.3)) < 1e-5


def test_a_network_with_biases_must_be_found_not_homogeneous():
    x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    biased = ReluNetwork(torch.Generator().manual_seed(0), bias=True)
    assert homogeneity_residual(biased, x, torch.full((1, 1, 1, 1, 1), 0.3, dtype=torch.float64)) > 0.01


def test_a_denoiser_that_returns_nothing_cannot_be_judged():
    x = torch.ones(1, 1, 4, 4, 4)
    with pytest.raises(NonFinite, match="choose another crop"):
        homogeneity_residual(lambda x, sigma, cond=None: x * 0, x, torch.ones(1, 1, 1, 1, 1))
