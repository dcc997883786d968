"""Small structures planted in training images: lesions and vessels, so that a prior does not learn to erase them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.training.draws import chance, log_uniform, uniform, whole


def plant_lesions(
    image: Float[Tensor, "I J K"], sigma: float, count: int, generator: torch.Generator
) -> Float[Tensor, "I J K"]:
    """Return the image with ellipsoids of 1 to 6 voxels' radius in its tissue, brighter or darker than around them.

    Their contrast is 1 to 8 times ``sigma``, the noise that will be added, but at most half of bright tissue (1): the
    range in which a denoiser that has never seen lesions takes them for noise.
    """
    tissue = (image > 0.12).nonzero()
    if len(tissue) == 0:
        return image
    image = image.clone()
    for _ in range(count):
        centre = tissue[whole(0, len(tissue) - 1, generator)] + torch.rand(3, generator=generator) - 0.5
        radii = log_uniform(1.0, 6.0, generator) * (0.7 + 0.6 * torch.rand(3, generator=generator))
        contrast = min(0.5, sigma * log_uniform(1.0, 8.0, generator)) * (1 if chance(0.5, generator) else -1)
        low = [max(0, math.floor(float(c - r)) - 1) for c, r in zip(centre, radii, strict=True)]
        high = [math.ceil(float(c + r)) + 2 for c, r in zip(centre, radii, strict=True)]
        region = image[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        cover = _ellipsoid(region.shape, centre - torch.tensor(low), radii)
        region += contrast * cover * (region > 0.06)  # a lesion grows in tissue, not in air
    return image.clamp_min(0)


def _ellipsoid(shape: torch.Size, centre: Tensor, radii: Tensor) -> Float[Tensor, "I J K"]:
    """Return how much of each voxel an ellipsoid covers, to about a tenth of a voxel."""
    square = torch.zeros(shape)
    for axis, size in enumerate(shape):
        along = ((torch.arange(size) - centre[axis]) / radii[axis]).square()
        square = square + along.reshape([-1 if a == axis else 1 for a in range(3)])
    return ((1 - square.sqrt()) * radii.mean() + 0.5).clamp(0, 1)


def plant_vessels(
    image: Float[Tensor, "I J K"], count: int, generator: torch.Generator, *, widest: float = 2.0
) -> Float[Tensor, "I J K"]:
    """Return the image with bent tubes through it, of 0.4 to ``widest`` voxels' radius, bright or dark."""
    cover = torch.zeros(image.numel())
    values = torch.zeros(image.numel())
    for _ in range(count):
        where, share = _tube(image.shape, log_uniform(0.4, widest, generator), generator)
        value = uniform(0.6, 1.3, generator) if chance(0.7, generator) else uniform(0.0, 0.2, generator)
        cover.scatter_reduce_(0, where, share, "amax")
        values[where] = value
    cover, values = cover.reshape(image.shape), values.reshape(image.shape)
    return image + cover * (values - image)


def _tube(shape: torch.Size, radius: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the flat indices of the voxels near a bent line, and how much of each the tube around it covers."""
    size = torch.tensor(shape, dtype=torch.float32)
    a, b, c = (size * (1.4 * torch.rand(3, generator=generator) - 0.2) for _ in range(3))
    t = torch.linspace(0, 1, int(3 * float(size.max())))[
        :, None
    ]  # steps under half a voxel: the curve is at most 1.4^2
    line = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
    reach = math.ceil(radius + 0.5)
    offset = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 3)
    voxel = line.round().long()[:, None] + offset
    share = (radius + 0.5 - (voxel - line[:, None]).norm(dim=2)).clamp(0, 1)
    kept = (share > 0) & ((voxel >= 0) & (voxel < size)).all(dim=2)
    i, j, k = voxel[kept].unbind(1)
    return (i * shape[1] + j) * shape[2] + k, share[kept]
