"""Training pairs: patches of real scans and synthetic phantoms, with random contrasts and simulated noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medinterp.noise.models import add_gaussian, add_rician


@dataclass(frozen=True)
class TrainingScan:
    """A scan to cut patches from: voxels (I, J, K) scaled to about [0, 1] and the noise it has of its own."""

    voxels: Float[Tensor, "I J K"]
    own_sigma: float
    weight: float = 1.0


@dataclass(frozen=True)
class Batch:
    """One training batch: clean and noisy images (B, 1, I, J, K) and the sigma map the network is told."""

    clean: Tensor
    noisy: Tensor
    sigma: Tensor


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw one number uniformly from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def smooth_field(shape: Sequence[int], cells: int, generator: torch.Generator) -> Float[Tensor, "I J K"]:
    """Draw a smooth random field of unit variance with about ``cells`` independent cells along each axis."""
    coarse = torch.randn(1, 1, *(min(cells + 2, size) for size in shape), generator=generator)
    field = functional.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]
    return (field - field.mean()) / field.std().clamp_min(1e-6)


def phantom(size: int, generator: torch.Generator) -> Float[Tensor, "I J K"]:
    """Draw a synthetic anatomy: nested random labels with random contrasts, texture, bias field and partial volume.

    Labels are level sets of smooth random fields at several scales, thin sheets (folds) and small blobs (vessels,
    lesions), drawn on a grid twice as fine and averaged down, so that borders carry partial volume.
    """
    fine = (2 * size,) * 3
    image = torch.full(fine, uniform(0.2, 0.9, generator))
    for _ in range(int(uniform(3, 7, generator))):
        field = smooth_field(fine, int(uniform(2, 24, generator)), generator)
        kind, level = uniform(0, 1, generator), uniform(-0.8, 1.5, generator)
        width = uniform(0.05, 0.4, generator)
        region = (field - level).abs() < width if kind < 0.45 else field > level  # sheets, else bulk
        value = uniform(0.05, 1.0, generator)
        if uniform(0, 1, generator) < 0.3:
            texture = smooth_field(fine, int(uniform(8, 48, generator)), generator)
            image = torch.where(region, value * (1 + uniform(0.02, 0.15, generator) * texture), image)
        else:
            image = torch.where(region, torch.full_like(image, value), image)
    if uniform(0, 1, generator) < 0.5:  # air around the body
        image = torch.where(smooth_field(fine, 2, generator) > uniform(0.3, 1.2, generator), 0.0, image)
    image = functional.avg_pool3d(image[None, None], 2)[0, 0]
    bias = torch.exp(uniform(0.0, 0.25, generator) * smooth_field(image.shape, 2, generator))
    return (image * bias).clamp(0, 1.5)


def random_contrast(patch: Tensor, generator: torch.Generator) -> Tensor:
    """Pass intensities through a random piecewise-linear curve, zero staying zero: another contrast, same anatomy."""
    draw = uniform(0, 1, generator)
    if draw < 0.6:
        return patch
    if draw < 0.8:
        return patch.clamp_min(0) ** uniform(0.6, 1.6, generator)
    knots = torch.cat([torch.zeros(1), 0.1 + 0.9 * torch.rand(5, generator=generator)])
    position = patch.clamp(0, 1.25) / 1.25 * 5
    left = position.floor().clamp(max=4).long()
    return knots[left] + (position - left) * (knots[left + 1] - knots[left])


def random_pose(patch: Tensor, generator: torch.Generator) -> Tensor:
    """Flip and permute the axes of (I, J, K) at random: the 48 poses of a cube."""
    order = torch.randperm(3, generator=generator).tolist()
    flips = [axis for axis in range(3) if uniform(0, 1, generator) < 0.5]
    return patch.permute(order).flip(flips)


def _cut(scan: TrainingScan, size: int, generator: torch.Generator) -> Tensor:
    for _ in range(8):  # prefer patches that hold tissue; air is cheap to learn
        start = [int(uniform(0, extent - size + 1, generator)) for extent in scan.voxels.shape]
        i, j, k = start
        patch = scan.voxels[i : i + size, j : j + size, k : k + size]
        if (patch > 0.1).float().mean() > 0.25:
            break
    return patch


@dataclass(frozen=True)
class PatchSource:
    """Draw training batches from scans and phantoms.

    Args:
        scans: real scans and phantoms to cut from.
        sigma_range: noise levels in units of the scan's bright tissue (about 1), drawn log-uniformly.
        rician: share of samples with Rician instead of Gaussian noise.
        own_noise_ratio: a scan is used only at sigmas this many times above its own noise.
    """

    scans: Sequence[TrainingScan]
    sigma_range: tuple[float, float] = (0.012, 0.3)
    rician: float = 0.6
    own_noise_ratio: float = 2.5

    def draw(self, batch: int, size: int, generator: torch.Generator) -> Batch:
        """Return ``batch`` samples of ``size`` cubed."""
        samples = [self._sample(size, generator) for _ in range(batch)]
        return Batch(*(torch.stack(parts)[:, None] for parts in zip(*samples, strict=True)))

    def _sample(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        low, high = (math.log(bound) for bound in self.sigma_range)
        level = math.exp(uniform(low, high, generator))
        fit = [s for s in self.scans if s.own_sigma * self.own_noise_ratio <= level]
        pick = torch.multinomial(torch.tensor([s.weight for s in fit]), 1, generator=generator).item()
        clean = random_contrast(random_pose(_cut(fit[int(pick)], size, generator), generator), generator)
        brightness = uniform(0.5, 1.2, generator)
        clean = (clean * brightness)[None, None]
        sigma = torch.full_like(clean, level * brightness)
        if uniform(0, 1, generator) < 0.3:
            sigma = sigma * torch.exp(0.35 * smooth_field(clean.shape[2:], 2, generator))[None, None]
        add = add_rician if uniform(0, 1, generator) < self.rician else add_gaussian
        noisy = add(clean, sigma, generator=generator)
        told = sigma * math.exp(0.04 * float(torch.randn((), generator=generator)))  # estimates are never exact
        return clean[0, 0], noisy[0, 0], told[0, 0]
