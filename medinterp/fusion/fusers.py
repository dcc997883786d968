"""Fusers: several denoised modalities on one grid to one image, linear for frozen weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.errors import InputError

LEAST_NOISE = 1e-4
"""Share of bright tissue below which noise counts as this much: no scan is free of it, a synthetic one may be."""


@dataclass(frozen=True)
class VarianceWeighted:
    """Average of the modalities on a common scale, each weighted by its signal-to-noise ratio squared.

    Every modality is first divided by its bright level (98th percentile of the voxels above a tenth of the maximum,
    after ``offset`` is added), which makes units commensurable; the weight of each is (bright level / sigma)^2,
    normalised over the modalities that cover a voxel. Level and weights are constants for differentiation: the
    fused image is a linear map of the denoised ones, and the contributions sum to it exactly.

    Args:
        offsets: added to a modality by name before scaling (for CT +1000 puts air at zero).
    """

    offsets: Mapping[str, float] = field(default_factory=dict)

    def __call__(
        self,
        images: Mapping[str, Float[Tensor, "B C I J K"]],
        sigmas: Mapping[str, Float[Tensor, "#B #C #I #J #K"]],
        coverage: Mapping[str, Float[Tensor, "1 1 I J K"]],
    ) -> Float[Tensor, "B C I J K"]:
        """Return the fused image, dimensionless, bright tissue at about 1.

        Raises:
            InputError: a modality has no positive voxel.
        """
        return torch.stack(list(self.contributions(images, sigmas, coverage).values())).sum(dim=0)

    def contributions(
        self, images: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], coverage: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return what each modality adds to the fused image; they sum to it."""
        gains = self.gains(images, sigmas, coverage)
        return {m: gains[m] * (image + self.offsets.get(m, 0.0) * coverage[m]) for m, image in images.items()}

    def gains(
        self, images: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], coverage: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the frozen factor of each modality at every voxel (the diagonal of L_m)."""
        level = {m: self._bright_level(m, image.detach(), coverage[m]) for m, image in images.items()}
        precision = {
            m: coverage[m] * (level[m] / sigmas[m].detach().mean().clamp_min(LEAST_NOISE * level[m])) ** 2
            for m in images
        }
        total = torch.stack(list(precision.values())).sum(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
        return {m: precision[m] / total / level[m] for m in images}

    def _bright_level(self, name: str, image: Tensor, coverage: Tensor) -> Tensor:
        shifted = (image + self.offsets.get(name, 0.0)) * coverage
        foreground = shifted[shifted > 0.1 * shifted.max()]
        if foreground.numel() == 0 or shifted.max() <= 0:
            raise InputError(f"modality '{name}' has no voxel above zero; nothing to fuse")
        rank = max(1, int(0.98 * foreground.numel()))
        return foreground.kthvalue(rank).values
