"""Labelled clusters of a map: what a segmentation object and the cluster table hold."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16

from medinterp.errors import InputError
from medinterp.volume.grid import Grid


@dataclass(frozen=True)
class Segment:
    """One cluster of a signed map.

    Args:
        label: its number in the label map, from 1 without gaps.
        name: what viewers show, for example "positive 1".
        sign: +1 or -1.
        peak_mm: RAS mm of the voxel of largest magnitude.
        peak_value: the map there, in the map's unit.
        volume_mm3: size.
        total: sum of the map over the cluster, in the map's unit.
    """

    label: int
    name: str
    sign: int
    peak_mm: tuple[float, float, float]
    peak_value: float
    volume_mm3: float
    total: float


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels (I, J, K) on a grid, 0 outside, and one Segment per label in order."""

    labels: Int16[np.ndarray, "I J K"]
    grid: Grid
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if self.labels.shape != self.grid.shape:
            raise InputError(f"labels of shape {self.labels.shape} on a grid of {self.grid.shape}")
        if [s.label for s in self.segments] != list(range(1, len(self.segments) + 1)):
            raise InputError("segment labels must count from 1 without gaps")
