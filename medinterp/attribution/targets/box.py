"""Boxes of voxels: what a target reads of the image, and what a crop keeps of it."""

from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from medinterp.errors import EmptyRegion


@dataclass(frozen=True)
class Box:
    """A box of voxels: from ``start`` up to but not including ``stop``, along I, J and K."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along I, J and K."""
        i, j, k = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return i, j, k

    @property
    def voxels(self) -> int:
        """Number of voxels inside."""
        i, j, k = self.shape
        return i * j * k

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array (I, J, K)."""
        i, j, k = (slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))
        return i, j, k

    def joined(self, other: "Box") -> "Box":
        """Return the smallest box that holds both."""
        low = [min(pair) for pair in zip(self.start, other.start, strict=True)]
        high = [max(pair) for pair in zip(self.stop, other.stop, strict=True)]
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def clipped(self, other: "Box") -> "Box":
        """Return the part inside the other box."""
        low = [max(pair) for pair in zip(self.start, other.start, strict=True)]
        high = [min(pair) for pair in zip(self.stop, other.stop, strict=True)]
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def relative_to(self, other: "Box") -> "Box":
        """Return the box in voxels counted from the start of the other box."""
        i, j, k = (a - b for a, b in zip(self.start, other.start, strict=True))
        return Box((i, j, k), (i + self.shape[0], j + self.shape[1], k + self.shape[2]))

    def contains(self, other: "Box") -> bool:
        """Say whether the other box lies inside this one."""
        return self.joined(other) == self


def bounding_box(mask: Shaped[Tensor, "I J K"], name: str) -> Box:
    """Return the smallest box that holds every True voxel.

    Raises:
        EmptyRegion: there is none; the message calls it ``name``.
    """
    low, high = [], []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        used = mask.any(dim=others[1]).any(dim=others[0]).nonzero()
        if not len(used):
            raise EmptyRegion(f"the target '{name}' holds no voxel of the scan; check its position in RAS mm")
        low.append(int(used[0]))
        high.append(int(used[-1]) + 1)
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
