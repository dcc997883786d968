"""How noisy a scan is, from the scan alone: estimators from a Volume to a NoiseEstimate."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64

from medinterp.errors import InputError, TooFewVoxels, UnitMismatch
from medinterp.noise.colour import NoiseColour, estimate_colour
from medinterp.noise.spectrum import NoiseSpectrum
from medinterp.noise.spectrum_estimate import estimate_spectrum
from medinterp.noise.stabilize import koay_inversion
from medinterp.noise.windows import (
    SOFT_TISSUE_HU,
    Voxels,
    Windows,
    draw_windows,
    finest_spread,
    flattest,
    foreground,
    require_enough,
)
from medinterp.volume import Volume

Model = Literal["gaussian", "rician", "coloured"]
COLOUR_WINDOWS = 2000
"""Windows drawn where the colour is only reported: a second of work for most scans."""
BIAS_LOW, BIAS_HIGH = 0.95, 1.07
"""Range of estimate / truth seen on the scans used for tuning, 2-15 % Rician noise (tests/properties/test_noise.py)."""


@dataclass(frozen=True)
class NoiseEstimate:
    """The noise of one scan.

    Args:
        sigma: noise standard deviation in the scan's unit; for the Rician model that of each of the two channels.
            0 when the scan holds no noise at all (a constant or noise-free synthetic volume).
        low: lower end of the 95 % interval: statistical error and the range of bias seen on tuning scans.
        high: upper end.
        model: "rician" for magnitude MR, "coloured" where the denoiser is told the spectrum, else "gaussian".
        method: what made the estimate.
        map: noise standard deviation per voxel, when the method measures one; else the noise is taken as uniform.
        spectrum: of the noise, where the scan holds enough flat tissue to measure it.
        colour: what the spectrum means: white, correlated, resampled.
    """

    sigma: float
    low: float
    high: float
    model: Model
    method: str
    map: Volume | None = None
    spectrum: NoiseSpectrum | None = None
    colour: NoiseColour | None = None


@runtime_checkable
class Estimator(Protocol):
    """Measure a scan's noise."""

    def __call__(self, volume: Volume) -> NoiseEstimate:
        """Return the noise of a one-channel scan."""
        ...


def choose_model(volume: Volume) -> Model:
    """Return "rician" for MR without negative values (a magnitude image), else "gaussian"."""
    return "rician" if volume.modality == "MR" and float(volume.voxels.min()) >= 0 else "gaussian"


def _without_rician_bias(
    means: Float64[np.ndarray, " g"], spreads: Float64[np.ndarray, " g"]
) -> Float64[np.ndarray, " g"]:
    """Turn mean and standard deviation of magnitudes into the sigma of each channel; without spread it is 0."""
    noisy = spreads > 0
    sigmas = np.zeros_like(spreads)
    sigmas[noisy] = koay_inversion(torch.from_numpy(means[noisy]), torch.from_numpy(spreads[noisy])).sigma.numpy()
    return sigmas


def _one_channel(volume: Volume) -> Voxels:
    if volume.voxels.shape[0] != 1:
        raise InputError(
            f"a scan of {volume.voxels.shape[0]} channels: noise is estimated for one channel at a time; split it first"
        )
    return volume.voxels[0]


def _summarise(groups: Float64[np.ndarray, " g"], model: Model, method: str) -> NoiseEstimate:
    """Combine estimates of groups of windows by their median; their scatter gives the statistical error."""
    sigma = float(np.median(groups))
    scatter = float(np.median(np.abs(groups - sigma))) / 0.6745
    error = 1.96 * 1.25 * scatter / len(groups) ** 0.5
    return NoiseEstimate(sigma, max(sigma - error, 0.0) / BIAS_HIGH, (sigma + error) / BIAS_LOW, model, method)


def _by_brightness(
    windows: Windows, spread: Callable[[Windows], float], groups: int, model: Model
) -> Float64[np.ndarray, " g"]:
    """Estimate sigma in groups of windows of similar mean, each corrected for its own Rician bias."""
    means = windows.mean(axis=1, dtype=np.float64)
    parts = np.array_split(np.argsort(means), groups)
    spreads = np.array([spread(windows[part]) for part in parts])
    if model == "gaussian":
        return spreads
    return _without_rician_bias(np.array([means[part].mean() for part in parts]), spreads)


@dataclass(frozen=True)
class FlatWindows:
    """Read the noise from the finest cosine components of the flattest windows of tissue.

    The default for MR. Assumes white, spatially uniform noise. Each window is 4x4x4 voxels; the tenth with the weakest
    gradients is kept; the median absolute value of components of order 7 to 9 is turned to sigma in eight groups of
    brightness. Error on nine tuning scans with 2-15 % Rician noise added, masked or not, against added and own noise
    together: median 0 to +1 %, extremes -1 and +5 % (`python -m benchmarks.sigma`). Noise that was smoothed by
    interpolation is under-estimated.

    Args:
        share: share of the tissue windows kept.
        windows: how many windows are drawn.
        seed: of the generator that places them.

    Raises:
        TooFewVoxels: fewer than 1000 voxels of tissue.

    Source:
        Koay & Basser 2006 for the Rician bias; Ponomarenko et al. 2007 for cosine windows.
    """

    share: float = 0.1
    windows: int = 150_000
    seed: int = 0

    def __call__(self, volume: Volume) -> NoiseEstimate:
        """Return the noise of a one-channel scan."""
        voxels, model = _one_channel(volume), choose_model(volume)
        drawn, shape = draw_windows(voxels, (4, 4, 4), self.windows, self.seed)
        flat = flattest(foreground(drawn, voxels, volume, magnitude=model == "rician"), shape, self.share)
        sigmas = _by_brightness(flat, lambda part: finest_spread(part, shape), 8, model)
        return _summarise(sigmas, model, "flat windows")


@dataclass(frozen=True)
class HaarMad:
    """Read the noise from the finest Haar detail (HHH) of the half of the tissue with the weakest gradients.

    Assumes white, spatially uniform noise; over-estimates more than FlatWindows on textured anatomy.

    Raises:
        TooFewVoxels: fewer than 1000 voxels of tissue.

    Source:
        Donoho & Johnstone, Biometrika 81 (1994), eq. 5; Coupé et al., Med Image Anal 14 (2010).
    """

    share: float = 0.5
    windows: int = 300_000
    seed: int = 0

    def __call__(self, volume: Volume) -> NoiseEstimate:
        """Return the noise of a one-channel scan."""
        voxels, model = _one_channel(volume), choose_model(volume)
        drawn, shape = draw_windows(voxels, (2, 2, 2), self.windows, self.seed)
        flat = flattest(foreground(drawn, voxels, volume, magnitude=model == "rician"), shape, self.share)
        sigmas = _by_brightness(flat, lambda part: finest_spread(part, shape), 8, model)
        return _summarise(sigmas, model, "Haar MAD")


@dataclass(frozen=True)
class PatchPca:
    """Read the noise from the smallest principal components of 4x4x4 patches of the calmer half of the tissue.

    Assumes white, spatially uniform noise. Taking the half with the lower variance also picks windows whose noise is
    low by chance: -5 % at 15 % noise. Texture makes it read up to +38 % at 3 % (`python -m benchmarks.sigma`).

    Raises:
        TooFewVoxels: fewer than 1000 voxels of tissue.

    Source:
        Chen, Zhu & Heng, ICCV 2015, algorithm 1; Koay & Basser 2006 for the Rician bias.
    """

    share: float = 0.5
    windows: int = 150_000
    seed: int = 0

    def __call__(self, volume: Volume) -> NoiseEstimate:
        """Return the noise of a one-channel scan."""
        voxels, model = _one_channel(volume), choose_model(volume)
        drawn, _ = draw_windows(voxels, (4, 4, 4), self.windows, self.seed)
        tissue = foreground(drawn, voxels, volume, magnitude=model == "rician")
        variance = tissue.var(axis=1)
        calm = tissue[variance <= np.quantile(variance, self.share)]
        groups = min(4, max(2, len(calm) // 640))  # each has ten times as many windows as a window has voxels
        return _summarise(_by_brightness(calm, _smallest_components, groups, model), model, "patch PCA")


def _smallest_components(windows: Windows) -> float:
    """Return the noise standard deviation: the largest set of small eigenvalues whose mean is at most its median."""
    eigenvalues = np.linalg.eigvalsh(np.cov(windows.T.astype(np.float64))).clip(min=0)
    for count in range(len(eigenvalues), 0, -1):
        if eigenvalues[:count].mean() <= np.median(eigenvalues[:count]):
            return float(np.sqrt(eigenvalues[:count].mean()))
    return float(np.sqrt(eigenvalues[0]))


@dataclass(frozen=True)
class SoftTissueSd:
    """Read the noise of a CT scan from the most frequent local standard deviation in soft tissue, in HU.

    The default for CT. CT noise is coloured by the reconstruction kernel, so its finest detail says little about its
    size; the local standard deviation counts all of it. Windows of 7x7 voxels in the plane of the slices, their linear
    trend removed, mean between -150 and 150 HU; the mode of their standard deviations leaves out windows with edges.

    Raises:
        TooFewVoxels: fewer than 1000 voxels of soft tissue.
        UnitMismatch: the scan is not in HU.

    Source:
        Christianson et al., AJR 205 (2015), global noise level.
    """

    windows: int = 150_000
    seed: int = 0

    def __call__(self, volume: Volume) -> NoiseEstimate:
        """Return the noise of a one-channel CT scan."""
        if volume.unit != "HU":
            raise UnitMismatch(f"a scan in '{volume.unit}': the soft-tissue estimate needs HU; use FlatWindows instead")
        voxels = _one_channel(volume)
        edges = [7, 7, 7]
        edges[_slice_axis(volume.grid.spacing_mm)] = 1
        drawn, shape = draw_windows(voxels, (edges[0], edges[1], edges[2]), self.windows, self.seed)
        low, high = SOFT_TISSUE_HU
        means = drawn.mean(axis=1)
        soft = drawn[(means > low) & (means < high) & (drawn.min(axis=1) > -900)]
        require_enough(int(np.count_nonzero((voxels > low) & (voxels < high))), len(soft), "soft tissue")
        filled = np.ptp(soft, axis=1) == 0  # padding; a scan that is constant everywhere has no noise
        spreads = _detrended_sd(soft if filled.all() else soft[~filled], shape)
        return _summarise(np.array([_mode(part) for part in np.array_split(spreads, 8)]), "gaussian", "soft-tissue SD")


def _slice_axis(spacing_mm: tuple[float, float, float]) -> int:
    """Return the axis across the slices: where voxels are clearly furthest apart, else K, as in a DICOM series."""
    widest = int(np.argmax(spacing_mm))
    others = max(mm for axis, mm in enumerate(spacing_mm) if axis != widest)
    return widest if spacing_mm[widest] > 1.5 * others else 2


def _detrended_sd(windows: Windows, shape: tuple[int, ...]) -> Float64[np.ndarray, " n"]:
    """Return the standard deviation of each window around its own plane."""
    ramps = np.indices(shape).reshape(3, -1).astype(np.float64)
    plane, _ = np.linalg.qr(np.vstack([np.ones(ramps.shape[1]), ramps[np.ptp(ramps, axis=1) > 0]]).T)
    rest = windows - windows.mean(axis=1, keepdims=True)  # first, so that a plain leaves zero, not rounding
    rest = rest - (rest @ plane) @ plane.T
    return np.sqrt(np.square(rest).sum(axis=1) / (rest.shape[1] - plane.shape[1]))


def _mode(values: Float64[np.ndarray, " n"]) -> float:
    """Return the most frequent value: the middle of the shortest interval that holds a fifth of the values."""
    ordered = np.sort(values)
    count = max(2, len(ordered) // 5)
    start = int(np.argmin(ordered[count - 1 :] - ordered[: len(ordered) - count + 1]))
    return float(ordered[start : start + count].mean())


@dataclass(frozen=True)
class Auto:
    """Estimate a scan's noise by the method that measured best for its kind: the default of every pipeline.

    SoftTissueSd for CT in HU, FlatWindows for everything else.

    Raises:
        TooFewVoxels: too little tissue for a trustworthy estimate.
    """

    seed: int = 0

    def __call__(self, volume: Volume) -> NoiseEstimate:
        """Return the noise of a one-channel scan."""
        hounsfield = volume.modality == "CT" and volume.unit == "HU"
        found = SoftTissueSd(seed=self.seed)(volume) if hounsfield else FlatWindows(seed=self.seed)(volume)
        return with_colour(found, volume, seed=self.seed)


def with_colour(found: NoiseEstimate, volume: Volume, *, seed: int) -> NoiseEstimate:
    """Return an estimate that also says what colour the noise has, where the scan holds enough flat tissue to see it.

    For magnitude MR the spectrum is that of the magnitude's noise, which is the channels' where the signal is bright.
    """
    try:
        spectrum = estimate_spectrum(volume, windows=COLOUR_WINDOWS, seed=seed)
        return replace(found, spectrum=spectrum, colour=estimate_colour(volume, spectrum))
    except TooFewVoxels:
        return found
