"""Non-local means steered by a prefiltered image (PRI-NLM3D): what looks alike after ODCT3D is averaged, in torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medinterp.denoisers.odct import ODCT3D, per_image
from medinterp.errors import ConfigError

TILE = 32
"""Voxels along each edge of the tiles; with a graph, the one of a single tile is in memory at a time."""
LEAST = -60.0
"""Least exponent of a weight: below float32's last bit, and above the subnormal numbers, which are slow."""


@dataclass(frozen=True)
class PRINLM3D:
    """Average voxels whose value and surroundings are alike in an image that ODCT3D has cleaned.

    Alike is measured on the guide g and its 3x3x3 mean m, which do not change when the patch is turned:
    exp(-((g_i - g_j)² + 3 (m_i - m_j)²) / (4 (strength sigma_i)²)). Homogeneous of degree 1 in (x, sigma), and
    differentiable: the dependence of the weights on the image counts. Values beyond the border repeat the border's.

    Args:
        strength: similarity that counts, in units of sigma.
        search: half width of the neighbourhood searched.
        guide: what cleans the image that the weights are taken from.
        rician: average squares and subtract 2 sigma², which undoes the bias of magnitudes. Without it, stabilise
            magnitudes first.

    Source:
        Manjón et al., "New methods for MRI denoising based on sparseness and self-similarity", Med Image Anal 16
        (2012) 18, eqs 5-7.
    """

    strength: float = 0.4
    search: int = 3
    guide: ODCT3D = field(default_factory=ODCT3D)
    rician: bool = False

    def __post_init__(self) -> None:
        if self.strength <= 0 or self.search < 1:
            raise ConfigError(f"strength {self.strength}, search {self.search}: expected above 0, and at least 1")

    @property
    def radius(self) -> int:
        """Voxels around an output voxel that can influence it."""
        return self.search + 1 + self.guide.radius

    def __call__(
        self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, cond: Tensor | None = None
    ) -> Float[Tensor, "B C I J K"]:
        """Return the filtered image, in the unit of ``x``; ``cond`` is accepted and unused."""
        images, levels = x.flatten(0, 1)[:, None], per_image(sigma, x)
        guide = self.guide(images, levels)
        around = functional.avg_pool3d(_extend(guide, 1), 3, stride=1)
        features = torch.cat([guide, 3**0.5 * around], dim=1)
        noisy = levels > 0
        scale = -0.25 / (self.strength * torch.where(noisy, levels, 1.0)).square()
        mean = self._in_tiles(features, images.square() if self.rician else images, scale)
        if self.rician:
            mean = _root(mean - 2 * levels.square())
        return torch.where(noisy, mean, images).reshape(x.shape)

    def _in_tiles(self, features: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        """Average tile by tile; a tile's graph, which holds every shift, is made when it is needed and then dropped."""
        shape, reach = values.shape[2:], self.search
        far_features, far_values = _extend(features, reach), _extend(values, reach)
        parts = []
        for start in product(*(range(0, size, TILE) for size in shape)):
            stop = [min(a + TILE, size) for a, size in zip(start, shape, strict=True)]
            level = _box(scale, start, stop) if max(scale.shape[2:]) > 1 else scale
            far = [size + 2 * reach for size in stop]
            given = _box(far_features, start, far), _box(far_values, start, far), level
            if torch.is_grad_enabled() and far_features.requires_grad:
                parts.append(checkpoint(self._average, *given, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._average(*given))
        for dim in (4, 3, 2):  # the last axis varies fastest
            count = -(-shape[dim - 2] // TILE)
            parts = [torch.cat(parts[n : n + count], dim=dim) for n in range(0, len(parts), count)]
        return parts[0]

    def _average(self, features: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        """Return the weighted mean in each voxel's neighbourhood, for the voxels ``search`` away from the border."""
        reach = self.search
        shape = [size - 2 * reach for size in values.shape[2:]]
        near = _box(features, [reach] * 3, [reach + size for size in shape])
        total = weights = torch.zeros((), dtype=values.dtype, device=values.device)
        for offset in product(range(2 * reach + 1), repeat=3):
            stop = [a + size for a, size in zip(offset, shape, strict=True)]
            apart = (near - _box(features, offset, stop)).square().sum(dim=1, keepdim=True)
            weight = torch.exp((scale * apart).clamp_min(LEAST))
            total, weights = total + weight * _box(values, offset, stop), weights + weight
        return total / weights


def _box(image: Tensor, start: Sequence[int], stop: Sequence[int]) -> Tensor:
    i, j, k = (slice(a, b) for a, b in zip(start, stop, strict=True))
    return image[:, :, i, j, k]


def _extend(image: Tensor, reach: int) -> Tensor:
    return functional.pad(image, [reach] * 6, mode="replicate")


def _root(square: Tensor) -> Tensor:
    """Return sqrt(max(square, 0)) with gradient 0, not NaN, where nothing is left."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
