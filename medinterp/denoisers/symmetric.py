"""A denoiser made to treat bright and dark alike, so that it moves no mean: half the difference of two estimates."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.denoisers.base import Denoiser, evaluate
from medinterp.denoisers.focus import Triple
from medinterp.denoisers.tiled import BYTES_PER_VOXEL


@dataclass(frozen=True, eq=False)
class Symmetric:
    """Estimate by (D(x, sigma) - D(-x, sigma)) / 2: for data without a preferred sign, such as CT in HU.

    A network trained on magnitudes, whose noise raises dark voxels, takes a little from the mean of any noisy region:
    0.05 to 0.1 noise levels, up to 4 HU at 40 HU of noise (docs/decisions/0003-coloured-noise.md). The noise of CT has
    no sign, so that a uniform region and its mirror image must keep their means alike, and by this they do. Twice the
    work; the estimate stays piecewise linear through the origin in (image, noise level) where the denoiser is.

    Args:
        denoiser: to be mirrored.
    """

    denoiser: Denoiser

    @property
    def radius(self) -> int | None:
        """Voxels around an output voxel that can influence it; None when all of them can."""
        return getattr(self.denoiser, "radius", None)

    @property
    def bytes_per_voxel(self) -> int:
        """Memory that an estimate without a graph takes for each voxel: the denoiser's, and two images."""
        return int(getattr(self.denoiser, "bytes_per_voxel", BYTES_PER_VOXEL)) + 8

    @property
    def network(self) -> Any:
        """The denoiser's network, None where it has none."""
        return getattr(self.denoiser, "network", None)

    @property
    def weights_sha256(self) -> str:
        """Hash of the denoiser's weights."""
        return str(getattr(self.denoiser, "weights_sha256", ""))

    def to(self, device: torch.device) -> "Symmetric":
        """Move the denoiser; returns itself."""
        if hasattr(self.denoiser, "to"):
            self.denoiser.to(device)
        return self

    def with_network(self, network: Denoiser) -> "Symmetric":
        """Return the same around another network."""
        return replace(self, denoiser=network)

    def without_graph(self) -> "Symmetric":
        """Return a denoiser with the same estimate to rounding, made in less time and memory, that has no gradient."""
        return replace(self, denoiser=getattr(self.denoiser, "without_graph", lambda: self.denoiser)())

    def within(self, box: tuple[Triple, Triple]) -> "Symmetric":
        """Return a denoiser whose estimate is this one's inside a box of voxels and nothing outside, for less work."""
        return replace(self, denoiser=getattr(self.denoiser, "within", lambda _: self.denoiser)(box))

    def __call__(
        self,
        x: Float[Tensor, "B C I J K"],
        sigma: Float[Tensor, "#B #C #I #J #K"],
        *,
        cond: Float[Tensor, "B C2 I J K"] | None = None,
    ) -> Float[Tensor, "B C I J K"]:
        """Return the estimate, in the unit of ``x``; images to condition on are given as they are both times."""
        return (evaluate(self.denoiser, x, sigma, cond) - evaluate(self.denoiser, -x, sigma, cond)) / 2
