"""Fusers: several denoised modalities on one grid to one image, linear for frozen weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.errors import InputError

Image: TypeAlias = Float[Tensor, "B C I J K"]
Sigma: TypeAlias = Float[Tensor, "#B #C #I #J #K"]
Coverage: TypeAlias = Float[Tensor, "1 1 I J K"]
Spacing: TypeAlias = tuple[float, float, float]

LEAST_NOISE = 1e-4
"""Share of bright tissue below which noise counts as this much: no scan is free of it, a synthetic one may be."""


@dataclass(frozen=True)
class Scale:
    """How a modality's own unit becomes the fused image's: ``(value + offset) / level``.

    Args:
        offset: added first, in the modality's unit (for CT +1000 puts air at zero).
        level: value that becomes 1: the bright tissue's.
    """

    offset: float
    level: float


@dataclass(frozen=True, eq=False)
class Fused:
    """A fused image and its account.

    Args:
        image: the sum of the contributions, no unit, bright tissue at about 1.
        contributions: what each modality adds at every voxel; constant weights make each a linear map of its modality.
        weights: share of the decision that each modality has at every voxel, 0 to 1.
        scales: how each modality's unit was mapped.
    """

    image: Tensor
    contributions: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    scales: Mapping[str, Scale]


@dataclass(frozen=True, eq=False)
class Scaled:
    """One modality in the fused image's scale.

    Args:
        image: no unit, bright tissue at about 1, zero where nothing was measured.
        variance: its mean variance in this scale, one number; a constant.
        coverage: 1 where it was measured, else 0.
        scale: how its unit was mapped.
    """

    image: Image
    variance: Tensor
    coverage: Coverage
    scale: Scale


@runtime_checkable
class Fuser(Protocol):
    """Joins denoised modalities on one grid; linear in them once weights and scales are frozen.

    In two steps, so that every subset of the modalities can be joined without preparing each anew.
    """

    def prepare(self, modality: Scaled, spacing_mm: Spacing) -> Any:
        """Return what the fuser needs of one modality, whoever it is joined with."""

    def join(self, parts: Mapping[str, Any]) -> Fused:
        """Return the fused image of prepared modalities, and its account."""

    def image(self, parts: Mapping[str, Any]) -> Tensor:
        """Return the fused image alone: the same up to rounding, and cheaper where the account costs."""


def fuse(
    fuser: Fuser,
    images: Mapping[str, Image],
    sigmas: Mapping[str, Sigma],
    coverage: Mapping[str, Coverage],
    *,
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
    scales: Mapping[str, Scale] | None = None,
) -> Fused:
    """Return the fused image and its account.

    Args:
        fuser: joins them.
        images: denoised, by modality.
        sigmas: standard deviation of what is uncertain in each: its posterior's, or its noise as an upper bound.
        coverage: 1 where a modality was measured, else 0.
        spacing_mm: of the grid.
        scales: taken as given instead of measured; the same scales make images of subsets comparable.

    Raises:
        InputError: a modality has no voxel above zero.
    """
    brought = bring_to_scale(images, sigmas, coverage, getattr(fuser, "offsets", {}), scales)
    return fuser.join({m: fuser.prepare(modality, spacing_mm) for m, modality in brought.items()})


def bring_to_scale(
    images: Mapping[str, Image],
    sigmas: Mapping[str, Sigma],
    coverage: Mapping[str, Coverage],
    offsets: Mapping[str, float],
    scales: Mapping[str, Scale] | None = None,
) -> dict[str, Scaled]:
    """Return every modality in the fused image's scale, measured unless given; see ``fuse``.

    Raises:
        InputError: a modality has no voxel above zero.
    """
    used = measure_scales(images, coverage, offsets) if scales is None else scales
    return {
        m: Scaled(
            (image + used[m].offset * coverage[m]) / used[m].level,
            relative_variance(m, sigmas, coverage, used),
            coverage[m],
            used[m],
        )
        for m, image in images.items()
    }


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

    def prepare(self, modality: Scaled, spacing_mm: Spacing) -> Scaled:
        """Return the modality as it is; see ``Fuser``."""
        del spacing_mm  # voxels are averaged one by one
        return modality

    def join(self, parts: Mapping[str, Scaled]) -> Fused:
        """Return the weighted average; see ``Fuser``."""
        precision = {m: part.coverage / part.variance for m, part in parts.items()}
        total = torch.stack(list(precision.values())).sum(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
        weights = {m: precision[m] / total for m in parts}
        shares = {m: weights[m] * part.image for m, part in parts.items()}
        return summed(shares, weights, {m: part.scale for m, part in parts.items()})

    def image(self, parts: Mapping[str, Scaled]) -> Tensor:
        """Return the weighted average; see ``Fuser``."""
        return self.join(parts).image


def summed(contributions: Mapping[str, Tensor], weights: Mapping[str, Tensor], scales: Mapping[str, Scale]) -> Fused:
    """Return the fused image as the sum of what each modality adds."""
    return Fused(torch.stack(list(contributions.values())).sum(dim=0), contributions, weights, scales)


def measure_scales(
    images: Mapping[str, Image], coverage: Mapping[str, Coverage], offsets: Mapping[str, float]
) -> dict[str, Scale]:
    """Return each modality's scale: its offset; as level the 98th percentile of what exceeds a tenth of the largest.

    Raises:
        InputError: a modality has no voxel above zero.
    """
    found = {}
    for name, image in images.items():
        offset = float(offsets.get(name, 0.0))
        shifted = (image.detach() + offset) * coverage[name]
        foreground = shifted[shifted > 0.1 * shifted.max()]
        if foreground.numel() == 0 or shifted.max() <= 0:
            raise InputError(f"modality '{name}' has no voxel above zero; nothing to fuse")
        rank = max(1, int(0.98 * foreground.numel()))
        found[name] = Scale(offset, float(foreground.kthvalue(rank).values))
    return found


def relative_variance(
    name: str, sigmas: Mapping[str, Sigma], coverage: Mapping[str, Coverage], scales: Mapping[str, Scale]
) -> Tensor:
    """Return a modality's mean variance in the fused image's scale, never below what any scan has."""
    sigma, seen = sigmas[name].detach(), coverage[name]
    per_voxel = max(sigma.shape[2:]) > 1
    mean = (sigma * seen).sum() / seen.sum().clamp_min(1) if per_voxel else sigma.mean()
    return (mean / scales[name].level).clamp_min(LEAST_NOISE) ** 2
