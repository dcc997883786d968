"""One measurement to explain: the region, the method, and the checks that make its certificate."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from medinterp.assessment.certificate import Certificate, certify, homogeneity_residual
from medinterp.assessment.full import CheckOptions
from medinterp.assessment.randomisation import compare_with_random, randomised
from medinterp.attribution import (
    Attribution,
    Attributor,
    Box,
    CropOptions,
    InputXGradient,
    Saliency,
    Target,
    explain_region,
)
from medinterp.attribution.capabilities import capabilities
from medinterp.attribution.crop import Gradients, crop_box, crop_method, exact_box, reference_box
from medinterp.attribution.measures import Mean, Measure
from medinterp.attribution.result import Forward, Kind
from medinterp.denoisers.base import Denoiser
from medinterp.denoisers.focus import Triple
from medinterp.denoisers.footprint import gradient_bytes
from medinterp.denoisers.network import STRIDE, BiasFreeUNet
from medinterp.denoisers.weights import PretrainedDenoiser
from medinterp.errors import DeviceError, MethodNotValid
from medinterp.sampling.checkpoints import one_checkpoint_a_step
from medinterp.volume import Region, Volume

PROOF_HALO = 8
"""Voxels of context for the checks that repeat an explanation: 99.5 % of a region's gradient lies within."""


@runtime_checkable
class MethodOnScan(Protocol):
    """A method that is made once scan and region are known, such as one over supervoxels."""

    @property
    def name(self) -> str:
        """What the method is called."""

    def on(self, scan: Volume, region: Region, seed: int) -> Attributor:
        """Return the method for one region of one scan."""


@dataclass(frozen=True)
class Explanation:
    """What is to be explained: a measurement in a region, by a method.

    Args:
        method: the method, or what makes it from scan and region.
        locate: finds the region (of a mask file, a sphere, a voxel) from the scan and, where known, what was removed
            from it.
        measure: what is measured in the region.
        halo: voxels of context around the region instead of the exact receptive field; its error is measured.
        checks: those of a full certificate; None for a basic one.
    """

    method: Attributor | MethodOnScan
    locate: Callable[[Volume, Volume | None], Region]
    measure: Measure = field(default_factory=Mean)
    halo: int | None = None
    checks: CheckOptions | None = None

    def attributor(self, scan: Volume, region: Region, seed: int) -> Attributor:
        """Return the method for one region of one scan."""
        make = getattr(self.method, "on", None)
        return self.method if make is None else make(scan, region, seed)  # type: ignore[return-value]


@dataclass(frozen=True)
class Evaluations:
    """How often the prior is evaluated on the way to an image.

    Args:
        count: one after another.
        a_step: of them in one step of the sampler.
        random: whether the image is drawn, so that a crop's would be another.
    """

    count: int = 1
    a_step: int = 1
    random: bool = False

    @property
    def single(self) -> bool:
        """Whether the image is the prior's one answer."""
        return self.count == 1 and not self.random


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

    attributor: Attributor
    measure: Measure
    name: str
    image: Tensor
    sigma: Tensor
    target: Target
    denoiser: Denoiser
    radius: int | None
    sample: Callable[[Denoiser, Tensor, Tensor], Tensor]
    seed: int
    evaluations: Evaluations = Evaluations()

    def forward(self, denoiser: Denoiser) -> Forward:
        """Return the very forward that made the image, with the given denoiser, as the measure looks at it."""
        return self.measure.view(OneInput(self.name, denoiser, self.sample, self.evaluations.single))

    def usual_halo(self) -> int | None:
        """Return the context that is taken when none is asked for: all of it, but little for methods over regions.

        They evaluate the network hundreds of times.
        """
        return PROOF_HALO if self.by_regions else None

    @property
    def by_regions(self) -> bool:
        """Whether the method is one over regions."""
        return hasattr(self.attributor, "crop")

    def crop(self, halo: int | None) -> Box:
        """Return the part of the scan that an explanation with this halo computes on; None for all that matters."""
        shape = self._shape()
        exact = exact_box(self.attributor, self.target, shape, self.measure.radius(self.radius), self.stride)
        return exact if halo is None else crop_box(self.target.support(), halo, self.stride, shape).clipped(exact)

    def reference(self, halo: int | None) -> Box:
        """Return the largest crop that an explanation with this halo is made on: the one its error is measured on."""
        crop = self.crop(halo)
        if halo is None or self.by_regions or crop == self.crop(None):
            return crop
        radius = self.measure.radius(self.radius)
        options = CropOptions(stride=self.stride)
        return reference_box(self.target, halo, self.crop(None), self._shape(), radius, options)

    @property
    def network(self) -> BiasFreeUNet | None:
        """Our network, where nothing else makes the image, and nothing is drawn; else None."""
        network = self.denoiser.network if isinstance(self.denoiser, PretrainedDenoiser) else None
        return network if not self.evaluations.random and isinstance(network, BiasFreeUNet) else None

    @property
    def plain(self) -> bool:
        """Whether the method takes gradients of the model as it is, so that a sampler may keep a checkpoint a step."""
        declared = capabilities(self.attributor)
        return declared is not None and declared.rule == "gradient"

    def looked_at(self, crop: Box) -> tuple[Triple, Triple] | None:
        """Return the part of a crop that the prior's last answer is asked for; None for all of it."""
        if not self.evaluations.single:  # an evaluation in between is needed farther than the measurement
            return None
        seen = self.target.support().relative_to(crop)
        return seen.start, seen.stop

    def gradient_bytes(self, halo: int | None) -> int | None:
        """Return the memory that the method's gradient takes on that crop; None where it is not known or none is taken.

        Known for our own network.
        """
        declared = capabilities(self.attributor)
        if self.network is None or declared is None or not declared.cost.backward:
            return None
        crop = self.reference(halo)
        held = self.evaluations.a_step if self.plain else self.evaluations.count
        return int(declared.cost.memory * gradient_bytes(self.network, crop.shape, self.looked_at(crop), held))

    def require_memory(self, halo: int | None, limit: int | None) -> None:
        """Refuse what would take more memory than there is, before the work.

        Raises:
            DeviceError: the gradient takes more than ``limit`` bytes.
        """
        needed = self.gradient_bytes(halo)
        if needed is None or limit is None or needed <= limit:
            return
        small = self.gradient_bytes(PROOF_HALO) or needed
        raise DeviceError(
            f"explaining '{self.target.name}' by {self.attributor.name} takes {needed / 1e9:.1f} GB and "
            f"{limit / 1e9:.1f} GB are left; raise --max-memory, explain a smaller region, or give --halo "
            f"{PROOF_HALO} ({small / 1e9:.1f} GB), whose error is measured"
        )

    def _shape(self) -> tuple[int, int, int]:
        return self.image.shape[2], self.image.shape[3], self.image.shape[4]

    def explain(
        self,
        *,
        halo: int | None,
        denoiser: Denoiser | None = None,
        gradients: Gradients | None = None,
    ) -> Attribution:
        """Explain the measurement, on the crop that matters.

        Args:
            halo: context around the region; None for all that matters.
            denoiser: stands in for the case's own in a check.
            gradients: kept of this measurement by this very denoiser on this very image.
        """
        with one_checkpoint_a_step() if self.plain and not self.evaluations.single else nullcontext():
            return explain_region(
                self.attributor,
                self.forward(self.denoiser if denoiser is None else denoiser),
                {self.name: self.image},
                {self.name: self.sigma},
                self.target,
                radius=self.measure.radius(self.radius),
                halo=halo,
                options=CropOptions(stride=self.stride, gradients=gradients),
            )

    @property
    def stride(self) -> int:
        """Crops start on a multiple of this many voxels."""
        return int(getattr(self.denoiser, "stride", STRIDE))

    def explain_or_plain(self, kind: Kind, denoiser: Denoiser, gradients: Gradients | None = None) -> Attribution:
        """Explain with another denoiser; by the plain gradient where the method has nothing to hold on to.

        A denoiser without layers, such as the one that returns its input, has no block and no activation whose rule
        could differ from the gradient's.
        """
        try:
            return self.explain(halo=None, denoiser=denoiser, gradients=gradients)
        except MethodNotValid:
            if isinstance(getattr(denoiser, "network", denoiser), nn.Module):
                raise
            plain = InputXGradient() if kind == "contribution" else Saliency()
            return replace(self, attributor=plain).explain(halo=None, denoiser=denoiser, gradients=gradients)

    def _in_place(self, denoiser: Denoiser) -> Denoiser:
        """Return another network inside whatever the denoiser is wrapped in, so that they differ in weights alone."""
        put = getattr(self.denoiser, "with_network", None)
        return denoiser if put is None or not isinstance(denoiser, nn.Module) else put(denoiser)

    def around(self, halo: int) -> tuple[Box, "Case"]:
        """Return the box of ``halo`` voxels around the region, and the case there; its answer is near, not the same."""
        box = crop_box(self.target.support(), halo, self.stride, self._shape())
        cut = (..., *box.slices)
        sigma = self.sigma if max(self.sigma.shape[2:]) == 1 else self.sigma[cut]
        attributor, target = crop_method(self.attributor, box), self.target.crop(box)
        return box, replace(self, attributor=attributor, image=self.image[cut], sigma=sigma, target=target)

    def certify(self, attribution: Attribution, kept: "Kept | None" = None) -> Certificate:
        """Check the map against a random network and the network's own linearity, on a crop close to the region.

        Args:
            attribution: what ``explain`` found.
            kept: what was found for another method of this measurement.
        """
        declared = capabilities(self.attributor)
        judge = partial(certify, attribution, accounts=declared is None or declared.accounts)
        network = getattr(self.denoiser, "network", None)
        if network is None:
            return judge()
        kept = Kept() if kept is None else kept
        if kept.random is None:
            kept.random = randomised(network, torch.Generator().manual_seed(self.seed))
        if kept.homogeneity is None:
            _, closest = self.around(0)  # homogeneity holds voxel by voxel
            kept.homogeneity = homogeneity_residual(self.denoiser, closest.image, closest.sigma)
        box, near = self.around(PROOF_HALO)

        def explain(denoiser: Denoiser) -> Attribution:
            gradients = kept.of_random if denoiser is kept.random else kept.of_input
            return near.explain_or_plain(attribution.kind, self._in_place(denoiser), gradients)

        maps = {name: image[(..., *box.slices)] for name, image in attribution.maps.items()}
        randomisation = compare_with_random(replace(attribution, maps=maps), explain, kept.random)
        return judge(randomisation=randomisation, homogeneity=kept.homogeneity)


@dataclass(eq=False)
class Kept:
    """What the methods of one measurement on one image have in common, found once for all of them.

    Args:
        gradients: of the measurement.
        random: the network of random weights that maps are compared with.
        of_random: its gradients, close to the region.
        of_input: those of a denoiser that returns its input.
        homogeneity: how far the denoiser is from linear in scan and noise level together.
    """

    gradients: Gradients = field(default_factory=dict)
    random: nn.Module | None = None
    of_random: Gradients = field(default_factory=dict)
    of_input: Gradients = field(default_factory=dict)
    homogeneity: float | None = None
