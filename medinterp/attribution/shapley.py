"""How players share what they reach together: Shapley values, exact and sampled, and local linear models.

A game is any function from the set of players that are present, (players,) of True and False, to a number. Everything
here is in float64, knows nothing of images, and calls the game once per coalition.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import comb, factorial
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from medinterp.errors import ConfigError

Coalition: TypeAlias = NDArray[np.bool_]
Game: TypeAlias = Callable[[Coalition], float]

MAX_EXACT_PLAYERS = 12
"""2 to the 12th is 4096 evaluations; every further player doubles them."""


@dataclass(frozen=True, eq=False)
class Shares:
    """What each player was found to bring.

    Args:
        values: one number a player.
        standard_errors: of each, over the random draws; None where nothing was drawn.
        coalitions: how many coalitions were drawn or enumerated.
        determination: share of the game's weighted variance that a linear model explains; None without one.
    """

    values: Float[np.ndarray, " players"]
    standard_errors: Float[np.ndarray, " players"] | None
    coalitions: int
    determination: float | None = None


def exact_shapley(game: Game, players: int) -> Shares:
    """Return the Shapley values by playing every coalition: 2 to the power of the players.

    Raises:
        ConfigError: there are more than 12 players.

    Source:
        Shapley, "A value for n-person games", 1953.
    """
    if players > MAX_EXACT_PLAYERS:
        raise ConfigError(
            f"exact Shapley values of {players} players would take 2^{players} = {2**players} evaluations; give at "
            f"most {MAX_EXACT_PLAYERS} players (larger supervoxels), or sample them"
        )
    members = _all_coalitions(players)
    reached = np.array([game(present) for present in members])
    sizes = members.sum(axis=1)
    weights = np.array([factorial(k) * factorial(players - k - 1) / factorial(players) for k in range(players)])
    values = np.empty(players)
    for player in range(players):
        without = np.flatnonzero(~members[:, player])
        gained = reached[without + 2**player] - reached[without]
        values[player] = weights[sizes[without]] @ gained
    return Shares(values, None, len(members))


def _all_coalitions(players: int) -> Bool[np.ndarray, "coalitions players"]:
    """Return every coalition; the binary digits of its position are its members."""
    return (np.arange(2**players)[:, None] >> np.arange(players)) % 2 == 1


def draw_orders(
    players: int, count: int, *, generator: torch.Generator, antithetic: bool
) -> Iterator[Int[np.ndarray, " players"]]:
    """Yield random orders of arrival; ``antithetic`` follows each with its reverse, which cancels much of the noise."""
    for number in range(count):
        if not antithetic or number % 2 == 0:
            order = torch.randperm(players, generator=generator, device=generator.device).cpu().numpy()
            yield order
        else:
            yield order[::-1]


def sampled_shapley(
    game: Game, players: int, orders: Iterable[Int[np.ndarray, " players"]], *, group: int = 1
) -> Shares:
    """Return the Shapley values as the mean gain of each player over random orders of arrival.

    What the players share is exact at every order: only its division among them is uncertain.

    Args:
        game: what coalitions reach.
        players: how many there are.
        orders: in which they arrive.
        group: orders that were drawn together (2 for antithetic ones); the standard error is over groups.

    Source:
        Castro et al., "Polynomial calculation of the Shapley value based on sampling", 2009.
    """
    empty = np.zeros(players, dtype=bool)
    start = game(empty)
    gains = []
    for order in orders:
        present, before, gained = empty.copy(), start, np.zeros(players)
        for player in order:
            present[player] = True
            after = game(present)
            gained[player], before = after - before, after
        gains.append(gained)
    groups = np.array([np.mean(gains[n : n + group], axis=0) for n in range(0, len(gains), group)])
    return Shares(groups.mean(axis=0), standard_error(groups), len(gains) * players + 1)


def standard_error(draws: Float[np.ndarray, "draws players"]) -> Float[np.ndarray, " players"] | None:
    """Return the standard error of the mean over draws; None from one draw, which says nothing about it."""
    return None if len(draws) < 2 else draws.std(axis=0, ddof=1) / len(draws) ** 0.5


def draw_kernel_coalitions(
    players: int, count: int, *, generator: torch.Generator
) -> Bool[np.ndarray, "coalitions players"]:
    """Return coalitions drawn by the Shapley kernel, each followed by its complement.

    A coalition of k out of M players has k drawn with odds 1 / (k (M - k)), and its members evenly.
    """
    sizes = np.arange(1, players)
    odds = torch.from_numpy(1.0 / (sizes * (players - sizes))).to(generator.device)
    drawn = torch.multinomial(odds, -(-count // 2), replacement=True, generator=generator).cpu().numpy()
    coalitions = []
    for position in drawn:
        order = torch.randperm(players, generator=generator, device=generator.device).cpu().numpy()
        present = np.zeros(players, dtype=bool)
        present[order[: sizes[position]]] = True
        coalitions += [present, ~present]
    return np.array(coalitions)


def kernel_shapley(game: Game, players: int, samples: int, *, generator: torch.Generator) -> Shares:
    """Return the Shapley values as the weighted least-squares fit of a sum over players (KernelSHAP).

    The shares add up to what all players reach, exactly. With at least ``2^players - 2`` samples every coalition is
    played once and the result is exact; else the standard error is that of the fit over pairs of coalitions.

    Raises:
        ConfigError: fewer than two samples a player, or too few different coalitions for a fit.

    Source:
        Lundberg & Lee, "A unified approach to interpreting model predictions", 2017, theorem 2; Covert & Lee,
        "Improving KernelSHAP", 2021 (paired sampling).
    """
    require_samples(samples, players)
    start = game(np.zeros(players, dtype=bool))
    total = game(np.ones(players, dtype=bool)) - start
    if players == 1:
        return Shares(np.array([total]), None, 2)
    enumerated = players <= MAX_EXACT_PLAYERS and 2**players - 2 <= samples
    if enumerated:
        coalitions = _all_coalitions(players)[1:-1]
        weights = np.array([1.0 / (comb(players, k) * k * (players - k)) for k in coalitions.sum(axis=1)])
    else:
        coalitions = draw_kernel_coalitions(players, samples, generator=generator)
        weights = np.ones(len(coalitions))
    gained = np.array([game(present) - start for present in coalitions])
    values, errors = fit_additive(coalitions, gained, weights, total, group=2)
    return Shares(values, None if enumerated else errors, len(coalitions) + 2)


def fit_additive(
    coalitions: Bool[np.ndarray, "coalitions players"],
    gained: Float[np.ndarray, " coalitions"],
    weights: Float[np.ndarray, " coalitions"],
    total: float,
    *,
    group: int = 1,
) -> tuple[Float[np.ndarray, " players"], Float[np.ndarray, " players"]]:
    """Return the shares that fit what coalitions gained best and add up to ``total``, and their standard errors.

    The last player's share is what the others leave of the total. Standard errors are those of a regression on draws
    (sandwich), over groups of coalitions drawn together.
    """
    design = coalitions[:, :-1].astype(np.float64) - coalitions[:, -1:]
    response = gained - total * coalitions[:, -1]
    shares, covariance, _ = _least_squares(design, response, weights, group)
    values = np.append(shares, total - shares.sum())
    return values, np.sqrt(np.append(np.diag(covariance), covariance.sum()).clip(min=0))


def local_linear(game: Game, players: int, samples: int, *, width: float, generator: torch.Generator) -> Shares:
    """Return the slopes of a linear model of the game near the coalition of all players (LIME).

    Every player is present with probability one half; a coalition of k out of M players counts with
    ``exp(-(1 - sqrt(k / M))² / width²)``, the kernel on the cosine distance to the coalition of all. Least squares with
    an intercept and without shrinkage, so that the slopes keep the game's unit.

    Raises:
        ConfigError: fewer than two samples a player, or too few different coalitions for a fit.

    Source:
        Ribeiro et al., "Why should I trust you?", 2016, eq. 1.
    """
    require_samples(samples, players)
    coins = torch.randint(0, 2, (samples - 1, players), generator=generator, device=generator.device)
    coalitions = np.concatenate([np.ones((1, players), dtype=bool), coins.cpu().numpy() == 1])
    start = game(coalitions[0])
    gained = np.array([game(present) - start for present in coalitions])
    weights = proximity(coalitions, width)
    design = np.concatenate([np.ones((samples, 1)), coalitions], axis=1)
    slopes, covariance, explained = _least_squares(design, gained, weights, 1)
    return Shares(slopes[1:], np.sqrt(np.diag(covariance)[1:].clip(min=0)), samples, explained)


def proximity(coalitions: Bool[np.ndarray, "coalitions players"], width: float) -> Float[np.ndarray, " coalitions"]:
    """Return the weight of coalitions in a local linear model; see ``local_linear``."""
    distance = 1 - np.sqrt(coalitions.mean(axis=1))
    return np.asarray(np.exp(-((distance / width) ** 2)))


def require_samples(samples: int, players: int) -> None:
    """Check that there are samples enough for a regression on players to mean anything.

    Raises:
        ConfigError: there are fewer than two a player.
    """
    if samples < 2 * players:
        raise ConfigError(
            f"{samples} samples for {players} players: give at least {2 * players}, or take fewer, larger supervoxels"
        )


def _least_squares(
    design: NDArray[np.float64], response: NDArray[np.float64], weights: NDArray[np.float64], group: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return coefficients, their sandwich covariance over groups of rows, and the share of variance explained.

    Raises:
        ConfigError: the rows do not determine the coefficients.
    """
    count, unknowns = design.shape
    weighted = design * weights[:, None]
    normal = design.T @ weighted
    if np.linalg.matrix_rank(normal, hermitian=True) < unknowns:
        raise ConfigError(
            f"{count} coalitions do not tell {unknowns} players apart: two of them were always together; give more "
            "samples"
        )
    solution = np.linalg.solve(normal, weighted.T @ response)
    misfit = response - design @ solution
    scores = weighted * misfit[:, None]
    groups = np.add.reduceat(scores, np.arange(0, count, group), axis=0)
    inverse = np.linalg.inv(normal)
    correction = len(groups) / max(1, len(groups) - unknowns)  # few rows for many unknowns understate the misfit
    covariance = correction * inverse @ (groups.T @ groups) @ inverse
    spread = float(weights @ (response - np.average(response, weights=weights)) ** 2)
    explained = 1.0 if spread == 0 else 1 - float(weights @ misfit**2) / spread
    return np.asarray(solution), np.asarray(covariance), explained
