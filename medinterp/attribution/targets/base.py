"""The role of a target, one number of the output image in a unit, and the checks that targets share."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Shaped
from torch import Tensor

from medinterp.attribution.targets.box import Box
from medinterp.errors import GridMismatch, InputError


@runtime_checkable
class Target(Protocol):
    """One number of the output image, per sample.

    A target says in which unit its number is and whether it is linear in the image (only then does a map of a fused
    image divide exactly over the modalities). It knows the box of voxels it reads (``support``) and can be moved into a
    box (``crop``), so that it can be explained on a part of the volume.
    """

    @property
    def name(self) -> str:
        """What to call it in tables; free of patient data."""

    @property
    def degree(self) -> int | None:
        """Which power of a the number grows by when the image is scaled by a > 0; None where it is no power."""

    @property
    def linear(self) -> bool:
        """Whether the number of a sum of two images is the sum of their numbers."""

    def unit(self, image_unit: str) -> str:
        """Return the unit of the number for an image in the given unit ("HU", "a.u.", "1" for a ratio)."""

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Measure each sample of the image."""

    def support(self) -> Box:
        """Return the smallest box that holds every voxel the target reads."""

    def crop(self, box: Box) -> "Target":
        """Return the same target for the part of the image inside the box."""


def require_shape(image: Float[Tensor, "B C I J K"], mask: Shaped[Tensor, "X Y Z"], name: str) -> None:
    """Check that an image has the voxels of the mask that the target ``name`` is drawn on.

    Raises:
        GridMismatch: it has others.
    """
    if image.shape[2:] != mask.shape:
        raise GridMismatch(
            f"the target '{name}' is on {tuple(mask.shape)} voxels, the image on {tuple(image.shape[2:])}; draw the "
            "region on the grid of the output image"
        )


def require_inside(support: Box, box: Box, name: str) -> None:
    """Check that what the target ``name`` reads lies in a crop.

    Raises:
        InputError: it does not.
    """
    if not box.contains(support):
        raise InputError(f"the target '{name}' spans {support}, which does not fit in the crop {box}")


def squared_unit(image_unit: str) -> str:
    """Return the square of a unit; that of a ratio is a ratio."""
    return "1" if image_unit == "1" else f"{image_unit}²"
