"""One measurement to explain: the region, the method, and the checks that make its certificate."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medinterp.assessment.certificate import Certificate, certify, check_randomisation, homogeneity_residual
from medinterp.attribution import (
    Attribution,
    Attributor,
    Box,
    CropOptions,
    RegionContrast,
    RegionMean,
    Target,
    explain_region,
)
from medinterp.attribution.crop import crop_box
from medinterp.denoisers.base import Denoiser
from medinterp.errors import ConfigError
from medinterp.volume import Region, Volume, ring

RING_GAP_MM = 2.0
RING_WIDTH_MM = 5.0
PROOF_HALO = 8
"""Voxels of context for the checks that repeat an explanation: 99.5 % of a region's gradient lies within."""


@dataclass(frozen=True)
class Explanation:
    """What is to be explained: a measurement in a region, by a method.

    Args:
        attributor: the method.
        locate: finds the region (of a mask file, a sphere, a voxel) from the scan and, where known, what was removed
            from it.
        measure: "mean" over the region, or "contrast" of the region to the ring around it.
        halo: voxels of context around the region instead of the exact receptive field; its error is measured.
    """

    attributor: Attributor
    locate: Callable[[Volume, Volume | None], Region]
    measure: str = "mean"
    halo: int | None = None

    def target(self, region: Region) -> Target:
        """Return the measurement as a function of the image.

        Raises:
            ConfigError: the measure is unknown.
        """
        inside = torch.from_numpy(region.mask.copy())
        if self.measure == "mean":
            return RegionMean(inside, region.name)
        if self.measure == "contrast":
            around = ring(region, gap_mm=RING_GAP_MM, width_mm=RING_WIDTH_MM)
            return RegionContrast(inside, torch.from_numpy(around.mask.copy()), region.name)
        raise ConfigError(f"no measure '{self.measure}': choose mean or contrast")


@dataclass(frozen=True)
class OneInput:
    """The very path that made one denoised image, as a function of inputs and noise levels.

    Args:
        name: of the input.
        denoiser: the prior, or what stands in for it in a check.
        sample: the path: denoiser, image and noise level to image.
        single: whether the path evaluates the denoiser once.
    """

    name: str
    denoiser: Denoiser
    sample: Callable[[Denoiser, Tensor, Tensor], Tensor]
    single: bool

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        """Return the image."""
        return self.sample(self.denoiser, inputs[self.name], sigmas[self.name])

    def within(self, box: Box) -> "OneInput":
        """Return the path for those who look at a box of the image only; what else it would compute is left out."""
        within = getattr(self.denoiser, "within", None)
        if within is None or not self.single:  # an evaluation in between is needed farther than the box
            return self
        return replace(self, denoiser=within((box.start, box.stop)))


@dataclass(frozen=True)
class Case:
    """One measurement on one denoised input: how it is explained, and how that is checked."""

    explanation: Explanation
    name: str
    image: Tensor
    sigma: Tensor
    target: Target
    denoiser: Denoiser
    radius: int | None
    sample: Callable[[Denoiser, Tensor, Tensor], Tensor]
    seed: int
    single: bool = False

    def forward(self, denoiser: Denoiser) -> OneInput:
        """Return the very forward that made the image, with the given denoiser."""
        return OneInput(self.name, denoiser, self.sample, self.single)

    def explain(
        self,
        *,
        halo: int | None,
        denoiser: Denoiser | None = None,
    ) -> Attribution:
        """Explain the measurement, on the crop that matters; another denoiser may stand in for a check."""
        return explain_region(
            self.explanation.attributor,
            self.forward(self.denoiser if denoiser is None else denoiser),
            {self.name: self.image},
            {self.name: self.sigma},
            self.target,
            radius=self.radius,
            halo=halo,
        )

    def around(self, halo: int) -> "Case":
        """Return the case with the scan cut to ``halo`` voxels around the region; its answer is near, not the same."""
        shape = (self.image.shape[2], self.image.shape[3], self.image.shape[4])
        box = crop_box(self.target.support(), halo, CropOptions().stride, shape)
        cut = (..., *box.slices)
        sigma = self.sigma if max(self.sigma.shape[2:]) == 1 else self.sigma[cut]
        return replace(self, image=self.image[cut], sigma=sigma, target=self.target.crop(box))

    def certify(self, attribution: Attribution) -> Certificate:
        """Check the map against a random network and the network's own linearity, on a crop close to the region."""
        network = getattr(self.denoiser, "network", None)
        if network is None:
            return certify(attribution)
        generator = torch.Generator().manual_seed(self.seed)
        near = self.around(PROOF_HALO)
        randomisation = check_randomisation(
            near.explain(halo=None),
            lambda denoiser: near.explain(halo=None, denoiser=denoiser),
            network,
            generator=generator,
        )
        closest = self.around(0)  # homogeneity holds voxel by voxel
        homogeneity = homogeneity_residual(self.denoiser, closest.image, closest.sigma)
        return certify(attribution, randomisation=randomisation, homogeneity=homogeneity)
