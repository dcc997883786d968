"""A denoiser is refined on the noisy scan alone, and the refinement is kept only where it helps voxels it never saw."""

import json
from functools import lru_cache

import numpy as np
import pytest
import torch

from medinterp.assessment.certificate import homogeneity_residual
from medinterp.denoisers.base import scalar_sigma
from medinterp.denoisers.refine import RefinePlan, refine
from medinterp.denoisers.weights import PretrainedDenoiser
from medinterp.errors import ConfigError, TooFewVoxels
from medinterp.noise.models import add_gaussian, add_rician
from medinterp.testing.networks import random_network
from medinterp.testing.phantoms import head
from medinterp.volume import Grid

SIGMA = 40.0
PLAN = RefinePlan(steps=40, rate=3e-3, edge=16, check_every=10)


@lru_cache(maxsize=1)
def clean():
    grid = Grid((48, 48, 32), np.array([[2.5, 0, 0, -60], [0, 2.5, 0, -75], [0, 0, 2.5, -20], [0, 0, 0, 1.0]]))
    return torch.from_numpy(head("T1", grid))[None, None]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scan(*, rician=True):
    add = add_rician if rician else add_gaussian
    return add(clean(), scalar_sigma(SIGMA, clean()), generator=seeded(1))


@pytest.fixture
def weak(tmp_path):
    """A tiny network that does a little: random weights, so there is much to learn."""
    network = random_network()
    (tmp_path / "models").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps({}))
    torch.save(network.state_dict(), tmp_path / "models" / "model.pt")
    return PretrainedDenoiser(random_network(seed=9), str(tmp_path))


def refined(denoiser, plan=PLAN, *, rician=True, seed=0, **options):
    y = scan(rician=rician)
    return refine(denoiser, y, scalar_sigma(SIGMA, y), rician=rician, generator=seeded(seed), plan=plan, **options)


def error(denoiser, *, rician=True):
    y = scan(rician=rician)
    counted = clean() > 3 * SIGMA
    return float((denoiser(y, scalar_sigma(SIGMA, y)) - clean())[counted].square().mean())


@pytest.mark.parametrize(("loss", "rician"), [("stein", True), ("stein", False), ("recorrupted", True)])
def test_a_weak_denoiser_comes_closer_to_the_truth_it_never_saw(weak, loss, rician):
    plan = RefinePlan(steps=40, rate=3e-3, edge=16, check_every=10, loss=loss)
    found = refined(weak, plan, rician=rician)
    assert found.accepted, found.reason
    # a tiny network, 40 steps: most of what a random one spoils is undone
    assert error(found.denoiser, rician=rician) < 0.5 * error(weak, rician=rician)
    assert found.before - found.after > 2 * found.standard_error
    assert found.history[0][0] == 0
    assert min(value for _, value in found.history) < found.history[0][1]
    assert found.reason.startswith("kept")


def test_the_estimated_errors_are_near_the_true_ones(weak):
    found = refined(weak, rician=False)
    for denoiser, estimated in ((weak, found.before), (found.denoiser, found.after)):
        # two unseen patches of 16^3 stand for the whole scan here: half or double, not ten times
        assert 0.4 < estimated / error(denoiser, rician=False) < 2.5


@pytest.mark.parametrize("rate", [1e-12, 10.0], ids=["too small to matter", "destructive"])
def test_control_a_refinement_that_does_not_help_is_refused(weak, rate):
    found = refined(weak, RefinePlan(steps=20, rate=rate, edge=16, check_every=10))
    assert not found.accepted
    assert found.denoiser is weak
    assert found.reason.startswith("not kept")


def test_the_given_denoiser_is_left_as_it_is(weak):
    before = {name: value.clone() for name, value in weak.network.state_dict().items()}
    digest = weak.weights_sha256
    found = refined(weak)
    assert all(torch.equal(value, before[name]) for name, value in weak.network.state_dict().items())
    assert (weak.weights_sha256, found.denoiser.weights_sha256 == digest) == (digest, False)
    assert not any(parameter.requires_grad for parameter in found.denoiser.network.parameters())
    assert found.denoiser.radius == weak.radius


def test_a_refined_denoiser_is_still_homogeneous(weak):
    y = scan()[..., :16, :16, :16].double()
    found = refined(weak).denoiser
    found.network.double()
    assert homogeneity_residual(found, y, scalar_sigma(SIGMA, y)) < 1e-10  # Euler's identity, to rounding


def test_the_same_seed_gives_the_same_bits_and_every_step_is_reported(weak):
    told = []
    first = refined(weak, on_step=told.append)
    again = refined(weak)
    assert first.denoiser.weights_sha256 == again.denoiser.weights_sha256
    assert (first.before, first.after, first.history) == (again.before, again.after, again.history)
    assert first.denoiser.weights_sha256 != refined(weak, seed=1).denoiser.weights_sha256
    assert [info.done for info in told] == list(range(1, PLAN.steps + 1))


def test_training_stops_when_held_out_patches_no_longer_gain(weak):
    told = []
    plan = RefinePlan(steps=400, rate=1e-12, edge=16, check_every=2, patience=2)
    refined(weak, plan, on_step=told.append)
    assert told[-1].done < 100  # rounding alone decides between equal weights, for a few looks at most


def test_the_dark_is_held_to_the_original(weak):
    y, level = scan(), scalar_sigma(SIGMA, clean())
    before, after = (denoiser(y, level) for denoiser in (weak, refined(weak).denoiser))
    dark = clean() < 0.1 * SIGMA
    change = float((after - before)[dark].square().mean().sqrt())
    bright = float((after - before)[clean() > 3 * SIGMA].square().mean().sqrt())
    assert change < bright


def test_scans_too_small_and_plans_out_of_range_are_refused(weak):
    y = scan()[..., :16, :16, :16]
    with pytest.raises(TooFewVoxels, match="refining needs 6"):
        refine(weak, y, scalar_sigma(SIGMA, y), rician=True, generator=seeded(), plan=PLAN)
    with pytest.raises(TooFewVoxels, match="at least 8"):
        refine(weak, y[..., :4], scalar_sigma(SIGMA, y), rician=True, generator=seeded(), plan=PLAN)
    with pytest.raises(ConfigError, match="multiple of 8"):
        RefinePlan(edge=20)
    with pytest.raises(ConfigError, match="positive"):
        RefinePlan(rate=0.0)
