"""The central noun: a denoiser is (x, sigma) to the expected clean image, same unit in and out."""

import warnings
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.errors import InputError


@runtime_checkable
class Denoiser(Protocol):
    """Estimate E[x0 | x] from x = x0 + sigma n, with n white and Gaussian.

    A network, a classical filter, a tiling wrapper or a foreign diffusion model: whatever keeps this promise can be
    sampled from and explained. It keeps no state between calls, draws no random numbers, leaves gradients alone (no
    ``no_grad``) and follows dtype and device of ``x``. ``medinterp.testing.conformance`` checks all of it.
    """

    def __call__(
        self,
        x: Float[Tensor, "B C I J K"],
        sigma: Float[Tensor, "#B #C #I #J #K"],
        *,
        cond: Float[Tensor, "B C2 I J K"] | None = None,
    ) -> Float[Tensor, "B C I J K"]:
        """Return the estimate, in the unit of ``x``.

        Args:
            x: noisy image.
            sigma: noise standard deviation in the unit of ``x``; a scalar as shape (1, 1, 1, 1, 1), or a map, in which
                0 marks voxels that hold no noise (``evaluate`` returns them as they are).
            cond: further images on the same grid, for denoisers that use them.
        """
        ...


def evaluate(
    denoiser: Denoiser,
    x: Float[Tensor, "B C I J K"],
    sigma: Float[Tensor, "#B #C #I #J #K"],
    cond: Float[Tensor, "B C2 I J K"] | None = None,
) -> Float[Tensor, "B C I J K"]:
    """Call a denoiser; one that knows no ``cond`` argument serves as long as there is none to pass.

    Where a map says that there is no noise, the clean image is the image, whatever a denoiser makes of it.
    """
    estimate = denoiser(x, sigma) if cond is None else denoiser(x, sigma, cond=cond)
    if max(sigma.shape[2:]) == 1:
        return estimate
    return torch.where(sigma > 0, estimate, x)


def one_level(
    sigma: Float[Tensor, "#B #C #I #J #K"], over: tuple[int, ...] = (2, 3, 4)
) -> Float[Tensor, "#B #C 1 1 1"]:
    """Return the one noise level of the noisy voxels, for denoisers that know no more than one.

    Args:
        sigma: a scalar or a map, which may be 0 in places.
        over: the axes over which it must be the same.

    Raises:
        InputError: it varies.
    """
    noisy, highest = sigma > 0, sigma.amax(dim=over, keepdim=True)
    if bool((noisy & (sigma < highest)).any()):
        raise InputError(
            f"a noise map from {float(sigma[noisy].min()):.4g} to {float(highest.max()):.4g}: this denoiser takes one "
            "noise level for the whole volume; give one number, or use a model that takes maps"
        )
    return sigma.sum(dim=over, keepdim=True) / noisy.sum(dim=over, keepdim=True).clamp_min(1)


def scalar_sigma(sigma: float, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, "1 1 1 1 1"]:
    """Return one noise level as a denoiser takes it, with dtype and device of ``image``."""
    return torch.full((1, 1, 1, 1, 1), sigma, dtype=image.dtype, device=image.device)


def jacobian_product(
    denoiser: Denoiser,
    x: Float[Tensor, "B C I J K"],
    sigma: Float[Tensor, "#B #C #I #J #K"],
    tangent: Float[Tensor, "B C I J K"],
    cond: Float[Tensor, "B C2 I J K"] | None = None,
) -> tuple[Float[Tensor, "B C I J K"], Float[Tensor, "B C I J K"]]:
    """Return D(x, sigma) and its Jacobian with respect to ``x`` applied to ``tangent``, in one forward pass."""
    _load_forward_mode()
    result = torch.func.jvp(lambda z: evaluate(denoiser, z, sigma, cond), (x,), (tangent,))
    return result[0], result[1]


def level_product(
    denoiser: Denoiser, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"]
) -> Float[Tensor, "B C I J K"]:
    """Return J_sigma sigma: the part of D(x, sigma) that a homogeneous denoiser owes to the assumed noise level."""
    _load_forward_mode()
    result = torch.func.jvp(lambda level: evaluate(denoiser, x, level), (sigma,), (sigma,))
    return result[1]


@lru_cache(maxsize=1)
def _load_forward_mode() -> None:
    """Let torch load its forward-mode rules, once: its loader makes a call that torch itself has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.neg, (torch.zeros(1),), (torch.zeros(1),))
