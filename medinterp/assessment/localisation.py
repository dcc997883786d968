"""Localisation: how much of a map lies where the answer is known to lie."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medinterp.errors import InputError


@dataclass(frozen=True)
class Localisation:
    """A map against the region that is known to be the cause.

    Args:
        mass: share of the map's total magnitude that lies in the region.
        rank: share of the region among as many voxels of largest magnitude as it has.
        pointing: the voxel of largest magnitude lies in the region.
        by_chance: share of all voxels that are in the region: the mass and rank of a map that knows nothing.
    """

    mass: float
    rank: float
    pointing: bool
    by_chance: float


def localisation(found: Float[Tensor, "C I J K"], region: Bool[Tensor, "X Y Z"]) -> Localisation:
    """Compare a map, its channels summed, with the region known to be the cause; magnitudes count, signs do not.

    Raises:
        InputError: they are on different grids, the region is empty, or the map is zero everywhere.

    Source:
        Arras et al., "CLEVR-XAI", Information Fusion 81 (2022), eq. 1-2 (mass and rank accuracy); Zhang et al., IJCV
        126 (2018) (pointing game).
    """
    if found.shape[1:] != region.shape or not bool(region.any()):
        raise InputError(
            f"a map of {tuple(found.shape[1:])} voxels and a region of {tuple(region.shape)} with "
            f"{int(region.sum())} inside: expected one grid, and at least one voxel"
        )
    magnitude = found.detach().to(torch.float64).sum(dim=0).abs().flatten()
    total, inside = float(magnitude.sum()), region.flatten().to(magnitude.device)
    if total == 0:
        raise InputError("the map is zero everywhere, so it lies nowhere; check that the method is valid here")
    size = int(inside.sum())
    top = magnitude.topk(size).indices
    return Localisation(
        mass=float(magnitude[inside].sum()) / total,
        rank=float(inside[top].sum()) / size,
        pointing=bool(inside[magnitude.argmax()]),
        by_chance=size / inside.numel(),
    )
