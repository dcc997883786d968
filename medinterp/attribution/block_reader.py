"""The features of one block read over a whole scan, piece by piece, so that memory is that of a piece."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medinterp.attribution.activations import BlockMap, calls_of, coarsest_block, place
from medinterp.attribution.lattice import Lattice
from medinterp.attribution.modules import ModuleWatch
from medinterp.attribution.result import Forward
from medinterp.attribution.targets import Box, Target
from medinterp.attribution.trace import Block, Trace, trace
from medinterp.denoisers.network import STRIDE
from medinterp.denoisers.tiled import Span, choose_tile, spans
from medinterp.errors import ConfigError, MethodNotValid
from medinterp.progress import OnStep, StepInfo, ignore

PROBE = 32
"""Edge in voxels of the crop on which blocks are listed, for a network that looks no farther than its radius."""
RECTIFIERS = ("ReLU", "ReLU6", "Sigmoid", "Softplus")
"""Modules whose features are nowhere negative."""


@dataclass(frozen=True)
class BlockInfo:
    """One block, as far as a user who chooses one needs to know.

    Args:
        name: of the module, as ``network.named_modules()`` has it.
        module: its class.
        channels: of its features.
        voxels: of the scan between two of the block's, along I, J and K.
        calls: how often it runs for one image.
        exact: whether its place was followed through every operation; else it divides the scan into equal cells, and
            where that is not possible ``voxels`` is None.
    """

    name: str
    module: str
    channels: int
    voxels: tuple[float, float, float] | None
    calls: int
    exact: bool

    @property
    def rectified(self) -> bool:
        """Whether the features are nowhere negative."""
        return self.module in RECTIFIERS


class _Read(Exception):
    """Raised when the wanted call of the block has run: nothing after it is needed."""


@dataclass(eq=False)
class _Wanted:
    """The output of one call of one block; ends the evaluation there."""

    block: str
    call: int
    seen: int = 0
    output: Tensor | None = None

    def take(self, path: str, module: nn.Module, output: Any) -> None:
        if path != self.block or not isinstance(output, Tensor):
            return
        self.seen += 1
        if self.seen == self.call + 1:
            self.output = output
            raise _Read


@dataclass(frozen=True, eq=False)
class BlockReader:
    """Reads blocks of the forward that makes one scan's image.

    Args:
        forward: makes the image.
        name: of the scan, for the forward.
        image: the scan, (1, C, I, J, K).
        sigma: its noise level.
        radius: voxels around an output voxel that can influence it; None when all of them can: then the scan is read
            in one piece.
        stride: pieces start on a multiple of it.
        max_voxels: of a piece with its surroundings; None for no limit.
        target: runs too, for the blocks of a network inside it; their names start with "1:". The scan is then read in
            one piece.
    """

    forward: Forward
    name: str
    image: Float[Tensor, "1 C I J K"]
    sigma: Float[Tensor, "1 C2 X Y Z"]
    radius: int | None
    stride: int = STRIDE
    max_voxels: int | None = None
    target: Target | None = None

    @cached_property
    def whole(self) -> Box:
        """The whole scan."""
        i, j, k = self.image.shape[2:]
        return Box((0, 0, 0), (i, j, k))

    @cached_property
    def found(self) -> Trace:
        """What one evaluation does: on a corner of the scan where that tells the same as all of it."""
        if not self.in_pieces:
            return trace(self.forward, *self._cut(self.whole), self.target)
        edge = -(-PROBE // self.stride) * self.stride
        i, j, k = (min(edge, size) for size in self.whole.shape)
        return trace(self.forward, *self._cut(Box((0, 0, 0), (i, j, k))))

    @property
    def in_pieces(self) -> bool:
        """Whether a block may be read piece by piece with the same result."""
        return self.radius is not None and self.target is None

    def blocks(self) -> tuple[BlockInfo, ...]:
        """List the blocks that return feature maps, in the order in which they first run."""
        names = dict.fromkeys(call.path for call in self.found.blocks)
        return tuple(self._info(calls_of(self.found, name)) for name in names)

    def choose(self, block: str | None, *, rectified: bool = False) -> str:
        """Return the name of a block that there is; by default the last one of the coarsest level.

        Args:
            block: what was asked for; None for the default.
            rectified: by default take one whose features are nowhere negative.

        Raises:
            ConfigError: there is no such block.
            MethodNotValid: there is none to take by default.
        """
        if block is not None:
            return calls_of(self.found, block)[0].path
        if not rectified:
            return coarsest_block(self.found)
        kept = replace(self.found, blocks=tuple(b for b in self.found.blocks if b.module in RECTIFIERS))
        if not kept.blocks:
            raise MethodNotValid("no block of this network ends in a ReLU: name a block whose features have no sign")
        return coarsest_block(kept)

    def read(self, block: str, call: int = -1, box: Box | None = None, on_step: OnStep = ignore) -> BlockMap:
        """Return the features of one call of a block over a box of the scan, the same as on the whole scan.

        Evaluates the network without a graph, up to the block.

        Args:
            block: its name.
            call: which of its calls, -1 for the last.
            box: of the scan; grown to multiples of the stride. None for all of it.
            on_step: told after every piece.

        Raises:
            ConfigError: there is no such block or call.
            MethodNotValid: its place is not known.
            DeviceError: no piece fits the limit.
        """
        calls = calls_of(self.found, block)
        if not -len(calls) <= call < len(calls):
            raise ConfigError(f"call {call} of the block '{block}', which ran {len(calls)} times")
        number = call % len(calls)
        asked = self.whole if box is None else self._grown(box)
        if not self._divides(calls[number].lattice):
            return self._piece(self.whole, self.whole, calls[number], number)
        cuts = [self._spans(asked, axis, tile) for axis, tile in enumerate(self._tile(asked))]
        pieces = []
        for where in product(*cuts):
            pieces.append(self._piece(_box(where, core=False), _box(where, core=True), calls[number], number))
            on_step(StepInfo("features", len(pieces), len(cuts[0]) * len(cuts[1]) * len(cuts[2]), block))
        return _joined(pieces, [len(cut) for cut in cuts])

    def _info(self, calls: list[Block]) -> BlockInfo:
        first = calls[0]
        lattice = first.lattice
        if lattice is None and not self.in_pieces and min(first.shape[2:]) > 0:
            sizes = [a / b for a, b in zip(self.whole.shape, first.shape[2:], strict=True)]
        else:
            sizes = [] if lattice is None else [float(s) for s in lattice.scale]
        known = (sizes[0], sizes[1], sizes[2]) if sizes else None
        return BlockInfo(first.path, first.module, first.shape[1], known, len(calls), lattice is not None)

    def _divides(self, lattice: Lattice | None) -> bool:
        """Whether pieces that start on a multiple of the stride start on a voxel of the block."""
        if lattice is None or not self.in_pieces:
            return False
        return all((Fraction(self.stride) / scale).denominator == 1 for scale in lattice.scale)

    def _grown(self, box: Box) -> Box:
        start = [a // self.stride * self.stride for a in box.start]
        stop = [min(-(-b // self.stride) * self.stride, n) for b, n in zip(box.stop, self.whole.shape, strict=True)]
        return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def _tile(self, asked: Box) -> tuple[int, int, int]:
        """Return the voxels that one piece answers for; on a part of the scan that with its surroundings counts."""
        around = self._around(asked)
        if self.max_voxels is None or around.voxels <= self.max_voxels:
            return asked.shape
        return choose_tile(self.whole.shape, self.max_voxels, self.radius, self.stride) or asked.shape

    def _around(self, box: Box) -> Box:
        radius = self.radius or 0
        start = [max(0, a - radius) // self.stride * self.stride for a in box.start]
        stop = [min(b + radius, n) for b, n in zip(box.stop, self.whole.shape, strict=True)]
        return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def _spans(self, asked: Box, axis: int, tile: int) -> list[Span]:
        """Cut one axis of a box into pieces, whose surroundings reach beyond the box."""
        low, high = asked.start[axis], asked.stop[axis]
        cores = [(core.core_start + low, core.core_stop + low) for core in spans(high - low, tile, 0, self.stride)]
        found = []
        for core_start, core_stop in cores:
            around = self._around(Box((core_start,) * 3, (core_stop,) * 3))
            stop = min(core_stop + (self.radius or 0), self.whole.shape[axis])
            found.append(Span(around.start[axis], stop, core_start, core_stop))
        return found

    def _piece(self, seen: Box, core: Box, call: Block, number: int) -> BlockMap:
        """Return the features of the core, computed on what is seen."""
        wanted = _Wanted(call.path, number)
        try:
            with torch.no_grad(), ModuleWatch(wanted.take):  # features are shown, nothing is differentiated
                image = self.forward(*self._cut(seen))
                if self.target is not None:
                    self.target(image)
        except _Read:
            pass
        if wanted.output is None:
            raise MethodNotValid(f"the block '{call.path}' did not run again on a part of the scan; name another")
        shape = tuple(wanted.output.shape)
        found = place(wanted.output, replace(call, shape=shape), number, replace(self.found, input_shape=seen.shape))
        return found if seen == core == self.whole else _core_of(found, seen, core)

    def _cut(self, box: Box) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        at = (..., *box.slices)
        sigma = self.sigma if max(self.sigma.shape[2:]) == 1 else self.sigma[at]
        return {self.name: self.image[at]}, {self.name: sigma}


def _box(where: tuple[Span, ...], *, core: bool) -> Box:
    start = [s.core_start if core else s.start for s in where]
    stop = [s.core_stop if core else s.stop for s in where]
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _core_of(found: BlockMap, seen: Box, core: Box) -> BlockMap:
    """Return the features of the core alone, where they lie in the whole scan."""
    cut, first = [], []
    for axis, scale in enumerate(found.lattice.scale):
        start = int((core.start[axis] - seen.start[axis]) / scale)
        # at the scan's end the network pads: what it adds there belongs to the last piece
        stop = None if core.stop[axis] == seen.stop[axis] else int((core.stop[axis] - seen.start[axis]) / scale)
        cut.append(slice(start, stop))
        first.append(Fraction(core.start[axis]) / scale)
    lattice = found.lattice.then((Fraction(1),) * 3, first)
    return replace(found, values=found.values[(..., *cut)].clone(), lattice=lattice)


def _joined(pieces: list[BlockMap], counts: list[int]) -> BlockMap:
    first, values = pieces[0], [piece.values for piece in pieces]
    for dim in (4, 3, 2):  # the last axis varies fastest
        count = counts[dim - 2]
        values = [
            torch.cat(values[n : n + count], dim=dim) if count > 1 else values[n] for n in range(0, len(values), count)
        ]
    return replace(first, values=values[0])
