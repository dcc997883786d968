"""Methods that remove supervoxels and see what changes: ablation, Shapley values, KernelSHAP and LIME."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from medinterp.attribution.baselines import Baseline, copied
from medinterp.attribution.capabilities import Capabilities, Cost
from medinterp.attribution.game import RegionAttribution, SupervoxelGame
from medinterp.attribution.result import Forward
from medinterp.attribution.shapley import (
    Shares,
    draw_orders,
    exact_shapley,
    kernel_shapley,
    local_linear,
    require_samples,
    sampled_shapley,
)
from medinterp.attribution.supervoxels import Supervoxels
from medinterp.attribution.targets import Box, Target
from medinterp.errors import ConfigError

MEMORY = 0.5
"""Peak memory of an evaluation without a graph, over that of one saliency."""
Method = TypeVar("Method", bound="BySupervoxels")


@dataclass(frozen=True, eq=False)
class BySupervoxels(ABC):
    """What methods share that explain a measurement by removing supervoxels: no gradient, one evaluation at a time.

    What is removed is replaced by the baseline; the choice stands in the result. The players are the supervoxels of
    every input the model looks at. On a crop only those inside play, the others cannot matter; a share is then spread
    over the region's voxels in the crop.

    Args:
        supervoxels: the regions of every input.
        baseline: what takes their place.
    """

    supervoxels: Supervoxels
    baseline: Baseline
    name: ClassVar[str]
    complete: ClassVar[bool] = True
    random: ClassVar[bool] = True

    @property
    def reach(self) -> int | None:
        """Voxels around a voxel that what replaces it depends on."""
        return reach_of(self.baseline)

    def crop(self: Method, box: Box) -> Method:
        """Return the same method for the part of the scan inside a box."""
        return replace(self, supervoxels=self.supervoxels.crop(box), baseline=cropped(self.baseline, box))

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> RegionAttribution:
        """Explain the measurement's change from the baseline to the scan, region by region.

        Raises:
            GridMismatch: inputs and supervoxels have different shapes.
            MethodNotValid: every share is exactly zero.
        """
        game = SupervoxelGame(forward, inputs, sigmas, target, self.supervoxels, self.baseline)
        return game.attribution(self.divide(game), self.name)

    @abstractmethod
    def divide(self, game: SupervoxelGame) -> Shares:
        """Return what each player of the game brings."""

    @abstractmethod
    def evaluations(self, players: int) -> int:
        """Return how many coalitions are evaluated for a number of players."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do, and what it costs for one input: the coalitions, the two ends and the baseline."""
        cost = Cost(self.evaluations(len(self.supervoxels)) + 3, 0, MEMORY)
        return Capabilities("perturbation", complete=self.complete, random=self.random, cost=cost)


@dataclass(frozen=True, eq=False)
class FeatureAblation(BySupervoxels):
    """How much the measurement falls when one supervoxel is removed and all others stay; computed by Captum.

    One evaluation a supervoxel. The shares add up to the whole change only where supervoxels do not interact: the
    residual says how far they are from it.

    Source:
        Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, section 2.
    """

    name: ClassVar[str] = "feature_ablation"
    complete: ClassVar[bool] = False
    random: ClassVar[bool] = False

    def evaluations(self, players: int) -> int:
        """Return one for each, and one for the scan as Captum sees it."""
        return players + 1

    def divide(self, game: SupervoxelGame) -> Shares:
        """Return the fall of the measurement for each player."""
        from captum import attr  # slow to import

        scans, fills, masks = game.as_features()
        held = game.measurement.tensors[len(scans) :]
        falls = attr.FeatureAblation(game.measurement).attribute(
            scans, fills, additional_forward_args=held or None, feature_mask=masks
        )
        return Shares(game.read(falls), None, len(game.players) + 1)


@dataclass(frozen=True, eq=False)
class ExactShapley(BySupervoxels):
    """The fair division of the measurement's change among at most 12 supervoxels: every coalition is evaluated.

    Nothing is left over, what does not matter gets nothing, and what is interchangeable gets the same. 2 to the power
    of the players evaluations; Captum plays every order of arrival instead, which takes more than that from 4 players
    on and cannot be done from 9.

    Source:
        Shapley, "A value for n-person games", 1953.
    """

    name: ClassVar[str] = "exact_shapley"
    random: ClassVar[bool] = False

    def evaluations(self, players: int) -> int:
        """Return two to the power of the players."""
        return 2**players

    def divide(self, game: SupervoxelGame) -> Shares:
        """Return the Shapley values.

        Raises:
            ConfigError: there are more than 12 players.
        """
        return exact_shapley(game, len(game.players))


@dataclass(frozen=True, eq=False)
class SampledShapley(BySupervoxels):
    """The fair division among any number of supervoxels, from random orders of arrival, with standard errors.

    Nothing is left over at any number of orders; only the division is uncertain. ``orders`` times the number of players
    evaluations. Captum's draws from the global generator and gives no standard error.

    Args:
        supervoxels: the regions of every input.
        baseline: what takes their place.
        generator: its state is copied at each call.
        orders: of arrival; even where they come in pairs.
        antithetic: follow each order with its reverse, which cancels the larger part of the noise.

    Source:
        Castro et al., "Polynomial calculation of the Shapley value based on sampling", 2009; Mitchell et al., "Sampling
        permutations for Shapley value estimation", 2022, section 2 (antithetic orders).
    """

    generator: torch.Generator
    orders: int = 16
    antithetic: bool = True
    name: ClassVar[str] = "sampled_shapley"

    def __post_init__(self) -> None:
        if self.orders < 1 or (self.antithetic and self.orders % 2):
            raise ConfigError(
                f"sampled Shapley values over {self.orders} orders: expected at least 1, and an even number of "
                "antithetic ones"
            )

    def evaluations(self, players: int) -> int:
        """Return one for each player of every order."""
        return self.orders * players

    def divide(self, game: SupervoxelGame) -> Shares:
        """Return the mean gains over the orders."""
        players, generator = len(game.players), copied(self.generator)
        orders = draw_orders(players, self.orders, generator=generator, antithetic=self.antithetic)
        return sampled_shapley(game, players, orders, group=2 if self.antithetic else 1)


@dataclass(frozen=True, eq=False)
class KernelShap(BySupervoxels):
    """The fair division as a weighted regression on random coalitions, with standard errors; exact when all are played.

    Nothing is left over. Captum's version draws from the global generator, rounds what coalitions reach to float32
    before it subtracts them, takes fewer samples than unknowns without a word, and gives no standard error; on the same
    coalitions the two agree.

    Args:
        supervoxels: the regions of every input.
        baseline: what takes their place.
        generator: its state is copied at each call.
        samples: coalitions drawn, at least two a player.

    Source:
        Lundberg & Lee, "A unified approach to interpreting model predictions", 2017, theorem 2.
    """

    generator: torch.Generator
    samples: int = 512
    name: ClassVar[str] = "kernel_shap"

    def evaluations(self, players: int) -> int:
        """Return the number of samples, or all coalitions."""
        return min(self.samples, 2**players)

    def divide(self, game: SupervoxelGame) -> Shares:
        """Return the regression's shares.

        Raises:
            ConfigError: fewer than two samples a player.
        """
        return kernel_shapley(game, len(game.players), self.samples, generator=copied(self.generator))


@dataclass(frozen=True, eq=False)
class Lime(BySupervoxels):
    """The slopes of a linear model that imitates the measurement near the scan, with standard errors.

    They need not add up to anything; the statistic ``determination`` says how linear the model is there. Plain weighted
    least squares: the shrinkage of the usual lasso depends on the unit of the measurement. Else as KernelSHAP.

    Args:
        supervoxels: the regions of every input.
        baseline: what takes their place.
        generator: its state is copied at each call.
        samples: coalitions drawn, at least two a player.
        width: of the neighbourhood, on the scale of the distance 1 - sqrt(share of players that are present).

    Source:
        Ribeiro et al., "Why should I trust you?", 2016, eq. 1.
    """

    generator: torch.Generator
    samples: int = 512
    width: float = 0.25
    name: ClassVar[str] = "lime"
    complete: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ConfigError(f"LIME with a neighbourhood of width {self.width}: expected a positive width")

    def evaluations(self, players: int) -> int:
        """Return the number of samples."""
        return self.samples

    def divide(self, game: SupervoxelGame) -> Shares:
        """Return the slopes.

        Raises:
            ConfigError: fewer than two samples a player.
        """
        players = len(game.players)
        require_samples(self.samples, players)
        return local_linear(game, players, self.samples, width=self.width, generator=copied(self.generator))


def reach_of(baseline: Baseline) -> int | None:
    """Return how far what replaces a region looks: its ``context`` where it has one, 0 where it can be cropped."""
    context = getattr(baseline, "context", None)
    if context is not None:
        return int(context)
    return 0 if hasattr(baseline, "crop") else baseline.reach


def cropped(baseline: Baseline, box: Box) -> Baseline:
    """Return the baseline for the part of the scan inside a box."""
    crop = getattr(baseline, "crop", None)
    return baseline if crop is None else crop(box)
