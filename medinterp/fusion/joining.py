"""Several denoised images as one: each put onto a grid by one interpolation, then fused."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medinterp.fusion.fusers import Fused, Fuser, Image, Scale, Sigma, bring_to_scale
from medinterp.fusion.warp import Warp
from medinterp.volume import Grid


@dataclass(frozen=True, eq=False)
class Joining:
    """Where every image lies in the first one's patient space, and the fuser that joins them there.

    Args:
        fuser: joins them.
        grids: of each image, in the first one's patient space (a registered scan's grid is placed there, its voxels
            are not touched).
    """

    fuser: Fuser
    grids: Mapping[str, Grid]

    @property
    def reference(self) -> Grid:
        """The first image's grid, on which they are fused."""
        return next(iter(self.grids.values()))

    def carried(self, images: Mapping[str, Image], sigmas: Mapping[str, Sigma], onto: Grid | None = None) -> "Carried":
        """Return the images on one grid, the first one's unless given: each interpolated once."""
        target = self.reference if onto is None else onto
        warps = {m: Warp(self.grids[m], target) for m in images}
        moved = {m: warps[m](image) for m, image in images.items()}
        levels = {m: warps[m](s.expand_as(images[m])) if max(s.shape[2:]) > 1 else s for m, s in sigmas.items()}
        coverage = {m: warps[m].coverage(image) for m, image in images.items()}
        return Carried(self.fuser, moved, levels, coverage, target.spacing_mm)

    def __call__(self, images: Mapping[str, Image], sigmas: Mapping[str, Sigma]) -> Fused:
        """Return the fused image on the first one's grid."""
        return self.carried(images, sigmas).fuse()


@dataclass(frozen=True, eq=False)
class Carried:
    """Images on one grid, ready to be fused, all of them or some.

    Args:
        fuser: joins them.
        images: on the grid, zero where nothing was measured.
        sigmas: their uncertainty.
        coverage: 1 where each was measured.
        spacing_mm: of the grid.
    """

    fuser: Fuser
    images: Mapping[str, Image]
    sigmas: Mapping[str, Sigma]
    coverage: Mapping[str, Tensor]
    spacing_mm: tuple[float, float, float]

    def prepare(self, scales: Mapping[str, Scale] | None = None) -> "Ready":
        """Return the images prepared by the fuser, so that any of them can be joined.

        Args:
            scales: intensity mapping to take as given instead of measured.
        """
        offsets = getattr(self.fuser, "offsets", {})
        brought = bring_to_scale(self.images, self.sigmas, self.coverage, offsets, scales)
        return Ready(self.fuser, {m: self.fuser.prepare(part, self.spacing_mm) for m, part in brought.items()})

    def fuse(self, present: Collection[str] | None = None, scales: Mapping[str, Scale] | None = None) -> Fused:
        """Return the fused image of those present, all unless named; without any it is zero.

        Args:
            present: names of those that take part.
            scales: intensity mapping to take as given.
        """
        names = self.images if present is None else present
        if not names:
            return Fused(torch.zeros_like(next(iter(self.images.values()))), {}, {}, {})
        return self.prepare(scales).join(names)


@dataclass(frozen=True, eq=False)
class Ready:
    """Prepared images, of which any can be joined.

    Args:
        fuser: joins them.
        parts: what it prepared of each.
    """

    fuser: Fuser
    parts: Mapping[str, Any]

    def join(self, present: Collection[str]) -> Fused:
        """Return the fused image of those present, at least one."""
        return self.fuser.join({m: part for m, part in self.parts.items() if m in present})

    def image(self, present: Collection[str]) -> Tensor:
        """Return the same without its account."""
        return self.fuser.image({m: part for m, part in self.parts.items() if m in present})
