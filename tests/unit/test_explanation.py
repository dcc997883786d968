"""Several methods of one measurement: what they have in common is found once, and changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medinterp.attribution import EquivalentFilter, InputXGradient, IntegratedGradients, Saliency
from medinterp.attribution.measures import Mean
from medinterp.denoisers.base import evaluate
from medinterp.explanation import Case, Kept
from medinterp.testing.attribution_oracles import smooth_noise
from medinterp.testing.networks import random_network
from medinterp.volume import Grid, sphere

SHAPE = (32, 32, 32)
METHODS = (Saliency(), InputXGradient(), EquivalentFilter())


class Counting:
    """A denoiser with a small random network that counts how often it is asked."""

    def __init__(self):
        self.network, self.asked = random_network(), 0

    def __call__(self, x, sigma, *, cond=None):
        self.asked += 1
        return self.network(x, sigma)


@pytest.fixture
def case():
    image = 3 + smooth_noise((1, 1, *SHAPE), 1.0, torch.Generator().manual_seed(1)).float()
    region = sphere(Grid(SHAPE, np.eye(4)), (15.0, 16.0, 16.0), 2.0)
    level = torch.full((1, 1, 1, 1, 1), 0.3)
    return Case(Saliency(), Mean(), "scan", image, level, Mean().target(region), Counting(), None, evaluate, 0)


@pytest.mark.parametrize("halo", [None, 4], ids=["exact", "halo"])
def test_methods_that_read_the_gradient_find_the_same_with_one_gradient_as_with_their_own(case, halo):
    kept, subjects = Kept(), [replace(case, attributor=method) for method in METHODS]
    together = [subject.explain(halo=halo, gradients=kept.gradients) for subject in subjects]
    asked = case.denoiser.asked
    alone = [subject.explain(halo=halo) for subject in subjects]
    assert case.denoiser.asked - asked == len(METHODS) * asked
    for shared, own in zip(together, alone, strict=True):
        assert torch.equal(shared.maps["scan"], own.maps["scan"])
        assert shared.statistics == own.statistics
        assert shared.residual == own.residual


def test_certificates_share_the_random_network_and_say_the_same(case):
    kept = Kept()
    for method in (*METHODS, IntegratedGradients(steps=3)):
        subject = replace(case, attributor=method)
        found = subject.explain(halo=None)
        assert subject.certify(found, kept) == subject.certify(found)
    assert kept.of_random  # filled by the first, read by the others
