"""The features of one block of a network as a volume on its own, coarser grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from medinterp.attribution.lattice import Lattice, cells
from medinterp.attribution.modules import ModuleWatch
from medinterp.attribution.result import Forward
from medinterp.attribution.targets import Target
from medinterp.attribution.trace import Block, Trace, trace
from medinterp.errors import ConfigError, MethodNotValid
from medinterp.volume import Grid


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Values on the voxels of one block.

    Args:
        values: (1, C, i, j, k).
        lattice: where these voxels lie in the scan's voxels.
        exact: the lattice was followed through every operation; else it divides the scan into equal cells.
        block: name of the module.
        call: which of its calls, counted from 0.
    """

    values: Float[Tensor, "1 C i j k"]
    lattice: Lattice
    exact: bool
    block: str
    call: int

    def grid(self, scan: Grid) -> Grid:
        """Return the grid of the values in the scan's patient space."""
        _, _, i, j, k = self.values.shape
        return self.lattice.grid(scan, (i, j, k))

    def on_scan(self, shape: tuple[int, int, int]) -> Float[Tensor, "1 C I J K"]:
        """Return the values interpolated linearly at the scan's voxel centres; the border is repeated."""
        return self._along_axes([self._weights(axis, size) for axis, size in enumerate(shape)])

    def spread_over_scan(self, shape: tuple[int, int, int]) -> Float[Tensor, "1 C I J K"]:
        """Return the values shared out over the scan's voxels, so that their sum stays the same.

        The sum of those block voxels that lie outside the scan, where a network pads it, is lost.
        """
        shares = []
        for axis, size in enumerate(shape):
            weights = self._weights(axis, size)
            received = weights.sum(dim=0, keepdim=True)
            shares.append(torch.where(received > 0, weights / received.clamp_min(1e-30), weights))
        return self._along_axes(shares)

    def channel(self, number: int) -> "BlockMap":
        """Return one channel alone.

        Raises:
            ConfigError: there are fewer.
        """
        count = self.values.shape[1]
        if not 0 <= number < count:
            raise ConfigError(f"channel {number} of the block '{self.block}': expected 0 to {count - 1}")
        return replace(self, values=self.values[:, number : number + 1])

    def cover(self, mask: Bool[Tensor, "I J K"]) -> Float64[Tensor, "i j k"]:
        """Return the part of each of the block's voxels that a mask on the scan covers, 0 to 1."""
        sums = mask.to(torch.float64)
        for axis, count in enumerate(self.values.shape[2:]):
            voxel = torch.arange(mask.shape[axis], dtype=torch.float64, device=mask.device)
            place = (voxel - float(self.lattice.offset[axis])) / float(self.lattice.scale[axis])
            nearest = (place + 0.5).floor().long()
            belongs = (nearest[None, :] == torch.arange(count, device=mask.device)[:, None]).to(torch.float64)
            belongs = belongs / belongs.sum(dim=1, keepdim=True).clamp_min(1)
            sums = torch.tensordot(belongs, sums.movedim(axis, 0), dims=1).movedim(0, axis)
        return sums

    def _weights(self, axis: int, size: int) -> Tensor:
        """Return the share of each of the block's voxels in each of the scan's, along one axis."""
        count = self.values.shape[2 + axis]
        voxel = torch.arange(size, dtype=torch.float64, device=self.values.device)
        place = (voxel - float(self.lattice.offset[axis])) / float(self.lattice.scale[axis])
        distance = place.clamp(0, count - 1)[:, None] - torch.arange(count, device=self.values.device)
        return (1 - distance.abs()).clamp_min(0).to(self.values.dtype)

    def _along_axes(self, weights: list[Tensor]) -> Tensor:
        return torch.einsum("bcijk,xi,yj,zk->bcxyz", self.values, *weights)


@dataclass(eq=False)
class Captured:
    """The outputs of one block in the order of its calls, as they were before anything could overwrite them.

    Args:
        block: name of the module.
    """

    block: str
    outputs: list[Tensor] = field(default_factory=list)

    def take(self, path: str, module: nn.Module, output: Any) -> Tensor | None:
        """Keep an output of the block and hand on a copy of it."""
        if path != self.block or not isinstance(output, Tensor):
            return None
        self.outputs.append(output)
        return output.clone()


def capture(
    forward: Forward,
    inputs: Mapping[str, Tensor],
    sigmas: Mapping[str, Tensor],
    block: str,
    target: Target | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Return the image, or the target's number, and every output of a block, with their graph if gradients are on."""
    kept = Captured(block)
    with ModuleWatch(kept.take):
        image = forward(inputs, sigmas)
        return image if target is None else target(image), kept.outputs


def block_maps(
    forward: Forward,
    inputs: Mapping[str, Tensor],
    sigmas: Mapping[str, Tensor],
    block: str | None = None,
    target: Target | None = None,
) -> tuple[BlockMap, ...]:
    """Return the features of every call of a block, at the cost of two evaluations without a graph.

    Args:
        forward: the function that made the image.
        inputs: scans by name, on one grid.
        sigmas: their noise levels.
        block: name of the module as ``network.named_modules()`` has it; None for the last one of the coarsest level.
        target: runs too, for the blocks of a network inside it; their names start with "1:".

    Raises:
        ConfigError: there is no such block.
    """
    found = trace(forward, inputs, sigmas, target)
    name = coarsest_block(found) if block is None else block
    calls = calls_of(found, name)
    with torch.no_grad():  # features are shown, nothing is differentiated
        _, outputs = capture(forward, inputs, sigmas, name, target)
    return tuple(place(output.detach(), calls[n], n, found) for n, output in enumerate(outputs))


def place(values: Tensor, call: Block, number: int, found: Trace) -> BlockMap:
    """Return values on a block's voxels with their place.

    Raises:
        MethodNotValid: it is known neither from the operations nor from the shapes.
    """
    lattice = call.lattice if call.lattice is not None else cells(found.input_shape, call.shape[2:])
    if lattice is None:
        raise MethodNotValid(
            f"the block '{call.path}' has {call.shape[2:]} voxels of a scan of {found.input_shape}: where they lie is "
            "not known; choose a block whose size divides the scan's, or pad the scan"
        )
    return BlockMap(values, lattice, call.lattice is not None, call.path, number)


def calls_of(found: Trace, block: str) -> list[Block]:
    """Return the calls of a block in a trace.

    Raises:
        ConfigError: no module of that name returned a feature map.
    """
    calls = [call for call in found.blocks if call.path == block]
    if not calls:
        names = list(dict.fromkeys(call.path for call in found.blocks))
        raise ConfigError(
            f"no block '{block}' returned a feature map; there are: {', '.join(names[:40])}{' ...' * (len(names) > 40)}"
        )
    return calls


def coarsest_block(found: Trace) -> str:
    """Return the last block with the fewest voxels, of those with more than one along every axis.

    Raises:
        MethodNotValid: no module returned a feature map.
    """
    wide = [call for call in found.blocks if min(call.shape[2:]) > 1] or list(found.blocks)
    if not wide:
        raise MethodNotValid("no module of this network returns a feature map (B, C, I, J, K); use saliency")
    fewest = min(call.shape[2] * call.shape[3] * call.shape[4] for call in wide)
    return [call.path for call in wide if call.shape[2] * call.shape[3] * call.shape[4] == fewest][-1]
