"""Grad-CAM: where a block's features, weighted by what the measurement makes of them, are large; signed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medinterp.attribution.activation_rules import GuidedBackprop
from medinterp.attribution.activations import BlockMap, calls_of, capture, coarsest_block, place
from medinterp.attribution.capabilities import Capabilities, Cost
from medinterp.attribution.measurement import Measurement
from medinterp.attribution.preflight import require
from medinterp.attribution.result import Attribution, Forward
from medinterp.attribution.targets import Target
from medinterp.attribution.trace import Trace
from medinterp.errors import ConfigError, MethodNotValid

_MOST, _HALF = 0.95, 0.5
"""Share of a gradient, and share of the block's voxels that it must spread over, to be pooled."""


@dataclass(frozen=True)
class GradCam:
    """Grad-CAM on any block, without the final ReLU: a measurement has a sign, and so has its map.

    ``block_maps`` returns the map on the block's own grid. As an attribution it is shared out over the scan's voxels
    with its sum kept. Each voxel of a channel has its own weight (HiResCAM): the sum is then the part of the
    measurement that flows through the block, exactly on a bias-free network. With ``pooled`` (the original) each
    channel has one for the whole volume, as fits the score of a classifier that pools its features. For the mean of a
    small region that map is large wherever the features are: 1 % of it lay where the planted lesion's mean is made.
    There it is refused.

    Args:
        block: name of the module, as ``network.named_modules()`` has it; None for the last one of the coarsest level.
        call: which of its calls, for a block that runs several times (a sampler's steps); -1 is the last.
        pooled: one weight for each channel, the mean of its gradient over space.

    Source:
        Selvaraju et al., "Grad-CAM", ICCV 2017, eq. 1-2; Draelos & Carin, "Use HiResCAM instead of Grad-CAM", 2020.
    """

    block: str | None = None
    call: int = -1
    pooled: bool = False
    name: str = "grad_cam"
    reach: None = None

    @property
    def capabilities(self) -> Capabilities:
        """What it needs and costs: a trace and a gradient back to the block."""
        return Capabilities("block", complete=False, random=False, cost=Cost(2, 1))

    def block_maps(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> dict[str, BlockMap]:
        """Return the map of each input that reaches the block, on the block's grid.

        Raises:
            MethodNotValid: there is no feature map, it does not reach the measurement, or it mixes several inputs.
            ConfigError: no block has that name, or it has fewer calls.
        """
        found = require(self.name, forward, inputs, sigmas, target)
        return self._explain(Measurement(forward, target, inputs, sigmas), found)

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Return the map on the scan's voxels; ``statistics`` says whether its place is exact, and its voxel size.

        Raises:
            MethodNotValid: as of ``block_maps``.
            ConfigError: as of ``block_maps``.
        """
        found = require(self.name, forward, inputs, sigmas, target)
        measurement = Measurement(forward, target, inputs, sigmas)
        maps = self._explain(measurement, found)
        measurement.evaluations += 1  # the trace
        tensors = [torch.zeros_like(tensor) for tensor in measurement.tensors]
        for number, (name, image) in enumerate(inputs.items()):
            if name in maps:
                i, j, k = image.shape[2:]
                tensors[number] = maps[name].spread_over_scan((i, j, k)).expand_as(image) / image.shape[1]
        one = next(iter(maps.values()))
        statistics = {
            "block_place_exact": float(one.exact),
            "block_place_spread_voxels": float(one.lattice.spread),
            **{f"block_voxel_{axis}": float(s) for axis, s in zip("ijk", one.lattice.scale, strict=True)},
        }
        value = measurement.last_value
        return replace(
            measurement.attribution(tuple(tensors), "contribution", self.name, value=value), statistics=statistics
        )

    def _explain(self, measurement: Measurement, found: Trace) -> dict[str, BlockMap]:
        block = coarsest_block(found) if self.block is None else self.block
        calls = calls_of(found, block)
        leaves = measurement.leaves()
        inputs, sigmas = measurement.split(leaves)
        with torch.enable_grad():
            measured, outputs = capture(measurement.forward, inputs, sigmas, block, measurement.target)
            total = measured.sum()
        measurement.evaluations += 1
        measurement.last_value = float(measured[-1].detach())
        maps = {}
        for name, numbers in self._calls_by_input(outputs, inputs, block).items():
            number = self._chosen(numbers, block)
            weighted = self._weighted(total, outputs[number])
            maps[name] = place(weighted, calls[number], number, found)
        return maps

    def _weighted(self, total: Tensor, features: Tensor) -> Tensor:
        (slopes,) = torch.autograd.grad(total, features, retain_graph=True, allow_unused=True)
        if slopes is None:
            raise MethodNotValid(f"the measurement does not use this call of the block '{self.block}'; choose another")
        if self.pooled:
            _require_everywhere(slopes)
            slopes = slopes.mean(dim=(2, 3, 4), keepdim=True)
        return (slopes * features).sum(dim=1, keepdim=True).detach()

    def _chosen(self, numbers: list[int], block: str) -> int:
        if not -len(numbers) <= self.call < len(numbers):
            raise ConfigError(f"call {self.call} of the block '{block}', which ran {len(numbers)} times for this input")
        return numbers[self.call]

    def _calls_by_input(self, outputs: list[Tensor], inputs: Mapping[str, Tensor], block: str) -> dict[str, list[int]]:
        """Return which calls of the block each input reaches."""
        reached: dict[str, list[int]] = {}
        for number, output in enumerate(outputs):
            leaves = _leaves_behind(output)
            names = [name for name, image in inputs.items() if id(image) in leaves]
            if len(names) > 1:
                raise MethodNotValid(f"the block '{block}' mixes the inputs {names}; use input_x_gradient")
            for name in names:
                reached.setdefault(name, []).append(number)
        if not reached:
            raise MethodNotValid(f"the block '{block}' runs without a gradient from the scan; choose another block")
        return reached


def _leaves_behind(output: Tensor) -> set[int]:
    """Return the ids of the leaves that a tensor's graph reaches, without computing anything."""
    seen, waiting, leaves = set(), [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves.add(id(variable))
        waiting.extend(parent for parent, _ in node.next_functions)
    return leaves


def _require_everywhere(slopes: Tensor) -> None:
    """Refuse one weight for the whole volume where the measurement looks at less than half of it."""
    size = slopes.abs().sum(dim=1).flatten().sort(descending=True).values.cumsum(0)
    share = float((size < _MOST * size[-1]).sum() + 1) / size.numel()
    if share < _HALF:
        raise MethodNotValid(
            f"pooled Grad-CAM, and {_MOST:.0%} of the measurement's gradient is in {share:.1%} of the block's voxels: "
            "one weight for the whole volume would light up where the measurement does not look; leave out pooled=yes"
        )


@dataclass(frozen=True)
class GuidedGradCam:
    """Guided backpropagation times Grad-CAM, both signed: fine detail where a block's features matter.

    Args:
        cam: the Grad-CAM half.
    """

    cam: GradCam = GradCam()
    name: str = "guided_grad_cam"
    reach: None = None

    @property
    def capabilities(self) -> Capabilities:
        """What it needs and costs: both halves."""
        return Capabilities("activation rule", complete=False, random=False, cost=Cost(6, 2))

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Return the product, on the scan's voxels.

        Raises:
            MethodNotValid: one of the halves is not valid here.

        Source:
            Selvaraju et al., "Grad-CAM", ICCV 2017, section 3.2, without the ReLU.
        """
        require(self.name, forward, inputs, sigmas, target)
        guided = GuidedBackprop()(forward, inputs, sigmas, target)
        maps = self.cam.block_maps(forward, inputs, sigmas, target)
        measurement = Measurement(forward, target, inputs, sigmas)
        measurement.evaluations = guided.evaluations + 3
        tensors = [torch.zeros_like(tensor) for tensor in measurement.tensors]
        for number, (name, image) in enumerate(inputs.items()):
            if name in maps:
                i, j, k = image.shape[2:]
                tensors[number] = guided.maps[name] * maps[name].on_scan((i, j, k))
        return measurement.attribution(tuple(tensors), "gradient", self.name, value=guided.value)
