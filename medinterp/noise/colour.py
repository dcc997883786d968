"""What the colour of a scan's noise means: white or correlated, interpolated or not, and its level voxel by voxel."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64
from scipy import ndimage

from medinterp.errors import InputError
from medinterp.noise.spectrum import NoiseSpectrum
from medinterp.noise.windows import Voxels
from medinterp.volume import Step, Volume

WHITE = 0.1
"""Correlation of neighbours up to which noise counts as white: a denoiser for white noise then loses under 0.1 dB."""
PRESENT = 0.3
"""Share of white noise's power in the highest quarter of the frequencies from which on that detail counts as there."""
EMPTY = 0.05
"""Share of white noise's power in the highest quarter of the frequencies under which an axis holds no finest detail."""
LINES = 5000
"""Lines of voxels along an axis that are looked at for a period."""
AXES = "IJK"


@dataclass(frozen=True)
class NoiseColour:
    """Whether a scan's noise is white, and along which axes it is not.

    Args:
        neighbours: correlation of the noise of adjacent voxels along I, J, K.
        finest: power along I, J, K in the highest quarter of the frequencies, relative to white noise.
        width_mm: full width at half maximum of the autocorrelation along I, J, K.
        periodic: whether the noise along I, J, K rises and falls with the voxel index, as only resampling makes it.
        strongest: largest absolute correlation of two different voxels at most two apart along each axis.
        peak_per_mm: in-plane frequency with the most noise power.
    """

    neighbours: tuple[float, float, float]
    finest: tuple[float, float, float]
    width_mm: tuple[float, float, float]
    periodic: tuple[bool, bool, bool]
    strongest: float
    peak_per_mm: float

    @property
    def is_white(self) -> bool:
        """Whether no two neighbouring voxels' noise is correlated by more than ``WHITE``."""
        return self.strongest <= WHITE

    @property
    def may_be_anatomy(self) -> bool:
        """Whether flat tissue is correlated, yet its finest detail is there along every axis.

        White noise on textured tissue looks so (MR scans with 3 % of white noise added: neighbours correlated by 0.1 to
        0.4), and so does noise that is stronger at low frequencies: one scan cannot tell them apart.
        """
        fine = min(self.finest) >= PRESENT and not any(self.periodic)
        return fine and not self.is_white and min(self.neighbours) > 0

    @property
    def is_coloured(self) -> bool:
        """Whether the noise is correlated beyond what tissue could explain."""
        return not self.is_white and not self.may_be_anatomy

    @property
    def interpolated(self) -> tuple[bool, bool, bool]:
        """Along which of I, J, K the scan holds less detail than its voxels could: resampled, zero-filled or smoothed.

        Noise whose level repeats over the voxels is a resampled scan's; noise without its highest frequencies may also
        be that of a soft reconstruction kernel on small pixels.
        """
        i, j, k = (p or f < EMPTY for p, f in zip(self.periodic, self.finest, strict=True))
        return i, j, k

    def describe(self, *, told: bool = False) -> str:
        """Return what a person should know before trusting a denoiser.

        Args:
            told: the denoiser knows the spectrum, rather than taking the noise as white.
        """
        if self.is_white:
            return f"The noise is white: neighbouring voxels are correlated by at most {self.strongest:.2f}."
        if self.may_be_anatomy and not told:
            return (
                f"Flat tissue is correlated from voxel to voxel (by up to {self.strongest:.2f}), but its finest detail "
                "is there: white noise on fine anatomy, or noise stronger at low frequencies."
            )
        widths = ", ".join(f"{mm:.1f} mm along {axis}" for mm, axis in zip(self.width_mm, AXES, strict=True))
        parts = [
            f"The noise is coloured: correlated over {widths} (neighbours by up to {self.strongest:.2f}), strongest at "
            f"{self.peak_per_mm:.2f}/mm."
        ]
        for axis, periodic, finest in zip(AXES, self.periodic, self.finest, strict=True):
            if periodic:
                parts.append(f"Along {axis} its level repeats over the voxels: the scan was resampled along {axis}.")
            elif finest < EMPTY:
                parts.append(
                    f"Along {axis} its finest detail is missing ({100 * finest:.0f} % of white noise's power): "
                    f"the scan was interpolated, zero-filled or smoothed along {axis}."
                )
        if not told:
            parts.append("A denoiser that assumes white noise leaves texture here.")
        return " ".join(parts)


def colour_of(spectrum: NoiseSpectrum, periodic: tuple[bool, bool, bool] = (False, False, False)) -> NoiseColour:
    """Judge a noise spectrum.

    Args:
        spectrum: of the scan's noise.
        periodic: along which axes the noise level was seen to repeat.
    """
    correlation = spectrum.autocorrelation
    middle = [n // 2 for n in correlation.shape]
    near = correlation[tuple(slice(max(m - 2, 0), m + 3) for m in middle)].copy()
    near[tuple(n // 2 for n in near.shape)] = 0
    lines = spectrum.lines()
    neighbours = [float(line[1]) if len(line) > 1 else 0.0 for line in lines]
    finest = [_finest_share(line) for line in lines]
    return NoiseColour(
        (neighbours[0], neighbours[1], neighbours[2]), (finest[0], finest[1], finest[2]),
        spectrum.correlation_length_mm, periodic, float(np.abs(near).max()), spectrum.radial().peak_per_mm,
    )  # fmt: skip


def estimate_colour(volume: Volume, spectrum: NoiseSpectrum) -> NoiseColour:
    """Say whether a scan's noise, of this spectrum, is white, correlated or resampled.

    Raises:
        TooFewVoxels: no noise at all.
    """
    i, j, k = (_is_periodic(volume.voxels[0], axis) for axis in range(3))
    return colour_of(spectrum, (i, j, k))


def _finest_share(line: Float64[np.ndarray, " n"]) -> float:
    """Return the mean power at 3/4 of Nyquist and above along one axis, over the mean power; 1 where unknown."""
    if len(line) == 1:
        return 1.0
    power = np.fft.rfft(np.concatenate([line, np.zeros(64), line[:0:-1]])).real
    return float(max(power[3 * len(power) // 4 :].mean(), 0.0) / power.mean())


def _is_periodic(voxels: Voxels, axis: int) -> bool:
    """Say whether the size of second differences along an axis repeats over its voxels.

    An interpolated voxel's noise is weaker the farther it lies from the samples it was made of, so that resampling by
    anything but a whole number leaves a periodic pattern.

    Source:
        Gallagher, "Detection of linear and cubic interpolation in JPEG compressed images", CRV 2005.
    """
    lines = np.moveaxis(voxels, axis, 0)
    if len(lines) < 48:
        return False  # too few voxels for a period to stand out
    second = np.abs(np.diff(lines.reshape(len(lines), -1)[:, :: max(1, lines[0].size // LINES)], n=2, axis=0))
    means = np.log(np.median(second, axis=1) + 1e-6 * np.abs(second).max() + np.finfo(np.float64).tiny)
    rest = means - ndimage.median_filter(means, 9, mode="nearest")
    power = np.square(np.abs(np.fft.rfft(rest * np.hanning(len(rest)))))[len(rest) // 10 :]
    return bool(power.max() > 25 * np.median(power))


def estimate_level_map(volume: Volume, spectrum: NoiseSpectrum, *, block_mm: float = 12.0) -> Volume:
    """Return the noise standard deviation of every voxel, in the scan's unit.

    The colour is taken from ``spectrum``, the level from the median size of fine diagonal in-plane detail in blocks,
    which edges hardly change; at the finest distance at which this noise has a good share of its power. Blocks where
    that median is zero (padding, clipped air) take the scan's smallest level above it, so that sigma is positive.

    Args:
        volume: one-channel scan.
        spectrum: of its noise.
        block_mm: edge of a block, in the plane and across; the map is linear between their middles.

    Raises:
        InputError: more than one channel, or a spectrum without noise.
    """
    if volume.voxels.shape[0] != 1 or spectrum.variance == 0:
        raise InputError(
            f"a scan of {volume.voxels.shape[0]} channels with noise of {spectrum.sigma}: a level map needs one "
            "channel and some noise"
        )
    step, gain = _detail_distance(spectrum)
    detail = np.abs(_diagonal_detail(volume.voxels[0], spectrum.slice_axis, step)) / (0.6745 * gain)
    edges = [min(max(1, round(block_mm / mm)), n) for mm, n in zip(spectrum.spacing_mm, detail.shape, strict=True)]
    coarse = _block_medians(detail, edges)
    coarse = ndimage.median_filter(coarse, [min(3, n) for n in coarse.shape], mode="nearest")
    positive = coarse[coarse > 0]
    if not len(positive):
        raise InputError("no fine detail anywhere in the scan: its noise has no level to map")
    level = _spread(np.maximum(coarse, positive.min()), edges, volume.voxels.shape[1:])
    return volume.derive(level[None], Step("noise level map", {"block_mm": block_mm, "distance_voxels": step}))


def _detail_distance(spectrum: NoiseSpectrum) -> tuple[int, float]:
    """Return the smallest distance at which diagonal detail keeps half of white noise's power, and its gain."""
    plane = np.moveaxis(spectrum.autocorrelation, spectrum.slice_axis, -1)
    middle = [n // 2 for n in plane.shape]
    gain = 0.0
    for step in (1, 2, 3):
        if step > min(middle[:2]):
            break
        at = [(middle[0] + a * step, middle[1] + b * step, middle[2]) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        weights = np.outer([-0.5, 1, -0.5], [-0.5, 1, -0.5]).ravel()
        gain = max(float(sum(w * plane[p] for w, p in zip(weights, at, strict=True))), 0.0) ** 0.5
        if gain >= 0.5**0.5:
            return step, gain
    return max(1, min(3, *middle[:2])), max(gain, 0.1)


def _diagonal_detail(voxels: Voxels, across: int, step: int) -> Float32[np.ndarray, "i j k"]:
    """Return (x00 - x01 - x10 + x11) / 2 over ``step`` voxels along the two in-plane axes."""
    for axis in (a for a in range(3) if a != across):
        size = voxels.shape[axis]
        if size <= step:
            raise InputError(f"{size} voxels along {AXES[axis]}: too few for a noise level map")
        upper, lower = (np.take(voxels, range(s, size - step + s), axis=axis) for s in (step, 0))
        voxels = (upper - lower) / np.float32(2**0.5)
    return voxels


def _block_medians(values: Float32[np.ndarray, "I J K"], edges: list[int]) -> Float64[np.ndarray, "i j k"]:
    counts = [n // edge for n, edge in zip(values.shape, edges, strict=True)]
    whole = values[tuple(slice(0, c * e) for c, e in zip(counts, edges, strict=True))]
    split = whole.reshape(counts[0], edges[0], counts[1], edges[1], counts[2], edges[2])
    return np.median(split, axis=(1, 3, 5)).astype(np.float64)


def _spread(coarse: Float64[np.ndarray, "i j k"], edges: list[int], shape: tuple[int, ...]) -> Voxels:
    """Interpolate between the blocks' middles; constant beyond the outermost."""
    places = [
        ((np.arange(n) + 0.5) / edge - 0.5).clip(0, count - 1)
        for n, edge, count in zip(shape, edges, coarse.shape, strict=True)
    ]
    fine = ndimage.map_coordinates(coarse, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
    level: Voxels = fine.astype(np.float32)
    return level
