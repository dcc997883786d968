"""Layers are made random from the output down; a map that shows the model changes with the first of them."""

import pytest
import torch
from torch import nn

from medinterp.assessment.randomisation import INSENSITIVE, SENSITIVE, check_cascade
from medinterp.attribution import InputXGradient, RegionMean, Saliency
from medinterp.denoisers.network import BiasFreeUNet
from medinterp.errors import ConfigError
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, EdgeDetector, smooth_noise

SHAPE = (24, 24, 24)


class Three(nn.Module):
    """Three convolutions, registered in another order than they are called in."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.last, self.first, self.middle = (
            nn.Conv3d(c, d, 3, padding=1, bias=False) for c, d in ((4, 1), (1, 4), (4, 4))
        )
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x, sigma, cond=None):
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


def unet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BiasFreeUNet((4, 4, 4), (1, 1, 1)).requires_grad_(False)
    for name, parameter in network.named_parameters():
        if "head" in name:
            parameter.mul_(10)  # as drawn, the network hardly changes its input
    return network


def explain_with(method):
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[8:16, 8:16, 8:16] = True
    scan = {SCAN: 3 + smooth_noise((1, 1, *SHAPE), 1.0, torch.Generator().manual_seed(1)).float()}
    sigma = {SCAN: torch.full((1, 1, 1, 1, 1), 0.5)}
    return lambda denoiser: method(DenoiserForward(denoiser), scan, sigma, RegionMean(mask, "block"))


def cascade(method, network, **options):
    return check_cascade(explain_with(method), network, generator=torch.Generator().manual_seed(0), **options)


def test_layers_become_random_in_the_order_in_which_they_were_called_last_first():
    stages = cascade(Saliency(), Three(), stages=3)
    assert [(s.layers, s.of, s.deepest) for s in stages] == [(1, 3, "last"), (2, 3, "middle"), (3, 3, "first")]


def test_more_stages_than_layers_are_one_a_layer():
    assert len(cascade(Saliency(), Three(), stages=9)) == 3


def test_a_map_of_the_model_is_sensitive_at_the_end_of_the_cascade():
    stages = cascade(InputXGradient(), unet())
    assert [s.layers for s in stages] == sorted({s.layers for s in stages})
    assert stages[-1].layers == stages[-1].of
    assert stages[-1].comparison.verdict == SENSITIVE


def test_an_edge_detector_must_stay_insensitive_through_the_whole_cascade():
    stages = cascade(EdgeDetector(), unet())
    assert {s.comparison.verdict for s in stages} == {INSENSITIVE}
    assert all(s.comparison.plain_correlation > 0.999 for s in stages)


def test_the_network_is_left_as_it_was():
    network = unet()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cascade(Saliency(), network, stages=2)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_network_without_weights_has_no_cascade():
    class Nothing(nn.Module):
        def forward(self, x, sigma, cond=None):
            return x

    with pytest.raises(ConfigError, match="over 0 layers"):
        cascade(InputXGradient(), Nothing())
