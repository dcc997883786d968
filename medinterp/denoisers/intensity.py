"""Which of a network's intensity units a scan's unit is: fixed, or read from the scan's own brightness."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.errors import ConfigError, InputError


@dataclass(frozen=True, eq=False)
class Units:
    """What a scan's intensities are in the network's unit, (x - offset) / scale, one pair for each image."""

    offset: Float[Tensor, "#B 1 1 1 1"]
    scale: Float[Tensor, "#B 1 1 1 1"]


@runtime_checkable
class Intensity(Protocol):
    """Find the unit of a network that was trained at one brightness in scans of any."""

    def __call__(self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B 1 1 1 1"]) -> Units:
        """Return offset and scale of noisy images; ``sigma`` is their noise level, in their unit."""
        ...


@dataclass(frozen=True)
class FixedIntensity:
    """Units known beforehand: HU of a CT, or scans that were scaled as the network's training was.

    The denoiser is then not homogeneous: twice the image is another image to it, and the products of gradient and
    input do not add up to the result.

    Args:
        scale: what one unit of the network is in the scan's unit.
        offset: the scan's value that is the network's zero.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ConfigError(f"an intensity scale of {self.scale}: expected a positive number")

    def __call__(self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B 1 1 1 1"]) -> Units:
        """Return the fixed pair."""
        return Units(x.new_full((1, 1, 1, 1, 1), self.offset), x.new_full((1, 1, 1, 1, 1), self.scale))


@dataclass(frozen=True)
class MeanBrightness:
    """Scale each image so that its mean brightness, weighted by signal power, is ``target``; zero stays zero.

    The weighting makes air count for nothing, whatever its share of the field of view. The second and third moments
    are freed of the noise's part, <x^2> - sigma^2 and <x^3> - 3 sigma^2 <x> (exact for Gaussian noise; of Rician air
    a bias of 8 % in the scale is left at 15 % noise), so that the scale stays while a sampler lowers the noise. Where
    that would leave less than a quarter (sigma over-estimated), a quarter is kept.

    The scale follows the image smoothly and in proportion, so any network becomes homogeneous, D(a x, a sigma) =
    a D(x, sigma), and the products of gradient and input, with the noise level's share, add up to the result. What
    passes through the scale is spread over all bright voxels. Assumes a scan that is positive where there is tissue.

    Args:
        target: mean brightness in the network's unit; 0.7 is that of head MRI with its bright tissue at 1.
    """

    target: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.target < float("inf"):
            raise ConfigError(f"a target brightness of {self.target}: expected a positive number")

    def __call__(self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B 1 1 1 1"]) -> Units:
        """Return offset 0 and the scale of each image.

        Raises:
            InputError: the image is not brighter than zero on the whole.
        """
        dims, variance = (1, 2, 3, 4), sigma.square()
        mean, square, cube = (x.pow(power).mean(dim=dims, keepdim=True) for power in (1, 2, 3))
        if not bool((cube > 0).all()):
            raise InputError(
                "a scan that is not brighter than zero on the whole (CT in HU?) has no mean brightness to scale it by; "
                "use FixedIntensity(scale, offset)"
            )
        power = torch.maximum(square - variance, square / 4)
        weighted = torch.maximum(cube - 3 * variance * mean, cube / 4)
        return Units(torch.zeros_like(mean), weighted / power / self.target)
