"""Images derived from a result that can be explained in its place: what was removed, a difference, the variance."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from medinterp.attribution.result import Forward, image_forward
from medinterp.denoisers.base import Denoiser, evaluate, jacobian_product
from medinterp.errors import ConfigError, GridMismatch, InputError

COMB_STRIDES = (2, 4, 8)
"""Distances between the probes of a variance map: divisors of a network's stride, so that a crop has the same ones."""


def explained_by(forward: Forward) -> str:
    """Return what a forward says its image is."""
    return str(getattr(forward, "explained", "output image"))


@dataclass(frozen=True)
class Removed:
    """What the model took away from one input: the input minus the image.

    Args:
        forward: makes the image.
        input_name: which input; may be left out where there is only one.
    """

    forward: Forward
    input_name: str | None = None

    @property
    def image_forward(self) -> Forward:
        """The forward of the output image that is looked at."""
        return image_forward(self.forward)

    @property
    def explained(self) -> str:
        """What the image is."""
        return f"what was removed by: {explained_by(self.forward)}"

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        """Return the input minus the image; gradients reach the input on both ways.

        Raises:
            InputError: the input is not named and there are several, or has another name.
            GridMismatch: input and image have different shapes.
        """
        scan = inputs[one_of(inputs, self.input_name)]
        return scan - _same_shape(self.forward(inputs, sigmas), scan, "the input")


@dataclass(frozen=True)
class Difference:
    """How the image differs from another model's on the same inputs.

    The other may be a reference denoiser, or the same pipeline with one modality only, on the scale of the fused image.

    Args:
        forward: makes the image.
        other: makes the image it is compared with.
    """

    forward: Forward
    other: Forward

    @property
    def image_forward(self) -> Forward:
        """The forward of the output image that is looked at."""
        return image_forward(self.forward)

    @property
    def explained(self) -> str:
        """What the image is."""
        return f"difference of: {explained_by(self.forward)}, and: {explained_by(self.other)}"

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        """Return the image minus the other model's.

        Raises:
            GridMismatch: the two have different shapes.
        """
        image = self.forward(inputs, sigmas)
        return image - _same_shape(self.other(inputs, sigmas), image, "the image")


@dataclass(frozen=True)
class Variance:
    """How uncertain each voxel still is after denoising: the posterior variance, sigma² times the Jacobian's diagonal.

    Assumes that the forward is the posterior mean of one input under white Gaussian noise of the given level: one step,
    no sampler behind it. The diagonal is read off with lattices of probes of alternating sign, ``stride`` voxels apart
    along each axis, one forward-mode derivative each: 8 for a stride of 2, 64 for 4. What a voxel owes to others at
    that distance and does not cancel is the error: 3 % of the map where an image's correlations fall off within a few
    voxels, 40 % (stride 2) and 9 % (stride 4) where they reach across the image: compare two strides when in doubt.

    On a piecewise linear network (convolutions and ReLU) the Jacobian is constant around the scan, so that the
    variance's gradient with respect to the voxels is zero: ask a perturbation method.

    Args:
        forward: makes the image.
        input_name: which input; may be left out where there is only one.
        stride: distance of the probes.

    Source:
        Manor & Michaeli, "On the posterior distribution in denoising", ICLR 2024, eq. 4.
    """

    forward: Forward
    input_name: str | None = None
    stride: int = 2
    degree: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.stride not in COMB_STRIDES:
            raise ConfigError(f"a variance with probes {self.stride} voxels apart: choose one of {COMB_STRIDES}")

    @property
    def image_forward(self) -> Forward:
        """The forward of the output image that is looked at."""
        return image_forward(self.forward)

    @property
    def explained(self) -> str:
        """What the image is."""
        return f"posterior variance of: {explained_by(self.forward)}"

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        """Return the variance of every voxel, in the unit of the image squared.

        Raises:
            InputError: the input is not named and there are several, or has another name.
            GridMismatch: input and image have different shapes.
        """
        name = one_of(inputs, self.input_name)
        scan, level = inputs[name], sigmas[name]

        def denoise(x: Tensor, sigma: Tensor, *, cond: Tensor | None = None) -> Tensor:
            return _same_shape(self.forward({**inputs, name: x}, {**sigmas, name: sigma}), x, "the input")

        diagonal = torch.zeros_like(scan)
        signs = _checkerboard(scan, self.stride)
        for start in product(range(self.stride), repeat=3):
            i, j, k = (slice(offset, None, self.stride) for offset in start)
            probe = torch.zeros_like(scan)
            probe[..., i, j, k] = signs[..., i, j, k]
            _, answer = jacobian_product(denoise, scan, level, probe)
            diagonal = diagonal + probe * answer
        return level.square() * diagonal


def _checkerboard(like: Tensor, stride: int) -> Tensor:
    """Return +1 and -1 in cubes of ``stride`` voxels, so that what neighbouring probes leak into a voxel cancels."""
    numbers = [torch.arange(size, device=like.device) // stride for size in like.shape[2:]]
    cubes = numbers[0][:, None, None] + numbers[1][None, :, None] + numbers[2][None, None, :]
    return (1 - 2 * (cubes % 2)).to(like).expand(like.shape)


@dataclass(frozen=True)
class DenoiserForward:
    """The forward of one evaluation of a denoiser on one input.

    Args:
        denoiser: called as ``denoiser(image, sigma)``.
        input_name: which input; may be left out where there is only one.
        explained: what the image is.
    """

    denoiser: Denoiser
    input_name: str | None = None
    explained: str = "reference denoiser, one evaluation"

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        """Return the denoised input.

        Raises:
            InputError: the input is not named and there are several, or has another name.
        """
        name = one_of(inputs, self.input_name)
        return evaluate(self.denoiser, inputs[name], sigmas[name])


def one_of(inputs: Mapping[str, Tensor], name: str | None) -> str:
    """Return the name of the input that is meant.

    Raises:
        InputError: it is not named and there are several, or there is none of that name.
    """
    if name is None and len(inputs) == 1:
        return next(iter(inputs))
    if name is None or name not in inputs:
        what = "no input was named" if name is None else f"there is no input '{name}'"
        raise InputError(f"{what}: name one of {', '.join(sorted(inputs))}")
    return name


def _same_shape(image: Tensor, other: Tensor, what: str) -> Tensor:
    if image.shape != other.shape:
        raise GridMismatch(
            f"an image of shape {tuple(image.shape)} cannot be compared with {what} of shape {tuple(other.shape)}"
        )
    return image
