"""Carry an image from one grid to another inside the differentiated computation."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medinterp.volume import Grid


@dataclass(frozen=True, eq=False)
class Warp:
    """Trilinear interpolation of an image on ``source`` at the voxel centres of ``target``; linear in the image.

    Both grids must describe the same patient space (one frame of reference, or a registration done before).
    Voxels of the target that lie outside the source get 0, and ``coverage`` says which these are.
    """

    source: Grid
    target: Grid

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, "B C P Q R"]:
        """Interpolate an image; gradients flow back onto the source grid."""
        if self.source.mismatch(self.target) is None:
            return image
        lattice = self._lattice(image)
        return functional.grid_sample(image, lattice, mode="bilinear", padding_mode="zeros", align_corners=True)

    def coverage(self, like: Float[Tensor, "B C I J K"]) -> Float[Tensor, "1 1 P Q R"]:
        """Return 1 where the target voxel lies fully inside the source grid, else 0; dtype and device of ``like``."""
        if self.source.mismatch(self.target) is None:
            return like.new_ones(1, 1, *self.target.shape)
        inside = (self._lattice(like).abs() <= 1 + 1e-6).all(dim=-1)
        return inside[None].to(like.dtype)

    def _lattice(self, like: Tensor) -> Tensor:
        axes = (np.arange(n, dtype=np.float64) for n in self.target.shape)
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        position = self.source.to_index(self.target.to_world(index))
        last = np.maximum(np.array(self.source.shape) - 1, 1)
        unit = 2 * position / last - 1
        # grid_sample wants the fastest axis first
        return torch.as_tensor(unit[..., ::-1].copy(), dtype=like.dtype, device=like.device)[None]
