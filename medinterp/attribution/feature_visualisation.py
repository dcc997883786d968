"""Feature visualisation: an image made to excite one feature, kept an image by the denoiser; a stimulus, no finding."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.attribution.activations import capture
from medinterp.attribution.result import Forward
from medinterp.denoisers.base import Denoiser, scalar_sigma
from medinterp.errors import ConfigError, MethodNotValid

INPUT = "stimulus"
"""Name under which the forward gets the image."""


@dataclass(frozen=True, eq=False)
class Stimulus:
    """An image that was made up to excite one feature of a network; it shows no patient and proves nothing about one.

    Args:
        image: (1, 1, I, J, K), the result of the denoiser, of the size of the noise level it was made with.
        block: name of the module.
        channel: which of its features.
        activation: mean of the feature over space, after each step; first of the noise that it began with.
    """

    image: Float[Tensor, "1 1 I J K"]
    block: str
    channel: int
    activation: tuple[float, ...]
    label: ClassVar[str] = "stimulus: made to excite a feature, not seen in any scan"


@dataclass(frozen=True)
class Ascent:
    """How a stimulus is searched for.

    Args:
        shape: voxels of the image; multiples of the network's stride.
        steps: number of them, each a gradient and an evaluation of the denoiser.
        rate: root mean square of a step, in noise levels.
        sigma: noise level: of the image it begins with, and told to the network and the denoiser.
    """

    shape: tuple[int, int, int] = (32, 32, 32)
    steps: int = 32
    rate: float = 0.5
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or self.steps < 1 or not self.rate > 0 or not self.sigma > 0:
            raise ConfigError(
                f"a stimulus of {self.shape} voxels in {self.steps} steps of {self.rate} at sigma {self.sigma}: "
                "expected positive numbers"
            )


def visualise_feature(
    forward: Forward,
    denoiser: Denoiser,
    block: str,
    channel: int,
    *,
    generator: torch.Generator,
    ascent: Ascent = Ascent(),
) -> Stimulus:
    """Return an image that excites one feature of a block, found by gradient ascent from noise.

    After each step the image is projected through the denoiser: what is no plausible image, such as the
    high-frequency patterns that plain ascent finds, is taken out, and only what the model of images keeps is built on.

    Args:
        forward: has the block in it; called with one input named "stimulus".
        denoiser: the projection; commonly the same network.
        block: name of the module, as ``network.named_modules()`` has it.
        channel: which of its features.
        generator: source of the noise it begins with.
        ascent: size, steps and noise level.

    Raises:
        ConfigError: no module of that name returned a feature map, or it has fewer channels.
        MethodNotValid: the feature does not depend on the image.

    Source:
        Olah, Mordvintsev & Schubert, "Feature visualization", Distill 2017 (natural-image priors).
    """
    image = ascent.sigma * torch.randn((1, 1, *ascent.shape), generator=generator, device=generator.device)
    sigma = scalar_sigma(ascent.sigma, image)
    excitation = _Excitation(forward, block, channel, sigma)
    levels = []
    for _ in range(ascent.steps):
        level, slope = excitation.with_slope(image)
        levels.append(level)
        size = float(slope.square().mean().sqrt())
        if size == 0:
            raise MethodNotValid(
                f"channel {channel} of the block '{block}' has no gradient at the image of step {len(levels) - 1}: "
                "a feature that is always off here, or a block the image does not reach; choose another"
            )
        image = image + (ascent.rate * ascent.sigma / size) * slope
        with torch.no_grad():  # a projection, not a part of the ascent
            image = denoiser(image, sigma)
    level, _ = excitation.with_slope(image)
    return Stimulus(image, block, channel, (*levels, level))


@dataclass(frozen=True)
class _Excitation:
    """The mean over space of one feature, as a function of the image."""

    forward: Forward
    block: str
    channel: int
    sigma: Tensor

    def with_slope(self, image: Tensor) -> tuple[float, Tensor]:
        """Return the excitation and its gradient."""
        leaf = image.detach().requires_grad_()
        with torch.enable_grad():
            _, outputs = capture(self.forward, {INPUT: leaf}, {INPUT: self.sigma}, self.block)
            if not outputs or outputs[-1].ndim != 5 or not 0 <= self.channel < outputs[-1].shape[1]:
                shapes = sorted({tuple(output.shape) for output in outputs})
                raise ConfigError(
                    f"channel {self.channel} of the block '{self.block}', whose outputs are {shapes or 'missing'}: "
                    "expected a module that returns (B, C, I, J, K) with that channel"
                )
            level = outputs[-1][:, self.channel].mean()
            if not level.requires_grad:
                raise MethodNotValid(f"the block '{self.block}' runs without a gradient from the image")
            (slope,) = torch.autograd.grad(level, leaf, allow_unused=True)
        return float(level.detach()), torch.zeros_like(image) if slope is None else slope
