"""A trace sees every operation the scan goes through, whatever API it was called by, and the module it ran in."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from medinterp.attribution import ClassLogit, WeightedSum
from medinterp.attribution.operations import Kind
from medinterp.attribution.rules import hook_findings
from medinterp.attribution.trace import trace
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward

SHAPE = (6, 6, 6)
SCANS = {SCAN: torch.ones(1, 1, *SHAPE) + torch.arange(216.0).reshape(1, 1, *SHAPE)}
SIGMAS = {SCAN: torch.full((1, 1, 1, 1, 1), 0.5)}


def kinds(function):
    found = trace(DenoiserForward(lambda x, sigma: function(x)), SCANS, SIGMAS)
    return [operation.kind for operation in found.operations if operation.kind is not Kind.LINEAR]


@pytest.mark.parametrize(
    "call",
    [torch.relu, functional.relu, torch.Tensor.relu, nn.ReLU(), nn.ReLU(inplace=True), lambda x: torch.relu_(x * 1)],
)
def test_every_spelling_of_a_relu_is_one_relu(call):
    assert kinds(lambda x: call(x * 1)) == [Kind.RELU]


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (nn.PReLU(), Kind.GATE),
        (lambda x: x.clamp(min=0), Kind.GATE),
        (lambda x: x.clamp(min=1), Kind.OFFSET_CURVE),
        (nn.SiLU(), Kind.CURVE),
        (nn.Sigmoid(), Kind.OFFSET_CURVE),
        (nn.GroupNorm(1, 1), Kind.NORM),
        (nn.InstanceNorm3d(1), Kind.NORM),
        (nn.BatchNorm3d(1).train(), Kind.NORM),
        (lambda x: x * x, Kind.PRODUCT),
        (lambda x: torch.div(torch.ones(()), x), Kind.PRODUCT),
        (lambda x: functional.conv3d(x, x[:, :, :2, :2, :2]), Kind.PRODUCT),
        (lambda x: x.softmax(2), Kind.SOFTMAX),
        (nn.MaxPool3d(2), Kind.POOL),
        (torch.round, Kind.STEP),
        (torch.erfinv, Kind.OTHER),
    ],
)
def test_operations_are_told_apart(call, kind):
    assert kinds(call) == [kind]


@pytest.mark.parametrize("call", [nn.BatchNorm3d(1).eval(), nn.Conv3d(1, 1, 3), nn.AvgPool3d(2), lambda x: 3 * x + 1])
def test_what_is_linear_in_the_scan_is_called_so(call):
    assert kinds(call) == []


def test_what_does_not_depend_on_the_scan_is_not_noted():
    constant = torch.ones(1, 1, *SHAPE)
    assert kinds(lambda x: x * torch.tanh(constant).softmax(2)) == []
    assert not trace(lambda inputs, sigmas: constant * 2, SCANS, SIGMAS).depends


def test_a_check_on_the_way_is_no_part_of_the_result():
    def checked(x):
        if not torch.isfinite(x).all() or float(x.abs().max()) > 1e30:
            raise ValueError
        return torch.relu(x)

    assert kinds(checked) == [Kind.RELU]


def test_what_is_written_into_a_part_of_a_buffer_is_followed():
    def windows(x):
        buffer = torch.zeros_like(x)
        buffer[:, :, :3] = torch.relu(x[:, :, :3])
        buffer[:, :, 3:] += torch.tanh(x[:, :, 3:])
        return buffer * 2

    assert kinds(windows) == [Kind.RELU, Kind.CURVE]
    untouched = trace(lambda inputs, sigmas: torch.zeros(4)[:2].add_(1), SCANS, SIGMAS)
    assert not untouched.depends


def test_the_noise_level_counts_as_part_of_the_scan():
    found = trace(lambda inputs, sigmas: inputs[SCAN] * sigmas[SCAN], SCANS, SIGMAS)
    assert [operation.kind for operation in found.operations] == [Kind.PRODUCT]


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 2, 1), nn.Conv3d(2, 1, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return torch.relu(self.act(self.second(self.act(self.first(x)))))


def test_reuse_functional_and_in_place_calls_are_found():
    found = trace(lambda inputs, sigmas: Shared()(inputs[SCAN]), SCANS, SIGMAS)
    relus = found.of_kind(Kind.RELU)
    assert [(o.path, o.in_module, o.in_place) for o in relus] == [
        ("act", True, True), ("act", True, True), ("", False, False),
    ]  # fmt: skip
    assert found.calls["act"] == 2
    texts = " ".join(hook_findings(found))
    assert "'act' 2 times" in texts
    assert "1 activations are functions" in texts
    assert "2 activations overwrite" in texts
    clean = nn.Sequential(nn.Conv3d(1, 1, 1), nn.ReLU())
    assert hook_findings(trace(lambda inputs, sigmas: clean(inputs[SCAN]), SCANS, SIGMAS)) == ()


def test_a_network_in_the_target_is_followed_but_not_the_targets_arithmetic():
    classifier = nn.Sequential(nn.Conv3d(1, 2, 3), nn.PReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()).eval()
    layer = nn.Conv3d(1, 1, 1)
    forward = DenoiserForward(lambda x, sigma: layer(x))
    found = trace(forward, SCANS, SIGMAS, ClassLogit(classifier, 1, SHAPE, "logit"))
    assert [o.path for o in found.of_kind(Kind.GATE)] == ["1:1"]
    assert [block.path for block in found.blocks] == ["", "1:0", "1:1", "1:2"]
    summed = trace(forward, SCANS, SIGMAS, WeightedSum(torch.ones(SHAPE), "sum"))
    assert {operation.name for operation in summed.operations} == {"convolution"}
    assert summed.measured == pytest.approx(float(summed.output.sum()), rel=1e-5)


def test_tracing_leaves_nothing_behind():
    from torch.nn.modules import module

    before = len(module._global_forward_hooks), len(module._global_forward_pre_hooks)
    with pytest.raises(ZeroDivisionError):
        trace(lambda inputs, sigmas: inputs[SCAN] * (1 // 0), SCANS, SIGMAS)
    trace(DenoiserForward(lambda x, sigma: x.mul_(2)), SCANS, SIGMAS)
    assert (len(module._global_forward_hooks), len(module._global_forward_pre_hooks)) == before
    assert float(SCANS[SCAN].max()) == 216  # the forward wrote into a copy
