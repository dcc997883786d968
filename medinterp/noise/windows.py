"""Small windows of a scan for noise estimation: drawn at random, kept where there is tissue, split into bands."""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft

from medinterp.errors import TooFewVoxels
from medinterp.volume import Volume

Windows = Float32[np.ndarray, "n m"]
FewerWindows = Float32[np.ndarray, "kept m"]
Voxels = Float32[np.ndarray, "I J K"]

SOFT_TISSUE_HU = (-150.0, 150.0)
MINIMUM_VOXELS = 1000
"""Foreground voxels below which a median is not trustworthy."""
FOREGROUND_SHARE = 0.3
"""A window of an MR scan is tissue when its mean exceeds this share of the bright tissue's (98th percentile)."""


def draw_windows(voxels: Voxels, edges: tuple[int, int, int], count: int, seed: int) -> tuple[Windows, tuple[int, ...]]:
    """Return at most ``count`` windows at random places (all places of a small scan), and the window's shape."""
    shape = tuple(min(edge, size) for edge, size in zip(edges, voxels.shape, strict=True))
    windows = sliding_window_view(voxels, shape)
    places = int(np.prod(windows.shape[:3]))
    chosen = np.arange(places)
    if places > count:
        chosen = np.sort(np.random.default_rng(seed).integers(0, places, count))
    index = np.unravel_index(chosen, windows.shape[:3])
    return windows[index].reshape(len(chosen), -1), shape


def require_enough(voxels: int, windows: int, what: str) -> None:
    """Raise TooFewVoxels unless an estimate from these would be trustworthy."""
    if voxels < MINIMUM_VOXELS or windows < 100:
        raise TooFewVoxels(
            f"{voxels} voxels of {what} ({windows} whole windows inside) for a noise estimate: at least "
            f"{MINIMUM_VOXELS} are needed; give sigma yourself, or a larger field of view"
        )


def fill_values(voxels: Voxels, volume: Volume) -> set[float]:
    """Return the values that padding and masks leave: the lowest, and 0 except in HU, where it is water."""
    return {float(voxels.min())} | (set[float]() if volume.unit == "HU" else {0.0})


def _without_padding(windows: Windows, voxels: Voxels, volume: Volume) -> Bool[np.ndarray, " n"]:
    """Say which windows hold no padding: a fill value, where it fills more than 1 % of the scan."""
    kept = np.ones(len(windows), dtype=bool)
    if float(voxels.min()) == float(voxels.max()):  # nothing but one value: it is the scan, not padding
        return kept
    for value in fill_values(voxels, volume):
        if np.count_nonzero(voxels == value) > 0.01 * voxels.size:
            kept &= ~(windows == value).any(axis=1)
    return kept


def foreground(windows: Windows, voxels: Voxels, volume: Volume, *, magnitude: bool) -> FewerWindows:
    """Return the windows that lie in tissue; air, padding and what a mask cut away are left out."""
    kept = windows[_without_padding(windows, voxels, volume)]
    usable = voxels.size
    if volume.unit == "HU" and len(kept):
        inside = (kept.min(axis=1) > -900) & (np.abs(kept.mean(axis=1)) < 300)
        usable, kept = int(np.count_nonzero(np.abs(voxels) < 300)), kept[inside]
    elif magnitude and len(kept):
        means = kept.mean(axis=1)
        level = FOREGROUND_SHARE * float(np.quantile(means[means >= 0.1 * means.max()], 0.98))
        usable, kept = int(np.count_nonzero(voxels > level)), kept[means > level]
    require_enough(usable, len(kept), "tissue")
    return kept


@lru_cache(maxsize=8)
def _cosine_bands(shape: tuple[int, ...]) -> tuple[Float32[np.ndarray, "a m"], Float32[np.ndarray, "b m"]]:
    """Return the low (gradient) and the finest cosine components of a window, as rows; all orthonormal."""
    axes = [fft.dct(np.eye(size), norm="ortho", axis=0) for size in shape]
    basis = np.einsum("ai,bj,ck->abcijk", *axes).reshape(np.prod(shape), -1).astype(np.float32)
    order = np.indices(shape).sum(axis=0).ravel()
    return basis[(order >= 1) & (order <= 2) & (order < order.max())], basis[order >= 0.75 * order.max()]


def flattest(windows: Windows, shape: tuple[int, ...], share: float) -> FewerWindows:
    """Return the share of windows with the weakest gradients.

    Chosen by components that white noise makes independent of those the noise is read from: no selection bias.
    """
    low, _ = _cosine_bands(shape)
    strength = np.square(windows @ low.T).sum(axis=1)
    count = min(len(windows), max(100, round(share * len(windows))))
    return windows[np.argpartition(strength, count - 1)[:count]]


def finest_spread(windows: Windows, shape: tuple[int, ...]) -> float:
    """Return the standard deviation of the finest components by their median absolute value."""
    _, finest = _cosine_bands(shape)
    rest = windows - windows.mean(axis=1, keepdims=True)  # the mean would leave its rounding, not zero, in a plain
    return float(np.median(np.abs(rest @ finest.T)) / 0.6745)
