"""Components of a block's features: the few patterns most of them are made of, as volumes, with their stability."""

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.attribution.activations import BlockMap
from medinterp.errors import ConfigError, InputError, PluginError

logger = logging.getLogger(__name__)

ROUNDS = 1000
"""Most updates of a non-negative factorisation."""
OVERSAMPLING = 8
"""Columns of the random sketch beyond the components asked for, so that the last of them is accurate."""


@dataclass(frozen=True, eq=False)
class Components:
    """A block's features as a sum of few volumes times channel patterns.

    Args:
        maps: one channel for each component, strongest first, on the block's voxels.
        patterns: what each component is in the block's channels, unit length, (components, C).
        explained: part of the features' energy that each carries (principal components: of their variance; summing to
            at most 1), or of all together for parts that overlap.
        total_explained: of all together.
        stability: of each, the least absolute correlation of its map with its counterpart over the repeats, 1 for the
            same map every time; None without repeats.
        method: "principal components" or "non-negative parts".
    """

    maps: BlockMap
    patterns: Float[np.ndarray, "N C"]
    explained: tuple[float, ...]
    total_explained: float
    stability: tuple[float, ...] | None
    method: str


def principal_components(
    features: BlockMap, count: int, *, generator: torch.Generator, rounds: int = 4, repeats: int = 3
) -> Components:
    """Return the leading principal components of a block's features over its voxels.

    Randomised and truncated: a sketch of ``count`` + 8 columns, refined ``rounds`` times; the C x C or voxel x voxel
    matrix is never decomposed in full. The sign of a component is chosen so that its pattern's largest entry is
    positive. Components of nearly the same strength are free to mix: their stability says so.

    Args:
        features: of one call of a block.
        count: number of components; fewer than channels and voxels.
        generator: source of the sketch.
        rounds: power iterations; 4 suffice unless the strengths fall very slowly.
        repeats: how often it is done again with another sketch, to measure stability.

    Raises:
        ConfigError: more components than channels or voxels, or fewer than one.
        InputError: the features are the same everywhere.

    Source:
        Halko, Martinsson & Tropp, SIAM Review 53 (2011), algorithms 4.4 and 5.1.
    """
    matrix = _centred(features, count)
    energy = float(matrix.square().sum(dtype=torch.float64))
    if energy == 0:
        raise InputError(f"the features of the block '{features.block}' are the same at every voxel: no components")
    runs = [_randomised_svd(matrix, count, rounds, generator) for _ in range(1 + repeats)]
    scores, strengths, patterns = runs[0]
    explained = tuple(float(s) for s in strengths.square() / energy)
    return Components(
        maps=_as_maps(features, scores),
        patterns=patterns.double().cpu().numpy(),
        explained=explained,
        total_explained=sum(explained),
        stability=_stability([_columns(run[0]) for run in runs]) if repeats else None,
        method="principal components",
    )


def non_negative_parts(features: BlockMap, count: int, *, seeds: tuple[int, ...] = (0, 1, 2)) -> Components:
    """Return parts that add up to a block's features, by non-negative matrix factorisation with scikit-learn.

    Made for features after a ReLU, which have no sign. The factorisation has many solutions: it is repeated with every
    seed, the best fit is returned and the stability over the others stated. Below about 0.9, do not read a part as a
    thing of its own.

    Args:
        features: of one call of a block; nowhere negative.
        count: number of parts.
        seeds: of the random starts.

    Raises:
        ConfigError: more parts than channels or voxels, fewer than one, or no seed.
        InputError: a feature is negative, or all are zero.
        PluginError: scikit-learn is not installed.

    Source:
        Lee & Seung, Nature 401 (1999) 788; Olah et al., "The building blocks of interpretability", 2018.
    """
    if not seeds:
        raise ConfigError("non-negative parts with no seed: give at least one")
    _require_count(features, count)
    matrix = _rows(features).double().cpu().numpy()
    if matrix.min() < 0 or not matrix.any():
        raise InputError(
            f"the features of the block '{features.block}' run from {matrix.min():.3g} to {matrix.max():.3g}; expected "
            "some above zero and none below: choose a block that ends in a ReLU, or principal_components"
        )
    runs = [_factorise(matrix, count, seed) for seed in seeds]
    best = min(range(len(runs)), key=lambda n: float(np.square(matrix - runs[n][0] @ runs[n][1]).sum()))
    order = [best, *(n for n in range(len(runs)) if n != best)]
    weights, patterns = _by_strength(*runs[best])
    columns = [_by_strength(*runs[n])[0] for n in order]
    energy = float(np.square(matrix).sum())
    parts = [float(np.square(np.outer(w, p)).sum()) / energy for w, p in zip(weights.T, patterns, strict=True)]
    return Components(
        maps=_as_maps(features, torch.from_numpy(weights).to(features.values)),
        patterns=patterns,
        explained=tuple(parts),
        total_explained=1 - float(np.square(matrix - weights @ patterns).sum()) / energy,
        stability=_stability(columns) if len(runs) > 1 else None,
        method="non-negative parts",
    )


def _factorise(matrix: Float[np.ndarray, "V C"], count: int, seed: int) -> tuple[Any, Any]:
    try:
        from sklearn.decomposition import non_negative_factorization  # optional, and slow to import
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise PluginError("non-negative parts need scikit-learn: pip install 'medinterp[components]'") from error
    with warnings.catch_warnings():  # said in the log, with the numbers
        warnings.simplefilter("ignore", ConvergenceWarning)
        weights, patterns, rounds = non_negative_factorization(
            matrix / matrix.max(), n_components=count, init="random", random_state=seed, max_iter=ROUNDS, tol=1e-5
        )
    if rounds >= ROUNDS:
        logger.warning("non-negative parts with seed %d still changed after %d rounds", seed, rounds)
    return weights * matrix.max(), patterns


def _by_strength(weights: Any, patterns: Any) -> tuple[Any, Any]:
    """Return patterns of unit length, the strongest part first."""
    length = np.maximum(np.linalg.norm(patterns, axis=1), np.finfo(np.float64).tiny)
    weights, patterns = weights * length, patterns / length[:, None]
    order = np.argsort(-np.linalg.norm(weights, axis=0), kind="stable")
    return weights[:, order], patterns[order]


def _rows(features: BlockMap) -> Tensor:
    """Return the features as (voxels, channels)."""
    return features.values[0].flatten(1).T


def _require_count(features: BlockMap, count: int) -> None:
    voxels, channels = _rows(features).shape
    if not 1 <= count <= min(voxels, channels):
        raise ConfigError(
            f"{count} components of the block '{features.block}' with {channels} channels and {voxels} voxels: "
            f"expected 1 to {min(voxels, channels)}"
        )


def _centred(features: BlockMap, count: int) -> Tensor:
    _require_count(features, count)
    matrix = _rows(features)
    return matrix - matrix.mean(dim=0)


def _randomised_svd(
    matrix: Tensor, count: int, rounds: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores (V, N), strengths (N,) and patterns (N, C) of the leading components."""
    voxels, channels = matrix.shape
    width = min(count + OVERSAMPLING, voxels, channels)
    sketch = torch.randn((channels, width), generator=generator, dtype=matrix.dtype, device=generator.device)
    basis, _ = torch.linalg.qr(matrix @ sketch.to(matrix.device))
    for _ in range(rounds):  # orthonormal after each half step, so that rounding does not eat the weak ones
        back, _ = torch.linalg.qr(matrix.T @ basis)
        basis, _ = torch.linalg.qr(matrix @ back)
    left, strengths, patterns = torch.linalg.svd(basis.T @ matrix, full_matrices=False)  # width x C: small
    largest = patterns.abs().argmax(dim=1, keepdim=True)
    signs = patterns.gather(1, largest).sign()[:count]
    scores = (basis @ left[:, :count]) * strengths[:count] * signs.T
    return scores, strengths[:count], patterns[:count] * signs


def _as_maps(features: BlockMap, scores: Tensor) -> BlockMap:
    shape = features.values.shape[2:]
    values = scores.T.reshape(1, scores.shape[1], *shape)
    return BlockMap(values, features.lattice, features.exact, features.block, features.call)


def _columns(scores: Tensor) -> Any:
    return scores.double().cpu().numpy()


def _stability(runs: list[Any]) -> tuple[float, ...]:
    """Return the least absolute correlation of each component of the first run with its match in the others."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    least = np.ones(runs[0].shape[1])
    for other in runs[1:]:
        table = np.abs(_correlations(runs[0], other))
        rows, columns = linear_sum_assignment(-table)
        least[rows] = np.minimum(least[rows], table[rows, columns])
    return tuple(float(value) for value in least)


def _correlations(a: Any, b: Any) -> Any:
    a, b = (columns - columns.mean(axis=0) for columns in (a, b))
    size = np.linalg.norm(a, axis=0)[:, None] * np.linalg.norm(b, axis=0)
    return (a.T @ b) / np.maximum(size, np.finfo(np.float64).tiny)
