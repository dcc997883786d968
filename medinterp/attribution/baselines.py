"""What a scan is compared with: the start of a path, and what takes the place of regions that are removed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from medinterp.attribution.result import Forward, image_forward
from medinterp.attribution.targets import Box
from medinterp.errors import ConfigError, InputError, MethodNotValid

Point = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Images and noise levels by name."""


@runtime_checkable
class Baseline(Protocol):
    """The start of the path from a reference input to the scan.

    ``reach`` is how many voxels away the baseline of one voxel looks (None: anywhere).
    """

    @property
    def name(self) -> str:
        """What the baseline is called."""

    @property
    def reach(self) -> int | None:
        """Voxels of the scan around a voxel that its baseline depends on."""

    def __call__(self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Point:
        """Return the baseline's images and noise levels."""


@dataclass(frozen=True)
class Ray:
    """Zero image at zero noise level: the path scales scan and noise level together.

    Exact with one path point on a network that is piecewise linear through the origin. On any other it compares the
    scan with an image of zeros, which is air in MRI and a tissue in CT, and never seen in training: ask for it by name
    only.
    """

    name: str = "ray"
    reach: int | None = 0

    def __call__(self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Point:
        """Return zeros in the shape of every tensor."""
        return (
            {name: torch.zeros_like(image) for name, image in inputs.items()},
            {name: torch.zeros_like(sigma) for name, sigma in sigmas.items()},
        )


@dataclass(frozen=True)
class Zero:
    """Zero images; the noise level is held.

    Zero is air in MRI and a tissue in CT, and an image of it was never seen in training: ask for it by name only.
    """

    name: str = "zero"
    reach: int | None = 0

    def __call__(self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Point:
        """Return zeros in the shape of every image, and the noise levels as they are."""
        return {name: torch.zeros_like(image) for name, image in inputs.items()}, dict(sigmas)


@dataclass(frozen=True)
class ModalityNull:
    """What the model takes for "this modality was not acquired": a constant image, and a noise level where that counts.

    There is no default: which value stands for an absent modality is a fact of the model, of its training with dropped
    modalities (often 0 after normalisation) or of its fusion (a large noise level gives the modality no weight).

    Args:
        images: the value of each input when it is absent.
        sigmas: its noise level when it is absent; the scan's own where none is given.
    """

    images: Mapping[str, float]
    sigmas: Mapping[str, float] = field(default_factory=dict)
    name: str = "modality_null"
    reach: int | None = 0

    def __call__(self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Point:
        """Return the constant images and noise levels.

        Raises:
            InputError: an input has no null value.
        """
        missing = sorted(set(inputs) - set(self.images))
        if missing:
            raise InputError(f"the modality null has no value for {', '.join(missing)}; it has {dict(self.images)}")
        levels = {
            name: torch.full_like(sigma, self.sigmas[name]) if name in self.sigmas else sigma
            for name, sigma in sigmas.items()
        }
        return {name: torch.full_like(image, self.images[name]) for name, image in inputs.items()}, levels


@dataclass(frozen=True)
class LocalMean:
    """The mean of each voxel's neighbourhood; the noise level is held.

    Args:
        radius: voxels to either side; near the border the mean is over what there is.
    """

    radius: int = 4
    name: str = "local_mean"

    def __post_init__(self) -> None:
        if self.radius < 1:
            raise ConfigError(f"a local mean over a radius of {self.radius} voxels: expected at least 1")

    @property
    def reach(self) -> int:
        """Voxels to either side."""
        return self.radius

    def __call__(self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Point:
        """Return the images averaged over their neighbourhoods, and the noise levels as they are."""
        return {name: self._average(image) for name, image in inputs.items()}, dict(sigmas)

    def _average(self, image: Tensor) -> Tensor:
        there = torch.ones_like(image[:, :1])
        for axis in range(3):  # one axis after another: the mean over a box is the mean of means over lines
            size, padding = [1, 1, 1], [0, 0, 0]
            size[axis], padding[axis] = 2 * self.radius + 1, self.radius
            line = image.new_ones(image.shape[1], 1, *size)
            sums = functional.conv3d(image, line, padding=padding, groups=image.shape[1])
            image = sums / functional.conv3d(there, line[:1], padding=padding)
        return image


@dataclass(frozen=True)
class Blurred:
    """The scan without its detail: a Gaussian blur; the noise level is held.

    Args:
        width: standard deviation of the Gaussian, in voxels; cut off at three of them, the border voxel repeated.
    """

    width: float = 4.0
    name: str = "blurred"

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ConfigError(f"a blurred baseline of width {self.width} voxels: expected a positive width")

    @property
    def reach(self) -> int:
        """Voxels to where the Gaussian is cut off."""
        return math.ceil(3 * self.width)

    def __call__(self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Point:
        """Return the blurred images and the noise levels as they are."""
        return {name: self._blur(image) for name, image in inputs.items()}, dict(sigmas)

    def _blur(self, image: Tensor) -> Tensor:
        offsets = torch.arange(-self.reach, self.reach + 1, dtype=image.dtype, device=image.device)
        kernel = torch.exp(-0.5 * (offsets / self.width) ** 2)
        kernel = kernel / kernel.sum()
        channels = image.shape[1]
        for axis in range(3):
            shape, pad = [1, 1, 1], [0] * 6
            shape[axis] = len(kernel)
            pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = self.reach
            weight = kernel.reshape(1, 1, *shape).expand(channels, 1, *shape)
            image = functional.conv3d(functional.pad(image, pad, mode="replicate"), weight, groups=channels)
        return image


@dataclass(frozen=True, eq=False)
class NoiseResampled:
    """The cleaned scan with fresh noise of the same level: what else could have been measured; the level is held.

    Args:
        generator: its state is copied at each call, so that every call draws the same noise and leaves it unchanged.
        context: voxels around what is replaced that a method which fills regions needs; farther ones change the
            cleaned image too little to matter for what is only a filling.
    """

    generator: torch.Generator
    context: int = 16
    name: str = "noise_resampled"
    reach: int | None = None

    def __post_init__(self) -> None:
        if self.context < 0:
            raise ConfigError(f"a context of {self.context} voxels: expected at least 0")

    def __call__(self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Point:
        """Return the forward's image plus noise.

        Raises:
            MethodNotValid: the forward's image cannot stand in for the input (several inputs, or another shape).
        """
        with torch.no_grad():  # the baseline is a fixed point of the path, not a function of the input
            clean = image_forward(forward)(inputs, sigmas)
        name, image = next(iter(inputs.items()))
        if len(inputs) > 1 or clean.shape != image.shape:
            raise MethodNotValid(
                f"a noise-resampled baseline needs one input with the shape of the output; got {sorted(inputs)} and an "
                f"output of {tuple(clean.shape)}; use the blurred baseline"
            )
        copy = copied(self.generator)
        noise = torch.randn(image.shape, generator=copy, dtype=image.dtype, device=copy.device).to(image.device)
        return {name: clean + sigmas[name] * noise}, dict(sigmas)


@dataclass(frozen=True, eq=False)
class Given:
    """Images chosen by the caller; the noise level is held.

    Args:
        images: one per input, in its shape.
        name: what to call it in tables.
    """

    images: Mapping[str, Tensor]
    name: str = "given"
    reach: int | None = None

    def crop(self, box: Box) -> "Given":
        """Return the part of the images inside a box."""
        return Given({name: image[(..., *box.slices)] for name, image in self.images.items()}, self.name)

    def __call__(self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Point:
        """Return the given images.

        Raises:
            InputError: an image is missing or has another shape than its input.
        """
        shapes = {name: tuple(image.shape) for name, image in self.images.items()}
        expected = {name: tuple(image.shape) for name, image in inputs.items()}
        if shapes != expected:
            raise InputError(f"a baseline of shapes {shapes} for inputs of shapes {expected}: expected the same")
        return {name: image.to(inputs[name]) for name, image in self.images.items()}, dict(sigmas)


def copied(generator: torch.Generator) -> torch.Generator:
    """Return a generator in the same state, so that drawing from it leaves the original as it is."""
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    return copy
