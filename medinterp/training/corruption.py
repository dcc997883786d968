"""What is done to a clean image in training: a noise level for every voxel, a noise model, and a told level."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.noise.models import add_gaussian, add_rician
from medinterp.training.draws import chance, log_uniform, smooth_field, uniform, whole


@dataclass(frozen=True)
class Corruption:
    """Draw noise as MRI scanners make it.

    Args:
        sigma_range: noise levels in units of bright tissue, drawn log-uniformly.
        rician: share of samples with Rician noise; the rest has Gaussian noise.
        varying: share of samples whose noise level varies over space.
        told_error: relative error (one standard deviation) of the noise level that the network is told.
        misled: share of samples in which that error is four times as large.
    """

    sigma_range: tuple[float, float] = (0.01, 0.3)
    rician: float = 0.6
    varying: float = 0.35
    told_error: float = 0.04
    misled: float = 0.1

    def level(self, generator: torch.Generator) -> float:
        """Draw a noise level."""
        return log_uniform(*self.sigma_range, generator)

    def sigma_map(self, level: float, shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "I J K"]:
        """Return a noise level for every voxel: the same everywhere, smoothly varying, or like parallel imaging's."""
        kind = uniform(0.0, 1.0, generator)
        if kind >= self.varying:
            return torch.full(tuple(shape), level)
        if kind < self.varying / 2:
            return level * torch.exp(0.35 * smooth_field(shape, 2, generator))
        return level * g_factor(shape, generator)

    def apply(
        self, clean: Float[Tensor, "I J K"], sigma: Float[Tensor, "I J K"], generator: torch.Generator
    ) -> Float[Tensor, "I J K"]:
        """Return the image with noise of a randomly chosen model."""
        add = add_rician if chance(self.rician, generator) else add_gaussian
        return add(clean[None, None], sigma[None, None], generator=generator)[0, 0]

    def told(self, sigma: Float[Tensor, "I J K"], generator: torch.Generator) -> Float[Tensor, "I J K"]:
        """Return the noise level that the network is told: estimates are never exact."""
        error = self.told_error * (4 if chance(self.misled, generator) else 1)
        return sigma * math.exp(error * float(torch.randn((), generator=generator)))


def g_factor(shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "I J K"]:
    """Draw a noise amplification map like parallel imaging's: 1 at the rim, up to 3 inside, in bands where images fold.

    A bell around a random centre times raised cosines along one random axis: the shape of published maps, not a coil
    simulation.

    Source:
        Pruessmann et al., "SENSE", Magn Reson Med 42 (1999): noise is larger by g where aliased voxels are separated.
    """
    axis, folds = whole(0, 2, generator), uniform(0.5, 3.0, generator)
    phase, square = uniform(0.0, 1.0, generator), torch.zeros(tuple(shape))
    bands = torch.ones(())
    for a, size in enumerate(shape):
        place = torch.arange(size).div(size).reshape([-1 if b == a else 1 for b in range(3)])
        square = square + ((place - uniform(0.1, 0.9, generator)) / uniform(0.3, 1.0, generator)).square()
        if a == axis:
            bands = 0.5 + 0.5 * torch.cos(2 * math.pi * (folds * place + phase))
    return 1 + uniform(0.2, 2.0, generator) * torch.exp(-square) * bands
