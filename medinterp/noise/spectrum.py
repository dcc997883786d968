"""The colour of noise: its power spectrum in unit² mm³ and its autocovariance, two views of one thing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from medinterp.errors import InputError, NonFinite, TooFewVoxels

Kernel = Float64[np.ndarray, "_ _ _"]
Line = Float64[np.ndarray, " _"]
REACH = 8
"""Largest distance in voxels at which simulated noise is measured."""


@dataclass(frozen=True, eq=False)
class NoiseSpectrum:
    """Noise power spectrum and autocovariance of a scan: two views of one estimate.

    The noise is taken as the same everywhere but for its level (locally stationary); its directions are the voxel axes,
    so that streaks (noise stronger along one axis of a chest) and slice correlation are kept.

    Args:
        autocovariance: mean product of noise at two voxels by their distance along I, J, K; odd shape, distance zero in
            the middle, unit squared.
        spacing_mm: distance of voxels along I, J, K.
        windows: number of windows it was measured in; 0 for a spectrum that was given.
        parts: the same, measured in separate parts of the scan; their scatter gives the intervals.
    """

    autocovariance: Kernel
    spacing_mm: tuple[float, float, float]
    windows: int = 0
    parts: tuple[Kernel, ...] = ()

    def __post_init__(self) -> None:
        kernel = np.array(self.autocovariance, dtype=np.float64)
        if kernel.ndim != 3 or any(size % 2 == 0 for size in kernel.shape):
            raise InputError(f"an autocovariance of shape {kernel.shape}: expected three odd sizes, zero in the middle")
        if not np.isfinite(kernel).all() or kernel[self._middle(kernel)] < 0:
            raise InputError("an autocovariance that is not finite, or negative at distance zero")
        kernel.setflags(write=False)
        object.__setattr__(self, "autocovariance", kernel)

    def __eq__(self, other: object) -> bool:
        """Return whether the other spectrum is the same to the bit; arrays have no truth value of their own."""
        if not isinstance(other, NoiseSpectrum):
            return NotImplemented
        mine, theirs = (self.spacing_mm, self.windows), (other.spacing_mm, other.windows)
        kernels = zip((self.autocovariance, *self.parts), (other.autocovariance, *other.parts), strict=False)
        same_number = len(self.parts) == len(other.parts)
        return mine == theirs and same_number and all(np.array_equal(one, two) for one, two in kernels)

    @staticmethod
    def _middle(kernel: Kernel) -> tuple[int, int, int]:
        i, j, k = (size // 2 for size in kernel.shape)
        return i, j, k

    @property
    def variance(self) -> float:
        """Noise variance at a voxel: the integral of the power spectrum."""
        return float(self.autocovariance[self._middle(self.autocovariance)])

    @property
    def sigma(self) -> float:
        """Noise standard deviation at a voxel."""
        return self.variance**0.5

    @property
    def sigma_interval(self) -> tuple[float, float]:
        """95 % interval of ``sigma``: the scatter of the parts of the scan, and 5 % of bias, as seen in simulations.

        Without parts, as for a spectrum that was given, the value itself twice.
        """
        if len(self.parts) < 2:
            return self.sigma, self.sigma
        levels = [max(float(part[self._middle(part)]), 0.0) ** 0.5 for part in self.parts]
        error = float(_error(np.array(levels)[:, None])[0])
        return 0.95 * max(self.sigma - error, 0.0), 1.05 * (self.sigma + error)

    @property
    def autocorrelation(self) -> Kernel:
        """The autocovariance over the variance: 1 in the middle.

        Raises:
            TooFewVoxels: there is no noise, so that nothing correlates.
        """
        if self.variance == 0:
            raise TooFewVoxels("the scan holds no noise where it was measured, so its noise has no colour")
        return self.autocovariance / self.variance

    def nps(self, shape: tuple[int, int, int] | None = None) -> Kernel:
        """Return the noise power spectrum, in unit² mm³, at the discrete frequencies of a grid, zero frequency first.

        NPS(f) = (voxel volume) sum_d C(d) exp(-2 pi i f d); its mean over the grid over the voxel volume is the
        variance. Small negative values of the estimate are set to zero and the rest rescaled to keep the variance.

        Args:
            shape: voxels of the grid; that of the autocovariance when None. It is interpolated in between.

        Source:
            Siewerdsen, Cunningham & Jaffray, Med Phys 29 (2002), eq. 9; ICRU Report 87 (2012).
        """
        size = self.autocovariance.shape if shape is None else shape
        power = np.fft.fftn(wrapped(self.autocovariance, size)).real.clip(min=0)
        return power * (self._voxel_mm3 * self.variance / max(power.mean(), np.finfo(np.float64).tiny))

    def transfer(self, shape: tuple[int, int, int]) -> Kernel:
        """Return the amplitude of every discrete frequency of a grid, mean square 1, that colours white noise so."""
        power = self.nps(shape)
        if self.variance == 0:
            raise TooFewVoxels("the scan holds no noise where it was measured, so its noise has no colour")
        amplitude: Kernel = np.sqrt(power / power.mean())
        return amplitude

    def frequencies(self, shape: tuple[int, int, int] | None = None) -> tuple[Line, ...]:
        """Return the frequencies along I, J, K that ``nps`` is given at, in 1/mm."""
        size = self.autocovariance.shape if shape is None else shape
        return tuple(np.fft.fftfreq(n, mm) for n, mm in zip(size, self.spacing_mm, strict=True))

    @property
    def _voxel_mm3(self) -> float:
        return float(np.prod(self.spacing_mm))

    @property
    def slice_axis(self) -> int:
        """The axis along which voxels are furthest apart, taken as across the slices."""
        return slice_axis(self.spacing_mm)

    def radial(self, bins: int = 12) -> "RadialProfile":
        """Return the in-plane spectrum averaged over directions, in unit² mm², up to the plane's lower Nyquist.

        The frequencies across the slices are integrated over, as in a measurement on single slices.
        """
        rings = self._rings(bins)
        if len(self.parts) < 2:
            return RadialProfile(*rings, np.zeros(len(rings[1])))
        parts = [NoiseSpectrum(part, self.spacing_mm)._rings(bins)[1] for part in self.parts]
        return RadialProfile(*rings, _error(np.stack(parts)))

    def as_record(self) -> dict[str, Any]:
        """Return the in-plane spectrum with its 95 % interval, as run records and sidecars hold it."""
        radial = self.radial()
        return {
            "frequency_per_mm": [round(float(f), 4) for f in radial.frequency_per_mm],
            "power_unit2_mm2": [float(f"{p:.4g}") for p in radial.power],
            "error_95": [float(f"{e:.3g}") for e in radial.error],
            "peak_per_mm": round(radial.peak_per_mm, 4),
            "windows": self.windows,
        }

    def _rings(self, bins: int) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Return mean frequency and mean power of every ring of the plane."""
        axes = [axis for axis in range(3) if axis != self.slice_axis]
        shape = [64, 64, 64]
        shape[self.slice_axis] = self.autocovariance.shape[self.slice_axis]
        i, j, k = shape
        plane = self.nps((i, j, k)).mean(axis=self.slice_axis) / self.spacing_mm[self.slice_axis]
        first, second = (np.fft.fftfreq(64, self.spacing_mm[axis]) for axis in axes)
        radius = np.hypot(first[:, None], second).ravel()
        edges = np.linspace(0, 0.5 / max(self.spacing_mm[axis] for axis in axes), bins + 1)
        place = np.digitize(radius, edges) - 1
        inside = (place < bins) & (radius > 0)  # windows are levelled, so zero frequency was not observed
        counts = np.bincount(place[inside], minlength=bins)
        sums = np.bincount(place[inside], weights=plane.ravel()[inside], minlength=bins)
        means = np.bincount(place[inside], weights=radius[inside], minlength=bins)
        return means / counts, sums / counts

    def axial(self) -> Float64[np.ndarray, " n"]:
        """Return the autocorrelation from slice to slice at distances of 0, 1, 2 ... slices."""
        return self.lines()[self.slice_axis]

    def lines(self) -> tuple[Line, ...]:
        """Return the autocorrelation along I, J and K at distances of 0, 1, 2 ... voxels."""
        whole, (i, j, k) = self.autocorrelation, self._middle(self.autocovariance)
        return whole[i:, j, k], whole[i, j:, k], whole[i, j, k:]

    def permuted(self, order: tuple[int, int, int]) -> "NoiseSpectrum":
        """Return the spectrum of the same noise with its axes in another order, as ``numpy.transpose`` takes it."""
        i, j, k = (self.spacing_mm[axis] for axis in order)
        parts = tuple(part.transpose(order) for part in self.parts)
        return NoiseSpectrum(self.autocovariance.transpose(order), (i, j, k), self.windows, parts)

    @property
    def correlation_length_mm(self) -> tuple[float, float, float]:
        """Full width at half maximum of the autocorrelation along I, J, K; one voxel for white noise."""
        a, b, c = (2 * mm * _half_width(line) for line, mm in zip(self.lines(), self.spacing_mm, strict=True))
        return a, b, c


@dataclass(frozen=True, eq=False)
class RadialProfile:
    """In-plane noise power by distance from zero frequency.

    Args:
        frequency_per_mm: mean radial frequency of each ring.
        power: noise power there, in the scan's unit² mm².
        error: half width of its 95 % interval by the scatter of parts of the scan; 0 where there are no parts.
    """

    frequency_per_mm: Float64[np.ndarray, " n"]
    power: Float64[np.ndarray, " n"]
    error: Float64[np.ndarray, " n"]

    @property
    def peak_per_mm(self) -> float:
        """The frequency with the most power: what a radiologist sees as the grain of the noise."""
        return float(self.frequency_per_mm[int(np.argmax(self.power))])


def slice_axis(spacing_mm: tuple[float, float, float]) -> int:
    """Return the axis along which voxels are furthest apart, the last where all are alike."""
    return max(range(3), key=lambda axis: (spacing_mm[axis] > 0.99 * max(spacing_mm), axis))


def white_spectrum(sigma: float, spacing_mm: tuple[float, float, float]) -> NoiseSpectrum:
    """Return the spectrum of white noise: sigma² times the voxel volume at every frequency."""
    kernel = np.zeros((7, 7, 7))
    kernel[3, 3, 3] = sigma**2
    return NoiseSpectrum(kernel, spacing_mm)


def spectrum_of(noise: Float64[np.ndarray, "I J K"], spacing_mm: tuple[float, float, float]) -> NoiseSpectrum:
    """Measure the spectrum of a volume that is noise and nothing else, such as a simulated one."""
    if not np.isfinite(noise).all():
        raise NonFinite("the noise whose spectrum was asked for holds NaN or infinity")
    reach = [min(REACH, size - 1) for size in noise.shape]
    padded = [size + r for size, r in zip(noise.shape, reach, strict=True)]
    power = np.square(np.abs(np.fft.fftn(noise - noise.mean(), padded, axes=(0, 1, 2))))
    pairs = np.square(np.abs(np.fft.fftn(np.ones(noise.shape), padded, axes=(0, 1, 2))))
    products, counts = (cut_lags(np.fft.ifftn(p).real, reach) for p in (power, pairs))
    return NoiseSpectrum(products / counts, spacing_mm, 1)


def _error(parts: Float64[np.ndarray, "p n"]) -> Float64[np.ndarray, " n"]:
    """Return 1.96 standard errors of the mean of the parts."""
    error: Float64[np.ndarray, " n"] = 1.96 * parts.std(axis=0, ddof=1) / len(parts) ** 0.5
    return error


def _half_width(line: Float64[np.ndarray, " n"]) -> float:
    """Return at which distance, in voxels, a line that starts at 1 first falls to one half."""
    below = np.flatnonzero(line < 0.5)
    if not len(below):
        return float(len(line) - 1)
    first = int(below[0])
    return first - 1 + float((line[first - 1] - 0.5) / (line[first - 1] - line[first]))


def wrapped(kernel: Kernel, size: tuple[int, ...]) -> Float64[np.ndarray, "I J K"]:
    """Return the kernel on a circular grid, distance zero first; what does not fit is left out."""
    for axis, n in enumerate(size):
        reach, room = kernel.shape[axis] // 2, (n - 1) // 2
        kernel = np.take(kernel, range(max(reach - room, 0), min(reach + room, 2 * reach) + 1), axis=axis)
    circular = np.zeros(size)
    circular[np.ix_(*[np.arange(n) - n // 2 for n in kernel.shape])] = kernel
    return circular


def cut_lags(products: Float64[np.ndarray, "I J K"], reach: list[int]) -> Kernel:
    """Return the distances from -reach to reach of a circular array whose first entry is distance zero."""
    return products[np.ix_(*[np.arange(-r, r + 1) for r in reach])]
