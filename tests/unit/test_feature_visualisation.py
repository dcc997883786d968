"""Feature visualisation: the known best stimulus of a linear feature, projected at each step, labelled as made up."""

import pytest
import torch
from torch import nn

from medinterp.attribution import Ascent, visualise_feature
from medinterp.errors import ConfigError, MethodNotValid
from medinterp.testing.attribution_oracles import GaussianFilter
from medinterp.testing.networks import random_network

SIZE = (12, 12, 12)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def keep(x, sigma):
    return x


def unit_power(x, sigma):
    return sigma * x / x.square().mean().sqrt()


class Matched(nn.Module):
    """One feature: how much of a given pattern an image holds, as a feature map of one value everywhere."""

    def __init__(self, pattern):
        super().__init__()
        self.pattern = pattern

    def forward(self, x):
        return (self.pattern * x).sum(dim=(2, 3, 4), keepdim=True).expand(1, 1, 2, 2, 2)


def forward_of(module):
    return lambda inputs, sigmas: module(next(iter(inputs.values())))


def cosine(a, b):
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_the_stimulus_of_a_linear_feature_is_its_pattern():
    pattern = torch.randn((1, 1, *SIZE), generator=seeded(3))
    found = visualise_feature(
        forward_of(Matched(pattern)), unit_power, "", 0, generator=seeded(), ascent=Ascent(SIZE, 40, 0.5)
    )
    assert cosine(found.image, pattern) > 0.99
    rises = [after - before for before, after in zip(found.activation, found.activation[1:], strict=False)]
    assert min(rises) >= -1e-5 * found.activation[-1]
    noise = torch.randn((1, 1, *SIZE), generator=seeded())
    assert abs(cosine(noise, pattern)) < 0.1  # the control: what it began with


def test_what_the_denoiser_takes_out_is_not_in_the_stimulus():
    """A rough pattern, seen through a smoothing projection, leaves its smooth part only."""
    rough = torch.randn((1, 1, *SIZE), generator=seeded(3))
    smooth = GaussianFilter(1.0)

    def project(x, sigma):
        return unit_power(smooth(x, sigma), sigma)

    settings = Ascent(SIZE, 12, 0.5)
    projected = visualise_feature(forward_of(Matched(rough)), project, "", 0, generator=seeded(), ascent=settings).image
    plain = visualise_feature(forward_of(Matched(rough)), unit_power, "", 0, generator=seeded(), ascent=settings).image

    def roughness(image):
        return float(sum(image.diff(dim=axis).square().mean() for axis in (2, 3, 4)) / image.var())

    assert roughness(projected) < 0.4 * roughness(plain)


def test_a_feature_of_our_network_is_excited_and_labelled_a_stimulus():
    network = random_network()
    found = visualise_feature(
        lambda inputs, sigmas: network(inputs["stimulus"], sigmas["stimulus"]),
        network,
        "body.inner.down.0.relu",
        1,
        generator=seeded(),
        ascent=Ascent((16, 16, 16), 6, 1.0),
    )
    assert found.activation[-1] > 2 * found.activation[0]
    assert found.label.startswith("stimulus")
    assert len(found.activation) == 7
    assert not found.image.requires_grad


def test_wrong_questions_are_refused():
    network = forward_of(nn.Conv3d(1, 2, 3))
    with pytest.raises(ConfigError, match="channel 5"):
        visualise_feature(network, keep, "", 5, generator=seeded(), ascent=Ascent(SIZE, 1))
    with pytest.raises(ConfigError, match="missing"):
        visualise_feature(network, keep, "body", 0, generator=seeded(), ascent=Ascent(SIZE, 1))
    dead = nn.Conv3d(1, 1, 1)
    nn.init.zeros_(dead.weight)
    with pytest.raises(MethodNotValid, match="no gradient"):
        visualise_feature(forward_of(dead), keep, "", 0, generator=seeded(), ascent=Ascent(SIZE, 1))
    with pytest.raises(ConfigError, match="positive"):
        Ascent(rate=0.0)
