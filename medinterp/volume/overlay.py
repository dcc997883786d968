"""An overlay: a map, the volume it lies on, and how a viewer should show it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medinterp.volume.segmentation import Segmentation
from medinterp.volume.volume import Volume


@dataclass(frozen=True, eq=False)
class Overlay:
    """A map to be shown over a base volume on the same grid.

    Args:
        base: the volume underneath.
        map: one-channel map, same grid.
        name: short name for file names and viewers, for example "saliency".
        description: one sentence for legends and DICOM series descriptions.
        signed: a diverging colour table around zero, else a sequential one from zero.
        limit: value at the end of the colour table, in the map's unit (positive).
        segmentation: clusters of the map, if any.
        doubts: the checks that the map failed, a sentence each.

    Raises:
        GridMismatch: map and base are on different grids.
    """

    base: Volume
    map: Volume
    name: str
    description: str
    signed: bool
    limit: float
    segmentation: Segmentation | None = None
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.base.require_same_grid(self.map, f"the map '{self.name}'")

    @property
    def saturated(self) -> bool:
        """Whether some voxels lie beyond the end of the colour table, and are shown as its end."""
        return bool((np.abs(self.map.voxels[0]) > self.limit).any())

    @property
    def peak_mm(self) -> tuple[float, float, float]:
        """RAS mm of the voxel where the map's magnitude is largest; of several, the one in their middle."""
        magnitude = np.abs(self.map.voxels[0]).ravel()
        strongest = np.flatnonzero(magnitude == magnitude.max()) if magnitude.any() else np.zeros(1, dtype=np.intp)
        index = np.array(np.unravel_index(middlemost(strongest, self.map.grid.shape), self.map.grid.shape))
        x, y, z = self.map.grid.to_world(index)
        return float(x), float(y), float(z)


def middlemost(flat: NDArray[np.intp], shape: tuple[int, int, int]) -> int:
    """Return which of these voxels, as positions in the flattened volume, lies nearest to their centre.

    The peak of a plateau: methods over regions give every voxel of a region the same value.
    """
    places = np.stack(np.unravel_index(flat, shape), axis=1)
    return int(flat[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()])
