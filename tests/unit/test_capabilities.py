"""What methods declare they cost is what they use."""

import pytest
import torch

from medinterp.attribution import (
    DeepLift,
    EquivalentFilter,
    GradCam,
    GradientShap,
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    LayerwiseRelevance,
    Ray,
    RegionMean,
    Saliency,
    SmoothGrad,
    capabilities,
)
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward
from medinterp.testing.networks import random_network

SHAPE = (16, 16, 16)
METHODS = (
    Saliency(),
    InputXGradient(),
    EquivalentFilter(),
    IntegratedGradients(steps=4),
    IntegratedGradients(Ray(), steps=2),
    SmoothGrad(draws=3),
    GradientShap(draws=3),
    GuidedBackprop(),
    DeepLift(),
    LayerwiseRelevance(),
    GradCam(),
    GuidedGradCam(),
)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_declared_evaluations_are_those_that_are_made(method):
    made = []
    network = random_network()
    forward = DenoiserForward(lambda x, sigma: made.append(len(x)) or network(x, sigma))
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[6:9, 6:9, 6:9] = True
    scan = {SCAN: 3 + torch.randn((1, 1, *SHAPE), generator=torch.Generator().manual_seed(0))}
    sigma = {SCAN: torch.full((1, 1, 1, 1, 1), 0.5)}
    found = method(forward, scan, sigma, RegionMean(mask, "block"))
    declared = capabilities(method)
    assert declared is not None
    assert sum(made) == found.evaluations
    assert sum(made) <= declared.cost.forward
    assert declared.cost.backward >= 1
    if declared.complete:
        assert found.residual <= 0.1 or declared.random


def test_an_attributor_that_declares_nothing_says_nothing():
    class Quiet:
        name = "quiet"

        def __call__(self, forward, inputs, sigmas, target):
            raise NotImplementedError

    assert capabilities(Quiet()) is None
