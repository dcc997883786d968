"""Which part of every level's features an answer inside a box depends on, so that the rest need not be computed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from medinterp.denoisers.network import Level

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Window:
    """A box of positions of one level's features: from ``start`` up to but not including ``stop``."""

    start: Triple
    stop: Triple

    def grown(self, by: int, shape: Triple) -> "Window":
        """Return the window with a margin, cut at the borders of features of the given shape."""
        low = [max(a - by, 0) for a in self.start]
        high = [min(b + by, size) for b, size in zip(self.stop, shape, strict=True)]
        return Window((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def halved(self) -> "Window":
        """Return the window of the coarser positions that these lie in."""
        low, high = [a // 2 for a in self.start], [-(-b // 2) for b in self.stop]
        return Window((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def doubled(self) -> "Window":
        """Return the window of the finer positions that lie in these."""
        low, high = [2 * a for a in self.start], [2 * b for b in self.stop]
        return Window((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def cut(self, features: Tensor, given: "Window") -> Tensor:
        """Return the features inside this window from features that lie in a larger one."""
        inside = [slice(a - g, b - g) for a, b, g in zip(self.start, self.stop, given.start, strict=True)]
        return features[(slice(None), slice(None), *inside)]

    def margins(self, shape: Triple) -> list[int]:
        """Return the padding, last axis first, that makes features of this window features of the whole shape."""
        sides = zip(reversed(self.start), reversed(self.stop), reversed(shape), strict=True)
        return [p for a, b, size in sides for p in (a, size - b)]


@dataclass(frozen=True)
class Focus:
    """Where the features of one level of the network have to be known, for an answer inside a box.

    Args:
        given: where the features that enter the level lie.
        result: where those that leave it lie; right inside the box that was asked for, not in their margin.
        kept: where the features of the way down are still needed, None at the coarsest level.
        inner: the coarser level.
    """

    given: Window
    result: Window
    kept: Window | None = None
    inner: "Focus | None" = None


def focus_on(level: "Level", asked: Window, shape: Triple) -> Focus:
    """Return where a level and those inside it have to be known, so that its result is right in a window.

    Each convolution needs one position more on every side than it answers for; two make a residual block.

    Args:
        level: of the network.
        asked: where the result must be right.
        shape: positions of the level on the whole volume.
    """
    if level.inner is None:
        given = asked.grown(2 * len(level.down), shape)
        return Focus(given, given)
    joined = asked.grown(2 * len(level.up), shape).halved()
    coarser = (-(-shape[0] // 2), -(-shape[1] // 2), -(-shape[2] // 2))
    inner = focus_on(level.inner, joined, coarser)
    kept = inner.given.doubled()
    return Focus(kept.grown(2 * len(level.down), shape), joined.doubled(), kept, inner)
