"""Training losses."""

import torch
from jaxtyping import Float
from torch import Tensor


def log_relative_mse(
    estimate: Float[Tensor, "B C I J K"], clean: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"]
) -> Float[Tensor, ""]:
    """Return the batch mean of log(MSE / sigma^2), so that every noise level and contrast counts equally in dB."""
    error = (estimate - clean).square().flatten(1).mean(dim=1)
    level = sigma.square().flatten(1).mean(dim=1)
    return torch.log(error / level + 1e-6).mean()
