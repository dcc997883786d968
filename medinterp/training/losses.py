"""Training losses."""

import torch
from jaxtyping import Float
from torch import Tensor


def log_relative_mse(
    estimate: Float[Tensor, "B C I J K"], clean: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"]
) -> Float[Tensor, ""]:
    """Return the batch mean of log(MSE / sigma^2), so that every noise level and contrast counts equally in dB.

    Finite for a perfect estimate, for an image of zeros and for zero noise.
    """
    error = (estimate - clean).square().flatten(1).mean(dim=1)
    level = sigma.square().flatten(1).mean(dim=1).clamp_min(1e-12)
    return torch.log(error / level + 1e-6).mean()
