"""Random views of a clean volume: where it is cut, how it is turned, how thick its slices are, what contrast it has."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medinterp.training.draws import chance, uniform, whole

_TRIES = 8


@dataclass(frozen=True)
class Views:
    """Draw cubes from a volume as other scanners would have shown the same anatomy.

    Args:
        thick: share of views with slices two to five times as thick, averaged over their thickness.
        oblique: share of views turned by up to 30 degrees and enlarged up to 1.6 times by trilinear interpolation.
        blurred: share of views with a point spread of up to 0.9 voxels along each axis.
        masked: share of views whose air is exactly zero, as after brain extraction.
    """

    thick: float = 0.12
    oblique: float = 0.12
    blurred: float = 0.12
    masked: float = 0.1

    def draw(
        self, volume: Float[Tensor, "I J K"], size: int, generator: torch.Generator
    ) -> Float[Tensor, "size size size"]:
        """Return one view of ``size`` cubed in one of a cube's 48 poses; the volume must be at least that large."""
        kind = uniform(0.0, 1.0, generator)
        if kind < self.thick:
            view = _thick_slices(volume, size, generator)
        elif kind < self.thick + self.oblique:
            view = _oblique(volume, size, generator)
        else:
            view = _cut(volume, (size,) * 3, generator)
            if kind < self.thick + self.oblique + self.blurred:
                for axis in range(3):
                    view = blurred(view, uniform(0.0, 0.9, generator), axis)
        if chance(self.masked, generator):
            smooth = functional.avg_pool3d(view[None, None], 5, stride=1, padding=2)[0, 0]
            view = torch.where(smooth > uniform(0.05, 0.15, generator), view, 0.0)
        return random_pose(view, generator)


def _cut(volume: Tensor, extent: tuple[int, ...], generator: torch.Generator) -> Tensor:
    for _ in range(_TRIES):  # prefer places that hold tissue; air is cheap to learn
        i, j, k = (whole(0, have - want, generator) for have, want in zip(volume.shape, extent, strict=True))
        box = volume[i : i + extent[0], j : j + extent[1], k : k + extent[2]]
        if (box[::2, ::2, ::2] > 0.1).float().mean() > 0.25:
            break
    return box


def _thick_slices(volume: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Average groups of slices along a random axis, as many as the volume allows."""
    axis = whole(0, 2, generator)
    most = min(5, volume.shape[axis] // size)
    factor = whole(min(2, most), most, generator)
    extent = [size * factor if a == axis else size for a in range(3)]
    box = _cut(volume, tuple(extent), generator)
    return box.reshape(*box.shape[:axis], size, factor, *box.shape[axis + 1 :]).mean(dim=axis + 1)


def _oblique(volume: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Turn about a random axis and enlarge, by one trilinear interpolation."""
    enlarge, angle = uniform(1.0, 1.6, generator), math.radians(uniform(-30.0, 30.0, generator))
    reach = math.ceil(size / enlarge * (abs(math.cos(angle)) + abs(math.sin(angle)))) + 2
    box = _cut(volume, tuple(min(reach, have) for have in volume.shape), generator)
    a, b = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[a, -b, 0.0], [b, a, 0.0], [0.0, 0.0, 1.0]])
    order = torch.randperm(3, generator=generator)
    shape = torch.tensor(box.shape[::-1], dtype=torch.float32)  # grid_sample counts the last axis first
    scale = size / enlarge * turn[order][:, order] / shape[:, None]  # its unit: half the box
    theta = functional.pad(scale, (0, 1))[None]
    grid = functional.affine_grid(theta, [1, 1, size, size, size], align_corners=False)
    return functional.grid_sample(box[None, None], grid, padding_mode="border", align_corners=False)[0, 0]


def blurred(image: Float[Tensor, "I J K"], width: float, axis: int) -> Float[Tensor, "I J K"]:
    """Return the image convolved along one axis with a Gaussian of this standard deviation in voxels."""
    if width < 0.15:  # the sampled kernel would be a single one
        return image
    reach = math.ceil(3 * width)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).div(width).square() / 2)
    rows = image.movedim(axis, 2)
    flat = functional.pad(rows.reshape(-1, 1, rows.shape[2]), (reach, reach), mode="replicate")
    return functional.conv1d(flat, (kernel / kernel.sum())[None, None]).reshape(rows.shape).movedim(2, axis)


def random_pose(image: Float[Tensor, "I J K"], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Flip and permute the axes at random: the 48 poses of a cube."""
    order = torch.randperm(3, generator=generator).tolist()
    flips = [axis for axis in range(3) if chance(0.5, generator)]
    return image.permute(order).flip(flips)


def random_contrast(
    image: Float[Tensor, "I J K"], generator: torch.Generator, *, steep: bool = True
) -> Float[Tensor, "I J K"]:
    """Pass intensities through a random curve, zero staying zero: another contrast, the same anatomy.

    Args:
        image: intensities from 0 to about 1.25, bright tissue 1.
        generator: where the numbers come from.
        steep: also piecewise linear curves, whose slope of up to 3.6 makes a scan's own noise larger.
    """
    kind = uniform(0.0, 1.0, generator)
    if kind < 0.6 or (kind >= 0.8 and not steep):
        return image
    if kind < 0.8:
        return image.clamp_min(0) ** uniform(0.6, 1.6, generator)
    knots = torch.cat([torch.zeros(1), 0.1 + 0.9 * torch.rand(5, generator=generator)])
    position = image.clamp(0, 1.25) / 1.25 * 5
    left = position.floor().clamp(max=4).long()
    return knots[left] + (position - left) * (knots[left + 1] - knots[left])
