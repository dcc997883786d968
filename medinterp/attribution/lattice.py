"""Where the voxels of a feature map lie: followed exactly through convolutions, pooling, padding and resizing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from medinterp.volume import Grid

Triple: TypeAlias = tuple[Fraction, Fraction, Fraction]

MOVES_VOXELS = frozenset(
    {"permute", "transpose", "t", "roll", "flip", "rot90", "as_strided", "gather", "index", "index_select", "select"}
    | {"index_put", "scatter", "grid_sampler_3d", "unfold", "sort", "movedim"}
)
"""Operations after which a feature's place is no longer known, whatever the shapes."""


@dataclass(frozen=True)
class Lattice:
    """The centre of feature voxel ``o`` is input voxel ``scale * o + offset``, axis by axis.

    Args:
        scale: input voxels between two feature voxels.
        offset: input voxel at the centre of feature voxel 0.
        spread: where paths of different centres met (a skip connection beside an upsampling that is half a voxel off),
            half their distance in input voxels; the offset is then their middle.
    """

    scale: Triple = (Fraction(1), Fraction(1), Fraction(1))
    offset: Triple = (Fraction(0), Fraction(0), Fraction(0))
    spread: Fraction = Fraction(0)

    def then(self, scale: Sequence[Fraction], offset: Sequence[Fraction]) -> "Lattice":
        """Return the lattice of voxels whose centres are ``scale * o + offset`` in this one's voxels."""
        steps, starts = [], []
        for own, origin, step, start in zip(self.scale, self.offset, scale, offset, strict=True):
            steps.append(own * step)
            starts.append(own * start + origin)
        return Lattice((steps[0], steps[1], steps[2]), (starts[0], starts[1], starts[2]), self.spread)

    def grid(self, scan: Grid, shape: tuple[int, int, int]) -> Grid:
        """Return the grid of a feature map of ``shape`` voxels made from a scan on ``scan``."""
        step = np.diag([*(float(s) for s in self.scale), 1.0])
        step[:3, 3] = [float(o) for o in self.offset]
        return Grid(shape, scan.affine @ step, scan.frame_uid)

    def merged(self, other: "Lattice") -> "Lattice | None":
        """Return what remains known where two feature maps meet, None where their voxels differ in size."""
        if self.scale != other.scale:
            return None
        apart = max(abs(a - b) for a, b in zip(self.offset, other.offset, strict=True))
        i, j, k = ((a + b) / 2 for a, b in zip(self.offset, other.offset, strict=True))
        return replace(self, offset=(i, j, k), spread=max(self.spread, other.spread) + apart / 2)


def cells(input_shape: Sequence[int], shape: Sequence[int]) -> Lattice | None:
    """Return the lattice that divides the input into equal cells, None unless their sizes are whole voxels."""
    if any(size % count for size, count in zip(input_shape, shape, strict=True)):
        return None
    i, j, k = (Fraction(size // count) for size, count in zip(input_shape, shape, strict=True))
    return Lattice((i, j, k), ((i - 1) / 2, (j - 1) / 2, (k - 1) / 2))


def follow(name: str, arguments: Sequence[Any], lattice: Lattice, shape: Sequence[int]) -> Lattice | None:
    """Return the lattice of an operation's result, given the lattice of its main argument.

    Args:
        name: the operation as PyTorch's dispatcher calls it ("convolution", "avg_pool3d").
        arguments: its positional arguments; the first is the main one.
        lattice: that argument's.
        shape: the result's.
    """
    if len(shape) != 5 or name in MOVES_VOXELS:
        return None
    before, after = arguments[0].shape, shape[2:]
    if name == "convolution":
        return _convolution(lattice, arguments)
    if "pool3d" in name:
        return _pooling(name, lattice, arguments, after)
    if "pad" in name:
        low = _padding_before(arguments[1])
        return lattice.then((Fraction(1),) * 3, [Fraction(-pad) for pad in low])
    if name.startswith("upsample"):
        return _resizing(lattice, before[2:], after, corners=_aligns_corners(arguments))
    if name == "slice":
        return _slicing(lattice, arguments)
    return lattice if len(before) == 5 and tuple(before[2:]) == tuple(after) else None


def _fractions(value: Any) -> list[Fraction]:
    numbers = list(value) if isinstance(value, Sequence) else [value]
    return [Fraction(int(n)) for n in (numbers * 3 if len(numbers) == 1 else numbers)]


def _convolution(lattice: Lattice, arguments: Sequence[Any]) -> Lattice:
    kernel = _fractions(list(arguments[1].shape[2:]))
    stride, padding, dilation = (_fractions(arguments[place]) for place in (3, 4, 5))
    half = [d * (k - 1) / 2 - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    if arguments[6]:  # transposed: voxel i of the input spreads around voxel stride * i + half of the result
        return lattice.then([1 / s for s in stride], [-h / s for h, s in zip(half, stride, strict=True)])
    return lattice.then(stride, half)


def _pooling(name: str, lattice: Lattice, arguments: Sequence[Any], after: Sequence[int]) -> Lattice | None:
    if "adaptive" in name:
        inner = cells(arguments[0].shape[2:], after)
        return lattice.then(inner.scale, inner.offset) if inner is not None else None
    kernel = _fractions(arguments[1])
    stride = _fractions(arguments[2]) if len(arguments) > 2 and arguments[2] else kernel
    padding = _fractions(arguments[3] if len(arguments) > 3 else 0)
    spacing = _fractions(arguments[4] if name.startswith("max") and len(arguments) > 4 else 1)
    half = [d * (k - 1) / 2 - p for d, k, p in zip(spacing, kernel, padding, strict=True)]
    return lattice.then(stride, half)


def _padding_before(pads: Sequence[int]) -> list[int]:
    """Return the voxels added before the first, for I, J and K; PyTorch lists the last axis first."""
    low = list(pads[0::2])[:3]
    return [*([0] * (3 - len(low))), *reversed(low)]


def _aligns_corners(arguments: Sequence[Any]) -> bool:
    return len(arguments) > 2 and arguments[2] is True


def _resizing(lattice: Lattice, before: Sequence[int], after: Sequence[int], *, corners: bool) -> Lattice:
    scale, offset = [], []
    for old, new in zip(before, after, strict=True):
        step = Fraction(old - 1, max(new - 1, 1)) if corners else Fraction(old, new)
        scale.append(step)
        offset.append(Fraction(0) if corners else (step - 1) / 2)
    return lattice.then(scale, offset)


def _slicing(lattice: Lattice, arguments: Sequence[Any]) -> Lattice:
    size = arguments[0].shape
    axis = arguments[1] % len(size) if len(arguments) > 1 else 0
    start = (arguments[2] if len(arguments) > 2 else None) or 0
    step = arguments[4] if len(arguments) > 4 else 1
    start = max(start + size[axis], 0) if start < 0 else min(start, size[axis])
    scale, offset = [Fraction(1)] * 3, [Fraction(0)] * 3
    if axis >= 2:
        scale[axis - 2], offset[axis - 2] = Fraction(step), Fraction(start)
    return lattice.then(scale, offset)
