"""Regions in-painted by the model itself: what it expects in their place, given the rest of the scan."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medinterp.attribution.baselines import Point, copied
from medinterp.attribution.crop import crop_box
from medinterp.attribution.result import Forward, image_forward
from medinterp.attribution.supervoxels import Supervoxels
from medinterp.attribution.targets import Box
from medinterp.attribution.targets.box import bounding_box
from medinterp.errors import ConfigError, MethodNotValid

STRIDE = 8
"""Crops start on a multiple of it: the distance of two positions of the network's coarsest level."""


@dataclass(frozen=True, eq=False)
class Inpainted:
    """Every supervoxel as the model expects it from what surrounds it, with noise of the scan's level.

    The region is declared unknown: its voxels are replaced by noise and its noise level, in the map that the model is
    told, is raised to the scan's own spread, then lowered step by step towards the scan's level, with fresh noise each
    time. The posterior mean under the last level, plus the scan's noise, is the filling. Needs a model that was trained
    with noise maps; each region is filled by itself, given the rest of the scan.

    Args:
        supervoxels: the regions.
        generator: its state is copied at each call, so that every call draws the same noise and leaves it unchanged.
        evaluations: noise levels per region, each one evaluation of the model on a crop around the region; one gives
            the expected content, more give a draw of it.
        start: the first noise level, in standard deviations of the scan.
        context: voxels kept around a region.

    Source:
        Lugmayr et al., "RePaint", CVPR 2022, algorithm 1, with the known voxels conditioned on through their noise
        level instead of by repeated replacement.
    """

    supervoxels: Supervoxels
    generator: torch.Generator
    evaluations: int = 3
    start: float = 1.0
    context: int = 16
    name: str = "inpainted"
    reach: int | None = None

    def __post_init__(self) -> None:
        if self.evaluations < 1 or not self.start > 0 or self.context < 1:
            raise ConfigError(
                f"in-painting with {self.evaluations} evaluations from {self.start} standard deviations and a context "
                f"of {self.context} voxels: expected at least 1, a positive number and at least 1"
            )

    def crop(self, box: Box) -> "Inpainted":
        """Return the same for the part of the scan inside a box."""
        return replace(self, supervoxels=self.supervoxels.crop(box))

    def __call__(self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Point:
        """Return the image with every supervoxel in-painted, and the noise level as it is.

        Raises:
            MethodNotValid: there are several inputs, or the forward's image cannot stand in for its input.
        """
        forward = image_forward(forward)
        (name, image), generator = next(iter(inputs.items())), copied(self.generator)
        if len(inputs) > 1:
            raise MethodNotValid(
                f"in-painting by the model needs one input, got {sorted(inputs)}; use the blurred baseline"
            )
        filled = image.clone()
        with torch.no_grad():  # the filling is a fixed point of comparison, not a function of the input
            for label in range(1, len(self.supervoxels) + 1):
                if bool((self.supervoxels.labels == label).any()):
                    hole = (self.supervoxels.labels == label).to(image.device)
                    part, box = self._fill(forward, name, image, sigmas[name], hole, generator)
                    inside = hole[box.slices]
                    filled[(..., *box.slices)] = torch.where(inside, part, filled[(..., *box.slices)])
        return {name: filled}, dict(sigmas)

    def _fill(
        self, forward: Forward, name: str, image: Tensor, sigma: Tensor, hole: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Box]:
        """Return the crop around a region with the region in-painted, and where it lies."""
        i, j, k = image.shape[2:]
        box = crop_box(bounding_box(hole, "supervoxel"), self.context, STRIDE, (i, j, k))
        inside = hole[box.slices]
        known, level = image[(..., *box.slices)], sigma.expand(1, -1, i, j, k)[(..., *box.slices)]
        first, last = self.start * float(image.std()), float(level.mean())
        around = known[:, :, ~inside]
        guess = (around if around.numel() else known).mean().expand(known.shape)
        for number in range(self.evaluations):
            unknown = max(last, first * (max(last, 1e-6 * first) / first) ** (number / self.evaluations))
            noisy = torch.where(inside, guess + unknown * self._noise(known, generator), known)
            guess = forward({name: noisy}, {name: torch.where(inside, level.clamp_min(unknown), level)})
            if guess.shape != known.shape:
                raise MethodNotValid(
                    f"in-painting needs an image of the input's shape {tuple(known.shape)}, the forward's is "
                    f"{tuple(guess.shape)}; use the blurred baseline"
                )
        return guess + level * self._noise(known, generator), box

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
        return noise.to(like.device)
