"""Known answers of bias-free networks: exact accounts D = J_y y + J_sigma sigma, and what breaks them.

Every function takes any denoiser, so that a model report can print the figures of a trained one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.denoisers.base import Denoiser, evaluate, jacobian_product, level_product


@dataclass(frozen=True)
class EulerAccount:
    """How a denoised image divides into what the scan and what the assumed noise level brought.

    Args:
        residual: norm of D - J_y y - J_sigma sigma over the norm of D; rounding for a bias-free network.
        sigma_share: norm of J_sigma sigma over the norm of D.
        sigma_share_of_mean: mean of J_sigma sigma over the mean of D.
    """

    residual: float
    sigma_share: float
    sigma_share_of_mean: float


def euler_account(
    denoiser: Denoiser, y: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"]
) -> EulerAccount:
    """Return Euler's identity for homogeneous functions, and the share owed to the noise level (oracle 2)."""
    image, from_scan = jacobian_product(denoiser, y, sigma, y)
    from_level = level_product(denoiser, y, sigma)
    return EulerAccount(
        residual=float((image - from_scan - from_level).norm() / image.norm()),
        sigma_share=float(from_level.norm() / image.norm()),
        sigma_share_of_mean=float(from_level.mean() / image.mean()),
    )


def homogeneity_error(
    denoiser: Denoiser,
    y: Float[Tensor, "B C I J K"],
    sigma: Float[Tensor, "#B #C #I #J #K"],
    factor: float = 3.0,
) -> float:
    """Return the relative difference of D(a y, a sigma) and a D(y, sigma): 0 when units do not matter."""
    expected = factor * evaluate(denoiser, y, sigma)
    return float((evaluate(denoiser, factor * y, factor * sigma) - expected).norm() / expected.norm())


def ray_integral_error(
    denoiser: Denoiser,
    y: Float[Tensor, "B C I J K"],
    sigma: Float[Tensor, "#B #C #I #J #K"],
    weights: Float[Tensor, "B C I J K"],
    *,
    nodes: int = 4,
) -> float:
    """Return the relative difference of integrated gradients from zero and input x gradient, for one weighted sum.

    The path scales the scan and the noise level together; on a bias-free network the gradient is constant along it.
    """
    points, shares = np.polynomial.legendre.leggauss(nodes)
    at_end = _gradient(denoiser, y, sigma, weights)
    integral = torch.zeros_like(y)
    for point, share in zip((points + 1) / 2, shares / 2, strict=True):
        integral = integral + float(share) * _gradient(denoiser, float(point) * y, float(point) * sigma, weights)
    return float((y * (integral - at_end)).norm() / (y * at_end).norm())


def jacobian_asymmetry(
    denoiser: Denoiser,
    y: Float[Tensor, "B C I J K"],
    sigma: Float[Tensor, "#B #C #I #J #K"],
    *,
    generator: torch.Generator,
) -> float:
    """Return the norm of Jv - J'v over the norm of Jv for a white v: 0 for a posterior mean under uniform noise.

    The cheapest sign that a network is not yet the posterior mean it claims to be. Assumes a scalar ``sigma``.
    """
    probe = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=generator.device).to(y.device)
    _, forward = jacobian_product(denoiser, y, sigma, probe)
    return float((forward - _gradient(denoiser, y, sigma, probe)).norm() / forward.norm())


def _gradient(denoiser: Denoiser, y: Tensor, sigma: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of sum(weights * D) with respect to the scan: the Jacobian's transpose times weights."""
    start = y.detach().requires_grad_()
    (gradient,) = torch.autograd.grad((weights * evaluate(denoiser, start, sigma)).sum(), start)
    return gradient
