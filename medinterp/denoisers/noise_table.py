"""The noise levels a diffusion network was trained at, read from its scheduler."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from medinterp.errors import ConfigError


@dataclass(frozen=True, eq=False)
class NoiseTable:
    """The noise levels that a diffusion network was trained at, by timestep.

    A scheduler's state at timestep t is sqrt(abar_t) x0 + sqrt(1 - abar_t) n. Divided by sqrt(abar_t) it is an image
    with noise sigma_t = sqrt((1 - abar_t) / abar_t), in the network's intensity unit. Timestep t is row t of the
    scheduler's ``alphas_cumprod``; the levels are those of its float32 table, which is what the network was trained on.

    Args:
        sigmas: noise level of every timestep, strictly increasing.
    """

    sigmas: Float64[Tensor, " T"]

    @classmethod
    def of(cls, scheduler: Any) -> "NoiseTable":
        """Copy the levels of a scheduler from ``monai.networks.schedulers`` (DDPM, DDIM or PNDM).

        Nothing else of the scheduler is used, so neither ``set_timesteps``, nor ``add_noise`` (which recasts the
        scheduler's table to the dtype of its input), nor ``clip_sample`` can change a result. Timesteps of no signal
        at all (abar 0) have no finite level and are left out.

        Raises:
            ConfigError: the scheduler has no such table, or its levels do not increase.
        """
        kept = getattr(scheduler, "alphas_cumprod", None)
        if not isinstance(kept, Tensor):
            raise ConfigError(
                f"{type(scheduler).__name__} has no table of noise levels (alphas_cumprod); "
                "give a DDPMScheduler, DDIMScheduler or PNDMScheduler"
            )
        signal = kept.detach().to("cpu", torch.float64, copy=True)
        sigmas = ((1 - signal) / signal)[signal > 0].sqrt()
        if len(sigmas) < 2 or not bool((sigmas.diff() > 0).all()) or not float(sigmas[0]) > 0:
            raise ConfigError(
                f"the scheduler's {len(kept)} noise levels do not increase from a positive one; with float32 tables a "
                "smallest beta below 1e-7 is lost to rounding: choose a larger beta_start or fewer timesteps"
            )
        return cls(sigmas)

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest noise level, in the network's intensity unit."""
        return float(self.sigmas[0]), float(self.sigmas[-1])

    @property
    def rounding_error(self) -> float:
        """Largest relative error of a noise level that is rounded to the nearest timestep's."""
        return float(torch.expm1(self.sigmas.log().diff().max() / 2))

    def timestep(self, sigma: Float[Tensor, " B"]) -> Float64[Tensor, " B"]:
        """Return where between the timesteps a noise level lies, linear in its logarithm; differentiable."""
        levels, wanted = self.sigmas.log().to(sigma.device), sigma.double().log()
        right = torch.searchsorted(levels, wanted.detach()).clamp(1, len(levels) - 1)
        share = (wanted - levels[right - 1]) / (levels[right] - levels[right - 1])
        return (right - 1 + share).clamp(0, len(levels) - 1)
