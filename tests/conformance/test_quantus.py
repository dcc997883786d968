"""On the part of Quantus that runs on three-dimensional scans, our metrics give its numbers."""

import os
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from medinterp.assessment.faithfulness import rank_steps, replacement_curve
from medinterp.assessment.localisation import localisation
from medinterp.assessment.sensitivity import max_sensitivity
from medinterp.testing.attribution_oracles import smooth_noise

SHAPE = (1, 1, 6, 7, 8)
QUIET = {"disable_warnings": True, "display_progressbar": False}


@pytest.fixture(scope="module")
def quantus():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it and its dependencies deprecate is not ours to judge
        try:
            import quantus as found
        except ImportError:
            if os.environ.get("CI") == "true":
                pytest.fail("Quantus is not installed, and CI must run this check: pip install '.[bench]'")
            pytest.skip("Quantus is not installed: pip install '.[bench]'")
    return found


class Measured(nn.Module):
    """A number of a scan as the one class of a classifier; Quantus gives it float32, whatever the scan is."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Conv3d(1, 3, 3, padding=1), nn.Conv3d(3, 1, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def forward(self, scan):
        return self.second(torch.relu(self.first(scan.double()))).flatten(1).mean(dim=1, keepdim=True)


def case():
    scan = 2 + smooth_noise(SHAPE, 0.7, torch.Generator().manual_seed(1))
    found = smooth_noise(SHAPE, 0.5, torch.Generator().manual_seed(2))
    return Measured().double().eval(), scan.float().double(), found


def of_quantus(metric, model, scan, found, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = metric(
            model=model, x_batch=scan.numpy(), y_batch=np.zeros(1, dtype=int), a_batch=found.numpy(),
            channel_first=True, softmax=False, **more,
        )  # fmt: skip
    return scores[0]


def test_deletion_curves_are_those_of_pixel_flipping(quantus):
    model, scan, found = case()
    steps = 12
    metric = quantus.PixelFlipping(
        features_in_step=scan.numel() // steps, perturb_baseline=1.0, abs=True, normalise=False, **QUIET
    )
    theirs = of_quantus(metric, model, scan, found)
    ranks = rank_steps(found.abs().flatten(), steps).reshape(SHAPE[2:])
    ours = replacement_curve(lambda y: model(y)[:, 0], scan, torch.ones_like(scan), ranks, steps)
    assert np.allclose(ours[1:].numpy(), theirs, rtol=1e-6, atol=0)


def test_max_sensitivity_is_theirs_on_the_same_scans(quantus):
    model, scan, _ = case()
    moved = []

    def gradient(y):
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            return torch.autograd.grad(model(leaf).sum(), leaf)[0]

    def explain(y):
        moved.append(y)
        return gradient(y)[0]

    ours = max_sensitivity(
        explain, scan, gradient(scan)[0], radius=0.5, changes=5, generator=torch.Generator().manual_seed(3)
    )
    again = iter(moved)
    metric = quantus.MaxSensitivity(
        nr_samples=5, abs=False, normalise=False, perturb_func=lambda arr, **_: next(again).reshape(arr.shape).numpy(),
        **QUIET,
    )  # fmt: skip
    explainer = {"explain_func": lambda model, inputs, targets, **_: gradient(torch.as_tensor(inputs)).numpy()}
    theirs = of_quantus(metric, model, scan, gradient(scan), **explainer)
    assert ours.value > 0
    assert ours.relative == pytest.approx(float(theirs), rel=1e-6)


def test_relevance_mass_rank_and_pointing_are_theirs(quantus):
    model, scan, found = case()
    region = torch.zeros(SHAPE[2:], dtype=torch.bool)
    region[1:4, 2:5, 3:7] = True
    ours = localisation(found[0], region)
    options = {"abs": True, "normalise": False, **QUIET}
    mask = {"s_batch": region[None, None].numpy()}
    for metric, value in (
        (quantus.RelevanceMassAccuracy, ours.mass),
        (quantus.RelevanceRankAccuracy, ours.rank),
        (quantus.PointingGame, float(ours.pointing)),
    ):
        assert float(of_quantus(metric(**options), model, scan, found, **mask)) == pytest.approx(value, rel=1e-6)
