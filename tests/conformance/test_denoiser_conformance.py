"""Every denoiser and sampler keeps its protocol, and the checks catch those that do not."""

import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from medinterp.denoisers.coloured import TwoScale
from medinterp.denoisers.intensity import FixedIntensity, MeanBrightness
from medinterp.denoisers.monai_ddpm import Windows
from medinterp.denoisers.symmetric import Symmetric
from medinterp.denoisers.tiled import Tiled
from medinterp.errors import InputError
from medinterp.noise.spectrum import NoiseSpectrum
from medinterp.sampling.samplers import Heun, PosteriorMean, ReverseSDE
from medinterp.testing import conformance
from medinterp.testing.diffusion_oracle import random_diffusion
from medinterp.testing.networks import random_network
from medinterp.testing.oracles import linear_gaussian


def colour():
    """Return the spectrum of noise that is correlated within slices, not across."""
    kernel = np.zeros((3, 3, 3))
    kernel[:, :, 1] = np.outer([0.5, 1, 0.5], [0.5, 1, 0.5])
    return NoiseSpectrum(kernel, (1.0, 1.0, 3.0))


DENOISERS = {
    "network": random_network(),
    "oracle": linear_gaussian(16),
    "tiled": Tiled(random_network(), (8, 16, 16), halo=56),
    "symmetric": Symmetric(random_network()),
    "two_scales": TwoScale(random_network(), colour()),
}
SAMPLERS = {
    "posterior_mean": PosteriorMean(),
    "heun": Heun(),
    "euler": Heun(correct=False),
    "reverse_sde": ReverseSDE(),
    "ancestral": ReverseSDE(jacobian_products=0),
    "reverse_sde_2": ReverseSDE(jacobian_products=2),
}


def example(dtype=torch.float32):
    return 1 + torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("check", conformance.DENOISER_CHECKS)
@pytest.mark.parametrize("name", DENOISERS)
def test_denoiser_keeps_the_protocol(name, check, dtype):
    denoiser = DENOISERS[name]
    if dtype == torch.float64 and name != "oracle":
        network = random_network().double()
        denoiser = {
            "network": network,
            "tiled": Tiled(network, (8, 16, 16), halo=56),
            "symmetric": Symmetric(network),
            "two_scales": TwoScale(network, colour()),
        }[name]
    check(denoiser, example(dtype))


DIFFUSION = {
    "epsilon": lambda: random_diffusion(DDPMScheduler()),
    "velocity": lambda: random_diffusion(DDIMScheduler(prediction_type="v_prediction"), timesteps="nearest"),
    "sample": lambda: random_diffusion(DDPMScheduler(prediction_type="sample"), checkpoint=True),
    "brightness": lambda: random_diffusion(DDPMScheduler(), intensity=MeanBrightness(), windows=Windows(8, 4)),
    "narrow": lambda: random_diffusion(DDPMScheduler(60), intensity=FixedIntensity(2.0, -1.0)),  # 0.02 to 2
}


@pytest.mark.parametrize("check", conformance.DENOISER_CHECKS)
@pytest.mark.parametrize("name", DIFFUSION)
def test_monai_diffusion_keeps_the_protocol(name, check):
    check(DIFFUSION[name](), example())


@pytest.mark.parametrize("check", [c for c in conformance.DENOISER_CHECKS if c is not conformance.derivatives_agree])
def test_monai_diffusion_keeps_the_protocol_in_double_precision(check):
    check(DIFFUSION["brightness"]().double(), example(torch.float64))


def test_derivatives_of_monai_diffusion_agree_as_far_as_its_embedding_is_precise():
    """MONAI computes the timestep's embedding in float32, whatever the network's precision: 1e-7 a layer."""
    conformance.derivatives_agree(DIFFUSION["brightness"]().double(), example(torch.float64), tolerance=1e-8)


@pytest.mark.parametrize("check", conformance.SAMPLER_CHECKS)
@pytest.mark.parametrize("name", ["heun", "reverse_sde"])
def test_samplers_keep_their_protocol_with_monai_diffusion(name, check):
    check(SAMPLERS[name], DIFFUSION["narrow"](), example())


@pytest.mark.parametrize("check", conformance.SAMPLER_CHECKS)
@pytest.mark.parametrize("denoiser", ["network", "oracle"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_keeps_the_protocol(name, denoiser, check):
    check(SAMPLERS[name], DENOISERS[denoiser], example())


def silent(x, sigma):
    with torch.no_grad():
        return x / (1 + sigma)


class TwoJacobians(torch.autograd.Function):
    """The identity, with a backward rule that is twice its forward rule."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.clone()


BROKEN = {
    "keeps_shape_dtype_device": lambda x, sigma: (x / (1 + sigma)).double(),
    "leaves_inputs_alone": lambda x, sigma: x.mul_(0.9) + 0 * sigma,
    "is_deterministic": lambda x, sigma: x + sigma * torch.randn_like(x),
    "reads_constant_map_as_scalar": lambda x, sigma: x / (1 + sigma.sum()),
    "uses_the_noise_level": lambda x, sigma: 0.9 * x,
    "answers_at_the_levels_it_knows": lambda x, sigma: (
        x / (1 + sigma) if float(sigma.max()) < 100 else x * float("nan")
    ),
    "treats_batch_items_alone": lambda x, sigma: x / (1 + sigma) - x.mean(),
    "lets_gradients_flow": silent,
    "derivatives_agree": lambda x, sigma: TwoJacobians.apply(x) / (1 + sigma),
}


@pytest.mark.parametrize("check", conformance.DENOISER_CHECKS)
def test_control_each_check_catches_a_broken_denoiser(check):
    with torch.random.fork_rng(), pytest.raises(AssertionError):
        check(BROKEN[check.__name__], example())


class Declared:
    """Shrinks the image, and says that it knows noise levels from 0.1 to 1."""

    def __init__(self, low, high):
        self.answers = (low, high)

    def sigma_range(self, x, sigma):
        return 0.1, 1.0

    def __call__(self, x, sigma):
        if not self.answers[0] <= float(sigma.max()) <= self.answers[1]:
            raise InputError("not a level I know")
        return x / (1 + sigma)


def test_a_declared_range_is_held_to():
    check = conformance.answers_at_the_levels_it_knows
    check(Declared(0.1, 1.0), example())
    for low, high in ((0.0, 1.0), (0.1, 1e9), (0.5, 1.0)):  # controls: answers below, above, refuses inside
        with pytest.raises(AssertionError):
            check(Declared(low, high), example())


class Misbehaved:
    """One step towards the estimate, with one promise broken."""

    stochastic = False

    def __init__(self, fault):
        self.fault = fault

    def evaluations(self, steps):
        return 1

    def __call__(self, denoiser, y, sigma, fractions, *, generator, cond=None, on_step=None):
        image = denoiser(y, sigma)
        match self.fault:
            case "sampler_keeps_shape_dtype_device":
                image = image.double()
            case "sampler_repeats_its_bits":
                image = image + sigma * torch.randn(y.shape, generator=generator)
            case "sampler_shares_noise_over_the_batch":
                image = image + sigma * torch.randn(y.shape, generator=generator)
            case "sampler_reads_constant_map_as_scalar":
                image = image * (1 + sigma.sum())
            case "sampler_lets_gradients_flow":
                image = image.detach()
            case "sampler_runs_without_a_graph":
                with torch.enable_grad():
                    image = image * torch.ones(1, requires_grad=True)
        return image


@pytest.mark.parametrize("check", conformance.SAMPLER_CHECKS)
def test_control_each_check_catches_a_broken_sampler(check):
    with pytest.raises(AssertionError):
        check(Misbehaved(check.__name__), DENOISERS["network"], example())
