"""Forward noise models: how a clean image becomes the measured one."""

import torch
from jaxtyping import Float
from torch import Tensor


def add_gaussian(
    x0: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, generator: torch.Generator
) -> Float[Tensor, "B C I J K"]:
    """Add white Gaussian noise of standard deviation ``sigma`` (scalar or map, unit of the image)."""
    return x0 + sigma * torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)


def add_rician(
    x0: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, generator: torch.Generator
) -> Float[Tensor, "B C I J K"]:
    """Return the magnitude of a complex signal with real part ``x0`` and noise ``sigma`` in both channels.

    Source:
        Gudbjartsson & Patz, Magn Reson Med 34 (1995), eq. 1.
    """
    real = add_gaussian(x0, sigma, generator=generator)
    imaginary = add_gaussian(torch.zeros_like(x0), sigma, generator=generator)
    return torch.hypot(real, imaginary)
