"""Several denoised images as one: each put onto a grid by one interpolation, then fused."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medinterp.fusion.fusers import Fused, Fuser, Image, Scale, Sigma
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

    def fuse(self, present: Collection[str] | None = None, scales: Mapping[str, Scale] | None = None) -> Fused:
        """Return the fused image of those present, all unless named; without any it is zero.

        Args:
            present: names of those that take part.
            scales: intensity mapping to take as given.
        """
        names = [m for m in self.images if present is None or m in present]
        if not names:
            nothing = torch.zeros_like(next(iter(self.images.values())))
            return Fused(nothing, {}, {}, {})
        images, sigmas, coverage = (
            {m: values[m] for m in names} for values in (self.images, self.sigmas, self.coverage)
        )
        return self.fuser.fuse(images, sigmas, coverage, spacing_mm=self.spacing_mm, scales=scales)
