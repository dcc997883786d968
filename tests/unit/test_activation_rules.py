"""Guided backpropagation, deconvolution, DeepLift and LRP: Captum's where Captum is right, right where it is not."""

import warnings

import pytest
import torch
from captum import attr
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medinterp.attribution import (
    ClassLogit,
    Deconvolution,
    DeepLift,
    Given,
    GuidedBackprop,
    InputXGradient,
    LayerwiseRelevance,
    Ray,
    RegionMean,
    Saliency,
)
from medinterp.errors import ConfigError, MethodNotValid
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward
from medinterp.testing.networks import add_biases, random_network

SHAPE = (16, 16, 16)
SIGMAS = {SCAN: torch.full((1, 1, 1, 1, 1), 0.7, dtype=torch.float64)}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SCANS = {SCAN: 3 + normal(1, 1, *SHAPE)}
START = Given({SCAN: normal(1, 1, *SHAPE, seed=5)})


def block():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[6:9, 5:9, 7:9] = True
    return RegionMean(mask, "block")


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def weighted(layer, seed):
    for number, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=100 * seed + number) / 4
    return layer


class Plain(nn.Module):
    """Each activation a module of its own: what Captum's hooks were made for."""

    def __init__(self, act=nn.ReLU):
        super().__init__()
        self.convolutions = nn.ModuleList(
            [weighted(nn.Conv3d(n, m, 3, padding=1).double(), s) for s, (n, m) in enumerate(((1, 3), (3, 3), (3, 1)))]
        )
        self.acts = nn.ModuleList([act(), act()])

    def forward(self, x):
        first, second, last = self.convolutions
        x = self.acts[0](first(x))
        return last(x + self.acts[1](second(x)))


class Shared(Plain):
    """The same function with one module in place and used twice."""

    def forward(self, x):
        first, second, last = self.convolutions
        act = nn.ReLU(inplace=True)
        x = act(first(x))
        return last(x + act(second(x)))


class Functional(Plain):
    """The same function without a module."""

    def forward(self, x):
        first, second, last = self.convolutions
        x = functional.relu(first(x))
        return last(x + second(x).relu())


class Measured(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.target = network, block()

    def forward(self, x):
        return self.target(self.network(x))


def forward_of(network):
    return DenoiserForward(lambda x, sigma: network(x))


CAPTUM = (
    (GuidedBackprop(), lambda module, x: attr.GuidedBackprop(module).attribute(x)),
    (Deconvolution(), lambda module, x: attr.Deconvolution(module).attribute(x)),
    (DeepLift(START), lambda module, x: attr.DeepLift(module).attribute(x, START.images[SCAN])),
)


def by_captum(call, network):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting", category=UserWarning)  # Captum announces its hooks
        return call(Measured(network), SCANS[SCAN].clone().requires_grad_()).detach()


@pytest.mark.parametrize(("ours", "captum"), CAPTUM, ids=lambda value: getattr(value, "name", ""))
def test_where_captum_is_right_ours_is_captum(ours, captum):
    found = ours(forward_of(Plain()), SCANS, SIGMAS, block())
    assert relative(found.maps[SCAN], by_captum(captum, Plain())) <= 1e-12
    assert relative(found.maps[SCAN], Saliency()(forward_of(Plain()), SCANS, SIGMAS, block()).maps[SCAN]) > 0.01


@pytest.mark.parametrize("same", [Shared, Functional])
@pytest.mark.parametrize(("ours", "captum"), CAPTUM, ids=lambda value: getattr(value, "name", ""))
def test_reuse_and_functional_calls_change_nothing(ours, captum, same):
    expected = ours(forward_of(Plain()), SCANS, SIGMAS, block())
    found = ours(forward_of(same()), SCANS, SIGMAS, block())
    assert relative(found.maps[SCAN], expected.maps[SCAN]) <= 1e-12


@pytest.mark.parametrize(("ours", "captum"), CAPTUM, ids=lambda value: getattr(value, "name", ""))
def test_captum_alone_must_miss_functional_calls(ours, captum):
    """The control: without rerouting the rule is never applied."""
    silent = by_captum(captum, Functional())
    plain = Saliency()(forward_of(Functional()), SCANS, SIGMAS, block()).maps[SCAN]
    plain = plain * (SCANS[SCAN] - START.images[SCAN]) if ours.name == "deep_lift" else plain
    assert relative(silent, plain) <= 1e-12


class Forked(Plain):
    """An activation's input that is used elsewhere too, as by the absolute value relu(x) + relu(-x)."""

    def forward(self, x):
        first, _, last = self.convolutions
        x = first(x)
        return last(self.acts[0](x) + 0.5 * x.neg().add(1.0))


def test_what_else_uses_an_activations_input_keeps_its_share():
    """Captum's hook sits on that input, replaces all that comes back to it, and so loses the other path."""
    found = DeepLift(START)(forward_of(Forked()), SCANS, SIGMAS, block())
    assert found.residual <= 1e-12
    alone = float(by_captum(CAPTUM[2][1], Forked()).sum())
    assert abs(alone - (found.value - found.baseline_value)) > 0.01 * abs(found.value - found.baseline_value)


@pytest.mark.parametrize("act", [nn.ELU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Softplus])
def test_deep_lift_is_complete_on_every_activation_it_takes(act):
    found = DeepLift(START)(forward_of(Plain(act)), SCANS, SIGMAS, block())
    assert found.residual <= 1e-9
    alone = by_captum(CAPTUM[2][1], Plain(act))
    assert relative(found.maps[SCAN], alone) <= 1e-12


def test_deep_lift_is_complete_on_our_network_and_its_gradient_is_not():
    forward = DenoiserForward(random_network().double())
    found = DeepLift(START)(forward, SCANS, SIGMAS, block())
    assert found.residual <= 1e-12
    gradient = Saliency()(forward, SCANS, SIGMAS, block()).maps[SCAN]
    change = float((gradient * (SCANS[SCAN] - START.images[SCAN])).sum())
    assert abs(change - (found.value - found.baseline_value)) > 0.01 * abs(found.value - found.baseline_value)


def test_deep_lift_along_the_ray_is_gradient_x_input_on_our_network():
    forward = DenoiserForward(random_network().double())
    found = DeepLift(Ray())(forward, SCANS, SIGMAS, block())
    product = InputXGradient()(forward, SCANS, SIGMAS, block())
    assert relative(found.maps[SCAN], product.maps[SCAN]) <= 1e-12
    assert found.noise_share[SCAN] == pytest.approx(product.noise_share[SCAN], rel=1e-9)


def test_a_downstream_network_is_part_of_the_rule():
    head = nn.Sequential(weighted(nn.Conv3d(1, 2, 3).double(), 9), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    target = ClassLogit(head.eval(), 1, SHAPE, "logit")
    network = Plain()
    found = GuidedBackprop()(forward_of(network), SCANS, SIGMAS, target)
    whole = nn.Sequential(network, head)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting", category=UserWarning)
        theirs = attr.GuidedBackprop(whole).attribute(SCANS[SCAN].clone().requires_grad_(), target=1)
    assert relative(found.maps[SCAN], theirs) <= 1e-12


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("method", [GuidedBackprop(), DeepLift(START), LayerwiseRelevance()], ids=lambda m: m.name)
def test_checkpointing_changes_nothing_or_is_refused(method):
    network = Functional()
    expected = method(forward_of(network), SCANS, SIGMAS, block()).maps[SCAN]
    kept = DenoiserForward(lambda x, sigma: checkpoint(network, x, use_reentrant=False))
    assert relative(method(kept, SCANS, SIGMAS, block()).maps[SCAN], expected) <= 1e-12
    hidden = DenoiserForward(lambda x, sigma: checkpoint(network, x, use_reentrant=True))
    with pytest.raises((MethodNotValid, RuntimeError)):  # PyTorch itself refuses torch.autograd.grad there
        method(hidden, SCANS, SIGMAS, block())


class Overwritten(Plain):
    """Uses the input of an activation in place after it was overwritten: out of place it is another function."""

    def forward(self, x):
        first, _, last = self.convolutions
        x = first(x)
        functional.relu(x, inplace=True)
        return last(x)


@pytest.mark.parametrize("method", [GuidedBackprop(), LayerwiseRelevance()], ids=lambda m: m.name)
def test_a_network_that_relies_on_overwriting_is_refused(method):
    with pytest.raises(MethodNotValid):
        method(forward_of(Overwritten()), SCANS, SIGMAS, block())


# Layer-wise relevance


@pytest.mark.parametrize("seed", range(3))
def test_relevance_without_epsilon_is_gradient_x_input_on_our_network(seed):
    forward = DenoiserForward(random_network(seed=seed).double())
    found = LayerwiseRelevance(0.0)(forward, SCANS, SIGMAS, block())
    product = InputXGradient()(forward, SCANS, SIGMAS, block())
    assert relative(found.maps[SCAN], product.maps[SCAN]) <= 1e-12
    assert found.statistics["conservation"] <= 1e-12
    damped = LayerwiseRelevance(0.1)(forward, SCANS, SIGMAS, block())  # the control: epsilon must change the map
    assert relative(damped.maps[SCAN], product.maps[SCAN]) > 0.01
    assert damped.residual > 1e-3


@pytest.mark.parametrize("network", ["ours", "biased", "shared"])
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.3])
def test_no_relevance_is_lost_without_an_account(network, epsilon):
    denoisers = {
        "ours": random_network().double(),
        "biased": add_biases(random_network().double()),
        "shared": lambda x, sigma: Shared()(x),
    }
    found = LayerwiseRelevance(epsilon)(DenoiserForward(denoisers[network]), SCANS, SIGMAS, block())
    assert found.statistics["conservation"] <= 1e-10
    assert (found.statistics["absorbed_by_biases"] != 0) == (network != "ours")
    assert (found.statistics["absorbed_by_epsilon"] != 0) == (epsilon > 0)


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = weighted(nn.Conv3d(1, 3, 3, padding=1).double(), 1)
        self.act = nn.ReLU()
        self.last = weighted(nn.Conv3d(3, 1, 3, padding=1).double(), 2)

    def forward(self, x):
        return self.last(self.act(self.first(x)))


def test_relevance_equals_captums_where_its_rules_are_set_by_hand():
    """Captum has no rule for Conv3d; given the epsilon rule for each layer, it can follow a chain of modules."""
    voxel, mask = (7, 6, 8), torch.zeros(SHAPE, dtype=torch.bool)
    mask[voxel] = True
    ours = LayerwiseRelevance(0.05, relative=False)(forward_of(Chain()), SCANS, SIGMAS, RegionMean(mask, "voxel"))
    chain = Chain()
    chain.first.rule, chain.last.rule = EpsilonRule(epsilon=0.05), EpsilonRule(epsilon=0.05)
    theirs = attr.LRP(chain).attribute(SCANS[SCAN].clone().requires_grad_(), target=(0, *voxel)).detach()
    assert relative(ours.maps[SCAN], theirs) <= 1e-10
    other = LayerwiseRelevance(0.5, relative=False)(forward_of(Chain()), SCANS, SIGMAS, RegionMean(mask, "voxel"))
    assert relative(other.maps[SCAN], theirs) > 0.01  # the control: another epsilon


@pytest.mark.parametrize("act", [nn.SiLU, nn.GELU, nn.ELU, nn.Tanh, nn.LeakyReLU, nn.PReLU])
def test_activations_pass_relevance_on_unchanged(act):
    network = Plain(lambda: act().double())
    found = LayerwiseRelevance(0.0)(forward_of(network), SCANS, SIGMAS, block())
    assert found.statistics["conservation"] <= 1e-10
    assert found.value == pytest.approx(float(block()(network(SCANS[SCAN])).detach()), rel=1e-12)


def test_an_epsilon_below_zero_is_refused():
    with pytest.raises(ConfigError, match="-1"):
        LayerwiseRelevance(-1.0)
