"""A look inside the network at one scan: its reader, the block, the part that is looked at, and volumes from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from medinterp.attribution import BlockMap, Box, ClassLogit, ClassRegionScore
from medinterp.attribution.block_reader import BlockReader
from medinterp.denoisers.network import STRIDE
from medinterp.explaining import Explaining
from medinterp.explanation import Explanation, OneInput
from medinterp.feature_options import FeatureOptions
from medinterp.progress import OnStep, ignore
from medinterp.results import InputResult
from medinterp.volume import Region, Step, Volume


@dataclass(frozen=True, eq=False)
class Look:
    """A scan, its network, and what is asked about a block of it.

    Args:
        explaining: the open scan.
        options: what is asked.
        explanation: the measurement, where there is a target.
        masks: by concept.
        within: what concepts are compared with.
        max_voxels: that the network may see at once.
        on_step: told of the progress.
    """

    explaining: Explaining
    options: FeatureOptions
    explanation: Explanation | None
    masks: Mapping[str, Region]
    within: Region | None
    max_voxels: int | None
    on_step: OnStep = ignore

    @cached_property
    def name(self) -> str:
        """Of the scan."""
        return next(iter(self.explaining.results))

    @property
    def input(self) -> InputResult:
        """The scan and its noise."""
        return self.explaining.results[self.name]

    @cached_property
    def region(self) -> Region | None:
        """The target."""
        return None if self.explanation is None else self.explanation.locate(self.input.scan, None)

    @cached_property
    def reader(self) -> BlockReader:
        """What reads the scan's features."""
        path = self.explaining.paths[self.name]
        forward = OneInput(self.name, path.denoiser, path.sample, path.evaluations.single)
        target = (
            None if self.explanation is None or self.region is None else self.explanation.measure.target(self.region)
        )
        inside = target if isinstance(target, (ClassLogit, ClassRegionScore)) else None
        image, sigma = self.explaining.images[self.name], self.explaining.sigmas[self.name]
        stride = int(getattr(path.denoiser, "stride", STRIDE))
        return BlockReader(forward, self.name, image, sigma, path.radius, stride, self.max_voxels, inside)

    @cached_property
    def block(self) -> str:
        """Name of the block."""
        return self.reader.choose(self.options.block, rectified=self.options.kind == "nmf")

    @property
    def generator(self) -> torch.Generator:
        """A source of random numbers, the same every time."""
        return torch.Generator().manual_seed(self.explaining.seed)

    @cached_property
    def box(self) -> Box:
        """The part of the scan that is looked at: the target and its margin, or all of it."""
        if self.region is None or self.options.kind == "concepts":
            return self.reader.whole
        inside = np.argwhere(self.region.mask)
        margin = [int(np.ceil(self.options.margin_mm / mm)) for mm in self.input.scan.grid.spacing_mm]
        low = [max(0, int(n) - m) for n, m in zip(inside.min(axis=0), margin, strict=True)]
        high = [int(n) + m + 1 for n, m in zip(inside.max(axis=0), margin, strict=True)]
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2])).clipped(self.reader.whole)

    def features(self) -> BlockMap:
        """Return the block's features there."""
        return self.reader.read(self.block, self.options.call, self.box, self.on_step)

    def volumes(self, values: BlockMap, step: Step, unit: str) -> tuple[Volume, Volume]:
        """Return one channel on the block's grid, and on the scan's, zero where nothing was computed."""
        scan = self.input.scan
        own = Volume(
            values.values[0].cpu().numpy(), values.grid(scan.grid), unit, scan.modality, scan.provenance.then(step)
        )
        shown = torch.zeros((1, *scan.grid.shape))
        at = (slice(None), *self.box.slices)
        shown[at] = values.on_scan(scan.grid.shape)[0].cpu()[at]
        return own, scan.derive(shown.numpy(), step, unit=unit)
