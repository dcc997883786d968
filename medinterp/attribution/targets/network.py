"""Targets of a downstream network: the score it gives a class when it sees the cleaned image."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Bool, Float
from torch import Tensor, nn

from medinterp.attribution.targets.box import Box
from medinterp.attribution.targets.linear import RegionMean
from medinterp.errors import ConfigError, InputError

Network = Callable[[Tensor], Tensor]
"""From an image (B, C, I, J, K) to scores: a network, or a bundle's inferer bound to one."""


@dataclass(frozen=True, eq=False)
class ClassLogit:
    """The score (logit) that a classification network gives one class when it sees the cleaned image.

    Args:
        network: from the image to scores (B, classes), before any softmax; any MONAI classifier in ``eval()``.
        index: which class.
        shape: voxels of the image; the network reads all of them, so there is no smaller crop.
        name: what to call it in tables; free of patient data.
        prepare: applied to the image first: the intensity scaling the network was trained with. Must be
            differentiable for gradient methods, and must not move voxels.

    Raises:
        ConfigError: the network is in training mode.
    """

    network: Network
    index: int
    shape: tuple[int, int, int]
    name: str
    prepare: Network | None = None
    degree: None = field(default=None, init=False)
    linear: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        require_evaluation_mode(self.network, self.name)

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Return the class's score of each sample.

        Raises:
            InputError: the network's output is not (B, classes), or has no such class.
        """
        scores = scores_of(self.network, self.prepare, image, self.name)
        if scores.ndim != 2 or not 0 <= self.index < scores.shape[1]:
            raise InputError(
                f"the network of the target '{self.name}' returned scores of shape {tuple(scores.shape)}: expected "
                f"(samples, classes) with a class {self.index}; for a segmentation network take the score of a region"
            )
        return scores[:, self.index]

    def unit(self, image_unit: str) -> str:
        """Return that of a ratio: scores have none."""
        return "1"

    def support(self) -> Box:
        """Return the whole image."""
        return Box((0, 0, 0), self.shape)

    def crop(self, box: Box) -> "ClassLogit":
        """Return itself; there is no smaller part that gives the same score.

        Raises:
            InputError: the box is not the whole image.
        """
        require_whole(self.support(), box, self.name)
        return self


@dataclass(frozen=True, eq=False)
class ClassRegionScore:
    """The mean score (logit) of one class over a region, in a segmentation network that sees the cleaned image.

    Args:
        network: from the image to scores (B, classes, I, J, K), before any softmax; any MONAI segmentation network in
            ``eval()``, or ``functools.partial(inferer, network=network)`` for one that runs in windows.
        index: which class.
        mask: True inside the region, on the image's grid.
        name: what to call it in tables; free of patient data.
        prepare: applied to the image first: the intensity scaling the network was trained with.

    Raises:
        ConfigError: the network is in training mode.
        EmptyRegion: the mask holds no voxel.
    """

    network: Network
    index: int
    mask: Bool[Tensor, "I J K"]
    name: str
    prepare: Network | None = None
    degree: None = field(default=None, init=False)
    linear: bool = field(default=False, init=False)
    _mean: RegionMean = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_evaluation_mode(self.network, self.name)
        object.__setattr__(self, "_mean", RegionMean(self.mask, self.name, self.index))

    def __call__(self, image: Float[Tensor, "B C I J K"]) -> Float[Tensor, " B"]:
        """Return the region's mean score of each sample.

        Raises:
            GridMismatch: the network's output has other voxels than the mask.
            InputError: the network's output is not (B, classes, I, J, K), or has no such class.
        """
        scores = scores_of(self.network, self.prepare, image, self.name)
        if scores.ndim != 5 or not 0 <= self.index < scores.shape[1]:
            raise InputError(
                f"the network of the target '{self.name}' returned scores of shape {tuple(scores.shape)}: expected "
                f"(samples, classes, I, J, K) with a class {self.index}; for a classifier take the logit"
            )
        return self._mean(scores)

    def unit(self, image_unit: str) -> str:
        """Return that of a ratio: scores have none."""
        return "1"

    def support(self) -> Box:
        """Return the whole image: how far the network looks is not known."""
        i, j, k = self.mask.shape
        return Box((0, 0, 0), (i, j, k))

    def crop(self, box: Box) -> "ClassRegionScore":
        """Return itself; there is no smaller part that is known to give the same score.

        Raises:
            InputError: the box is not the whole image.
        """
        require_whole(self.support(), box, self.name)
        return self


def scores_of(network: Network, prepare: Network | None, image: Tensor, name: str) -> Tensor:
    """Return what a network says about an image.

    Raises:
        InputError: it failed, or returned something else than one tensor.
    """
    try:
        scores = network(image if prepare is None else prepare(image))
    except Exception as error:  # it is the user's own, and may fail in any way
        why = f"{type(error).__name__} (--debug shows where)"  # its own words may name files
        raise InputError(f"the network of the target '{name}' failed on the image: {why}") from error
    if not isinstance(scores, Tensor):
        raise InputError(
            f"the network of the target '{name}' returned {type(scores).__name__}: expected one tensor; wrap it in a "
            "function that picks the output to explain"
        )
    return scores


def require_evaluation_mode(network: Network, name: str) -> None:
    """Check that no part of a network is in training mode, where dropout and batch statistics change its answer.

    Raises:
        ConfigError: a part is.
    """
    network = getattr(network, "func", network)  # of a functools.partial
    if isinstance(network, nn.Module) and any(module.training for module in network.modules()):
        raise ConfigError(f"the network of the target '{name}' is in training mode; call network.eval() first")


def require_whole(whole: Box, box: Box, name: str) -> None:
    """Check that a box is the whole image.

    Raises:
        InputError: it is not.
    """
    if box != whole:
        raise InputError(
            f"the target '{name}' reads the whole image of {whole.shape} voxels and cannot be moved into the crop {box}"
        )
