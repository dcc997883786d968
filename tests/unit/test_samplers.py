"""Samplers: what they refuse, and how they treat noise that varies over space."""

import weakref

import pytest
import torch

from medinterp.denoisers.base import scalar_sigma
from medinterp.errors import ConfigError
from medinterp.sampling.checkpoints import one_checkpoint_a_step
from medinterp.sampling.samplers import Heun, PosteriorMean, ReverseSDE
from medinterp.sampling.schedules import LinearSchedule, PowerSchedule
from medinterp.sampling.trajectory import KeptStates
from medinterp.testing.oracles import RecordingDenoiser, linear_gaussian


class Pointwise:
    """The posterior mean of independent voxels x0 ~ N(0, 1): exact for any sigma map."""

    def __call__(self, x, sigma, *, cond=None):
        return x / (1 + sigma.square())


def example():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1, 1, 6, 6, 6, generator=generator, dtype=torch.float64)
    sigma = 0.2 + torch.rand(1, 1, 6, 6, 6, generator=generator, dtype=torch.float64)
    return y, sigma, generator


def test_heun_solves_the_flow_of_a_sigma_map_voxel_by_voxel():
    y, sigma, generator = example()
    end = Heun()(Pointwise(), y, sigma, PowerSchedule()(80, start=1.0), generator=generator)
    expected = y / (1 + sigma.square()).sqrt()
    assert torch.allclose(end, expected, rtol=2e-3)  # Heun's error at 80 steps for the largest sigma


def test_reverse_sde_draws_the_posterior_of_a_sigma_map_voxel_by_voxel():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1, 1, 60, 60, 6, generator=generator, dtype=torch.float64)
    sigma = torch.linspace(0.2, 1.2, 6, dtype=torch.float64).expand(1, 1, 60, 60, 6)
    fractions = PowerSchedule()(10, start=1.0)
    draw = ReverseSDE()(Pointwise(), y, sigma, fractions, generator=generator)
    deviation = (draw - Pointwise()(y, sigma)) * (
        1 + 1 / sigma.square()
    ).sqrt()  # white and of variance 1 if calibrated
    for level in deviation[0, 0].unbind(dim=-1):
        assert abs(float(level.mean())) < 4 / 60  # four standard errors of 3600 voxels
        assert float(level.var()) == pytest.approx(1, abs=4 * (2 / 3600) ** 0.5)


def test_single_step_heun_is_the_posterior_mean():
    y, sigma, generator = example()
    one = LinearSchedule()(1, start=1.0)
    heun = Heun()(Pointwise(), y, sigma, one, generator=generator)
    assert torch.allclose(heun, PosteriorMean()(Pointwise(), y, sigma, one, generator=generator), rtol=1e-12)


@pytest.mark.parametrize(
    "sampler", [Heun(), Heun(correct=False), PosteriorMean(), ReverseSDE(0), ReverseSDE(1), ReverseSDE(3)]
)
@pytest.mark.parametrize("steps", [1, 4])
def test_evaluations_are_as_many_as_announced(sampler, steps):
    world = linear_gaussian(8)
    recording = RecordingDenoiser(world)
    y = world.draw(1, torch.Generator().manual_seed(0))
    fractions = PowerSchedule()(steps, start=1.0)
    sampler(recording, y, scalar_sigma(0.5, y), fractions, generator=torch.Generator().manual_seed(0))
    assert len(recording.evaluations) == sampler.evaluations(steps)


@pytest.mark.parametrize(("sampler", "steps"), [(PosteriorMean(), 1), (Heun(), 5), (ReverseSDE(), 5)])
def test_every_state_is_told_from_the_scan_to_the_image(sampler, steps):
    y, sigma, generator = example()
    told, fractions = {}, PowerSchedule()(steps, start=1.0)
    image = sampler(Pointwise(), y, sigma, fractions, generator=generator, on_state=told.__setitem__)
    assert list(told) == fractions.tolist()
    assert torch.equal(told[1.0], y)
    assert torch.equal(told[0.0], image)


@pytest.mark.parametrize(("steps", "most", "kept"), [(4, 20, 3), (20, 5, 5), (1, 20, 0), (10, 0, 0)])
def test_no_more_states_are_kept_than_asked_spread_over_the_steps(steps, most, kept):
    y, sigma, generator = example()
    states, fractions = KeptStates(steps, most), PowerSchedule()(steps, start=1.0)
    Heun()(Pointwise(), y.float(), sigma.float(), fractions, generator=generator, on_state=states)
    found = list(states.states)
    assert len(found) == kept
    assert found == sorted(found, reverse=True)
    assert set(found) <= set(fractions.tolist()[1:-1])
    if kept > 1:  # from the first step to the last
        assert (found[0], found[-1]) == (fractions[1], fractions[-2])


def test_a_kept_state_is_the_samplers_own():
    y, sigma, generator = example()
    states, fractions = KeptStates(2), LinearSchedule()(2, start=1.0)
    Heun()(Pointwise(), y.float(), sigma.float(), fractions, generator=generator, on_state=states)
    told = {}
    Heun()(Pointwise(), y.float(), sigma.float(), fractions, generator=generator, on_state=told.__setitem__)
    (state,) = states.states.values()
    assert torch.equal(torch.from_numpy(state), told[0.5][0])


def test_condition_reaches_the_denoiser():
    y, sigma, generator = example()

    def conditioned(x, sigma, *, cond=None):
        return cond

    for sampler in (PosteriorMean(), Heun()):
        end = sampler(conditioned, y, sigma, LinearSchedule()(3, start=1.0), generator=generator, cond=2 * y)
        assert torch.allclose(end, 2 * y, rtol=1e-12)


@pytest.mark.parametrize("fractions", [[1.0], [0.9, 0.0], [1.0, 0.5], [1.0, 0.5, 0.5, 0.0], [0.0, 1.0]])
@pytest.mark.parametrize("sampler", [Heun(), ReverseSDE()])
def test_fractions_that_do_not_fall_from_one_to_zero_are_refused(sampler, fractions):
    y, sigma, generator = example()
    with pytest.raises(ConfigError, match="strictly decreasing from 1"):
        sampler(Pointwise(), y, sigma, torch.tensor(fractions).double(), generator=generator)


def test_negative_number_of_products_is_refused():
    with pytest.raises(ConfigError, match="Jacobian products"):
        ReverseSDE(jacobian_products=-1)


class Remembering:
    """A denoiser that is not linear, and knows which of its intermediate tensors still live."""

    def __init__(self):
        self.made = []

    def __call__(self, x, sigma, *, cond=None):
        bent = torch.tanh(x / sigma)
        self.made.append(weakref.ref(bent))
        return bent * bent.cos() * x

    @property
    def alive(self):
        return sum(ref() is not None for ref in self.made)


@pytest.mark.parametrize("sampler", [Heun(), Heun(correct=False), ReverseSDE(0), ReverseSDE(1)])
def test_with_a_checkpoint_a_step_the_gradient_is_the_same_and_no_features_are_kept(sampler):
    y, sigma, _ = example()
    fractions = PowerSchedule()(5, start=1.0)

    def run():
        denoiser, leaf = Remembering(), y.clone().requires_grad_()
        generator = torch.Generator().manual_seed(3)
        end = sampler(denoiser, leaf, sigma, fractions, generator=generator)
        alive = denoiser.alive
        (gradient,) = torch.autograd.grad(end.square().sum(), leaf)
        return alive, len(denoiser.made), gradient

    kept, evaluations, expected = run()
    with one_checkpoint_a_step():
        alive, evaluated_again, gradient = run()
    assert torch.equal(gradient, expected)
    assert evaluated_again == 2 * evaluations
    assert alive == 0
    if sampler != ReverseSDE(1):  # forward-mode differentiation keeps its own copies, which are not seen from here
        assert kept == evaluations  # the control
