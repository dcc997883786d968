"""Diffusion networks with a known answer, and small random ones: what a wrapper of foreign networks is held to."""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medinterp.denoisers.monai_ddpm import DiffusionDenoiser
from medinterp.testing.oracles import LinearGaussian


class GaussianDiffusion(nn.Module):
    """What a diffusion network becomes that has learned the linear Gaussian world perfectly, in closed form.

    Called like ``DiffusionModelUNet``: it sees the state and the timestep, nothing else, so a wrapper that scales the
    state wrongly or is one timestep off gives another posterior mean than the world's.

    Args:
        world: the prior, in the network's own intensity unit.
        scheduler: whose ``alphas_cumprod`` and ``prediction_type`` it was "trained" with.
        shift: timesteps by which its label is misread: the control that must fail.
    """

    def __init__(self, world: LinearGaussian, scheduler: Any, *, shift: int = 0) -> None:
        super().__init__()
        signal = scheduler.alphas_cumprod.detach().double()
        self.world = world
        self.log_sigmas = ((1 - signal) / signal).sqrt().log()
        self.prediction = str(scheduler.prediction_type)
        self.shift = shift

    def sigma(self, timesteps: Shaped[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the noise level of each timestep; between timesteps its logarithm is linear."""
        place = (timesteps.double() + self.shift).clamp(0, len(self.log_sigmas) - 1)
        left = place.detach().floor().clamp(max=len(self.log_sigmas) - 2).long()
        below, above = self.log_sigmas[left], self.log_sigmas[left + 1]
        return (below + (place - left) * (above - below)).exp()

    def forward(self, state: Float[Tensor, "B 1 I J K"], timesteps: Tensor) -> Float[Tensor, "B 1 I J K"]:
        """Return the exact noise, clean image or velocity of a state sqrt(abar) x0 + sqrt(1 - abar) n."""
        sigma = self.sigma(timesteps).to(state.dtype).reshape(-1, 1, 1, 1, 1)
        grow = (1 + sigma.square()).sqrt()
        clean = self.world(grow * state, sigma)
        noise = (grow * state - clean) / sigma
        if self.prediction == "epsilon":
            return noise
        return clean if self.prediction == "sample" else (noise - sigma * clean) / grow


def random_diffusion(
    scheduler: Any,
    *,
    seed: int = 0,
    **options: Any,
) -> DiffusionDenoiser:
    """Return a tiny ``DiffusionModelUNet`` with random, frozen weights, wrapped; ``options`` go to the wrapper.

    A fresh network's closing convolutions are zero, which would make it ignore timestep and image alike: here every
    weight is drawn.
    """
    from monai.networks.nets import DiffusionModelUNet  # takes seconds to import: only those who ask pay

    with torch.random.fork_rng(devices=[]):  # the layers' own initialisation draws from the global generator
        torch.manual_seed(seed)
        network = DiffusionModelUNet(
            spatial_dims=3, in_channels=1, out_channels=1, num_res_blocks=1, channels=(4, 8), num_head_channels=4,
            attention_levels=(False, False), norm_num_groups=4, use_flash_attention=True,
        )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        size = (1.0 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data = parameter.data * (parameter.ndim == 1) + size * torch.randn(
            parameter.shape, generator=generator
        )
    return DiffusionDenoiser(network, scheduler, **options).eval().requires_grad_(False)
