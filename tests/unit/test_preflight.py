"""The preflight refuses what is degenerate, with the reason and the method to use, and so do the methods themselves."""

import pytest
import torch
from torch import nn

from medinterp.attribution import (
    METHODS,
    ClassLogit,
    Deconvolution,
    DeepLift,
    GradCam,
    GuidedBackprop,
    GuidedGradCam,
    LayerwiseRelevance,
    RegionMean,
    WeightedSum,
    preflight,
)
from medinterp.errors import MethodNotValid
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, GaussianFilter
from medinterp.testing.monai_networks import network_cases
from medinterp.testing.networks import add_biases, random_network
from medinterp.testing.preflight_check import VerdictCheck

SHAPE = (16, 16, 16)
SCANS = {SCAN: 3 + torch.randn((1, 1, *SHAPE), generator=torch.Generator().manual_seed(1))}
SIGMAS = {SCAN: torch.full((1, 1, 1, 1, 1), 0.5)}


def verdicts(denoiser, target=None):
    return preflight(DenoiserForward(denoiser), SCANS, SIGMAS, target).verdicts


def network(*layers):
    made = nn.Sequential(*layers).eval().requires_grad_(False)
    return lambda x, sigma: made(x)


def test_every_method_is_judged():
    assert set(verdicts(random_network())) == set(METHODS)
    assert len(METHODS) == 14


def test_on_our_network_every_method_is_valid_and_nothing_is_hidden():
    found = preflight(DenoiserForward(random_network()), SCANS, SIGMAS)
    assert {v.status for v in found.verdicts.values()} == {"valid"}
    assert found.behaviour.homogeneous
    assert "'relu' 3 times" in found.findings()[0]


def test_with_biases_gradient_methods_say_that_they_are_incomplete():
    found = verdicts(add_biases(random_network()))
    assert "not complete" in found["input_x_gradient"].reason
    assert found["equivalent_filter"].status == "equal"
    assert "biases keep a share" in found["lrp"].reason


def test_an_untrained_last_layer_is_refused_by_gradients_and_from_outside():
    last = nn.Conv3d(4, 1, 1)
    nn.init.zeros_(last.weight)
    found = verdicts(network(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), last))
    assert {v.status for v in found.values()} == {"refused"}
    assert "zero" in found["saliency"].reason
    assert "stays the same" in found["occlusion"].reason


def test_without_a_gradient_only_methods_from_outside_are_left():
    found = verdicts(lambda x, sigma: torch.round(x))
    assert found["saliency"].status == "refused"  # a step's gradient is zero
    detached = verdicts(lambda x, sigma: 2 * x.detach())
    assert {m for m, v in detached.items() if v.status == "valid"} == {"occlusion", "kernel_shap"}
    assert detached["integrated_gradients"].instead == "occlusion"


def test_a_forward_that_draws_new_noise_each_time_is_refused():
    generator = torch.Generator().manual_seed(0)
    found = verdicts(lambda x, sigma: x + sigma * torch.randn(x.shape, generator=generator))
    assert {v.status for v in found.values()} == {"refused"}
    assert "fix its seed" in found["occlusion"].reason


def test_on_a_linear_filter_averaging_changes_nothing():
    found = verdicts(GaussianFilter(1.2))
    assert (found["smoothgrad"].status, found["smoothgrad"].instead) == ("equal", "saliency")
    assert found["guided_backprop"].status == "equal"
    assert found["equivalent_filter"].status == "valid"


MIXED = (nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 4, 3, padding=1), nn.SiLU(), nn.Conv3d(4, 1, 1))
GROUPED = (nn.Conv3d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv3d(4, 1, 1))
SMOOTH = (nn.Conv3d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv3d(4, 1, 1))


@pytest.mark.parametrize(
    ("layers", "method", "status", "words"),
    [
        (MIXED, GuidedBackprop(), "refused", "half a rule"),
        (MIXED, Deconvolution(), "refused", "1 silu"),
        (MIXED, DeepLift(), "refused", "silu"),
        (SMOOTH, GuidedBackprop(), "equal", "1 silu"),
        (SMOOTH, GuidedGradCam(), "refused", "guided half"),
        (GROUPED, DeepLift(), "refused", "1 native_group_norm"),
        (GROUPED, LayerwiseRelevance(), "refused", "1 native_group_norm"),
    ],
)
def test_a_method_refuses_what_the_preflight_refuses(layers, method, status, words):
    denoiser = network(*layers)
    verdict = verdicts(denoiser)[method.name]
    assert verdict.status == status
    assert words in verdict.reason
    with pytest.raises(MethodNotValid, match=f"{method.name}.*use {verdict.instead}"):
        method(DenoiserForward(denoiser), SCANS, SIGMAS, WeightedSum(torch.ones(SHAPE), "sum"))


def test_an_operation_that_nobody_knows_is_not_taken_for_harmless():
    found = verdicts(lambda x, sigma: torch.relu(torch.i0(x)))
    for method in ("guided_backprop", "deep_lift", "lrp"):
        assert found[method].status == "refused"
        assert "1 i0" in found[method].reason


def test_without_modules_there_is_nothing_for_grad_cam():
    assert verdicts(lambda x, sigma: torch.relu(x))["grad_cam"].status == "refused"
    mask = torch.ones(SHAPE, dtype=torch.bool)
    with pytest.raises(MethodNotValid, match="use saliency"):
        GradCam()(DenoiserForward(lambda x, sigma: torch.relu(x)), SCANS, SIGMAS, RegionMean(mask, "all"))


def test_a_network_in_the_target_counts():
    torch_relu = network(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv3d(2, 1, 1))
    head = nn.Sequential(nn.Conv3d(1, 2, 3), nn.PReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()).eval()
    target = ClassLogit(head, 0, SHAPE, "logit")
    assert verdicts(torch_relu)["guided_backprop"].status == "valid"
    assert verdicts(torch_relu, target)["guided_backprop"].status == "refused"
    with pytest.raises(MethodNotValid, match="prelu"):
        GuidedBackprop()(DenoiserForward(torch_relu), SCANS, SIGMAS, target)


def test_the_check_of_verdicts_catches_a_wrong_one():
    """The control: a verdict that calls a no-op valid, an equal map different, or a valid method refused."""
    from medinterp.attribution import Verdict

    (case,) = network_cases("UNet")
    check = VerdictCheck(case)
    assert check.contradiction(Verdict("guided_backprop", "valid")) is not None
    assert check.contradiction(Verdict("saliency", "refused")) == "refused, but it gives a map"
    assert check.contradiction(Verdict("input_x_gradient", "equal", "", "saliency")) is not None
    assert check.captum_alone("guided_backprop") == "silently saliency"
