"""The colour of a scan's own noise, estimated from flat windows of its tissue."""

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from medinterp.errors import InputError, TooFewVoxels
from medinterp.noise.spectrum import Kernel, Line, NoiseSpectrum, cut_lags, slice_axis, wrapped
from medinterp.noise.windows import SOFT_TISSUE_HU, Voxels, foreground
from medinterp.volume import Volume

WINDOW_MM = 14.0
"""Aimed-at edge of a window: room for the noise of soft kernels, and still inside an aorta."""
SHORTEST, LONGEST = 4, 16
"""Voxels of a window's edge; the four are what the second Haar scale needs."""
NEAR = 1.5
"""Periods a window under which power may be anatomy. At 2.5 soft kernels lose power, at 1 organs add some."""
MOST = 1500
"""Windows whose power is computed: enough for 3 % in the level, and 200 MB."""
PARTS = 8
"""Parts of the scan, each of windows that lie together, whose scatter gives the intervals."""
WIDEST = 0.2
"""Share of the most frequent variance by which a window of noise may exceed it; more is anatomy."""


def estimate_spectrum(volume: Volume, *, windows: int = 6000, seed: int = 0) -> NoiseSpectrum:
    """Estimate the power spectrum of a scan's noise from the flat windows of its tissue.

    Windows of about 14 mm (4 to 16 voxels an edge) are drawn in tissue (-150 to 150 HU in CT), levelled by a plane, and
    sorted by their variance. Pure noise piles up around one variance, anatomy spreads above it: the windows around
    that pile are kept, tapered, and their lagged products averaged, each window scaled to the same variance since the
    level changes over the scan. What levelling takes from the lowest frequencies is put back as if the spectrum were
    flat there. The intervals are by the scatter of eight parts of the scan.

    Within 10 % of the truth for simulated coloured noise between sharp edges, level and power alike
    (tests/properties/test_spectrum.py), from 1.5 periods a window up. Below, at 0.1/mm in CT, it is no measurement:
    organs vary over such distances, and the power there is taken as no larger than that of the frequencies around.

    Args:
        volume: one-channel scan.
        windows: how many to draw.
        seed: of the generator that places them.

    Raises:
        TooFewVoxels: fewer than 50 windows lie in tissue.
        InputError: more than one channel.

    Source:
        Siewerdsen, Cunningham & Jaffray, Med Phys 29 (2002) (definition, levelled and overlapping windows);
        Christianson et al., AJR 205 (2015) (the most frequent local noise level of a patient's scan);
        Blackman & Tukey, "The measurement of power spectra", 1959 (lagged products, tapered).
    """
    if volume.voxels.shape[0] != 1:
        raise InputError(f"a scan of {volume.voxels.shape[0]} channels: split it, noise is measured channel by channel")
    voxels = volume.voxels[0]
    edges = _edges(volume)
    drawn = _tissue_windows(volume, voxels, edges, windows, seed)
    trend = _trend(edges)
    flat = drawn.reshape(len(drawn), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    flat -= (flat @ trend) @ trend.T
    variance = np.square(flat).sum(axis=1) / (flat.shape[1] - trend.shape[1])
    kept = _noise_only(variance)
    level = float(variance[kept].mean())
    if level == 0:
        return NoiseSpectrum(np.zeros((1, 1, 1)), volume.grid.spacing_mm, int(kept.sum()))
    chosen = np.flatnonzero(kept)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), MOST), dtype=int)]
    variance = variance[chosen]
    windows_kept = (flat[chosen] / np.sqrt(variance)[:, None]).reshape(-1, *edges).astype(np.float32)
    spacing_mm = volume.grid.spacing_mm
    parts = [  # windows are sorted by place, so neighbours, which overlap, are in one part
        float(levels.mean()) * _lagged_products(part, trend, spacing_mm)
        for part, levels in zip(np.array_split(windows_kept, PARTS), np.array_split(variance, PARTS), strict=True)
        if len(part)
    ]
    whole = level * _lagged_products(windows_kept, trend, spacing_mm)
    return NoiseSpectrum(whole, spacing_mm, len(windows_kept), tuple(parts))


def _edges(volume: Volume) -> tuple[int, int, int]:
    longest = LONGEST if volume.modality == "CT" else LONGEST // 2  # folds of a brain leave no larger flat place
    wanted = [min(max(2 * round(WINDOW_MM / mm / 2), SHORTEST), longest) for mm in volume.grid.spacing_mm]
    i, j, k = (min(edge, size) for edge, size in zip(wanted, volume.grid.shape, strict=True))
    return i, j, k


def _tissue_windows(
    volume: Volume, voxels: Voxels, edges: tuple[int, int, int], count: int, seed: int
) -> Float32[np.ndarray, "n i j k"]:
    """Draw windows whose voxels are all tissue."""
    places = sliding_window_view(voxels, edges)
    generator = np.random.default_rng(seed)
    allowed = _soft(voxels, edges) if volume.unit == "HU" else np.ones(places.shape[:3], dtype=bool)
    candidates = np.flatnonzero(allowed)
    if len(candidates) > count:
        candidates = np.sort(generator.choice(candidates, count, replace=False))
    drawn = places[np.unravel_index(candidates, places.shape[:3])]
    if volume.unit != "HU" and len(drawn):
        drawn = foreground(drawn.reshape(len(drawn), -1), voxels, volume, magnitude=volume.modality == "MR")
    kept: Float32[np.ndarray, "n i j k"] = drawn.reshape(-1, *edges)
    if len(kept) < 50:
        raise TooFewVoxels(
            f"{len(kept)} windows of {edges} voxels lie in tissue: at least 50 are needed to measure the noise's colour"
        )
    return kept


def _soft(voxels: Voxels, edges: tuple[int, int, int]) -> Bool[np.ndarray, "i j k"]:
    """Say at which places a window has the mean of soft tissue, and no air in it."""
    origin = [-(edge // 2) for edge in edges]  # the filter's value belongs to the window that begins at the voxel
    low, high = SOFT_TISSUE_HU
    valid = tuple(slice(0, size - edge + 1) for size, edge in zip(voxels.shape, edges, strict=True))
    mean = ndimage.uniform_filter(voxels, edges, origin=origin)[valid]
    smallest = ndimage.minimum_filter(voxels, edges, origin=origin)[valid]
    return (mean > low) & (mean < high) & (smallest > -900)


def _trend(edges: tuple[int, ...]) -> Float64[np.ndarray, "m c"]:
    """Return an orthonormal basis of the planes through a window."""
    ramps = np.indices(edges).reshape(3, -1).astype(np.float64)
    basis, _ = np.linalg.qr(np.vstack([np.ones(ramps.shape[1]), ramps[np.ptp(ramps, axis=1) > 0]]).T)
    return basis


def _noise_only(variance: Float64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Say which windows hold noise alone: those around the most frequent variance, as far as it spreads downwards."""
    filled = variance == 0  # padding; a scan that is constant everywhere has no noise
    ordered = np.sort(variance if filled.all() else variance[~filled])
    count = max(2, len(ordered) // 10)
    start = int(np.argmin(ordered[count - 1 :] - ordered[: len(ordered) - count + 1]))
    mode = float(ordered[start : start + count].mean())
    below = ordered[ordered <= mode]
    spread = 1.4826 * float(np.median(mode - below)) if len(below) else 0.0
    reach = max(2.5 * spread, 1e-9 * mode)
    return np.asarray((variance >= mode - reach) & (variance <= mode + min(reach, WIDEST * mode)))


def _lagged_products(
    windows: Float32[np.ndarray, "n i j k"], trend: Float64[np.ndarray, "m c"], spacing_mm: tuple[float, float, float]
) -> Kernel:
    """Return the autocovariance of levelled windows, corrected for taper and levelling."""
    edges = windows.shape[1:]
    padded = tuple(2 * edge for edge in edges)
    taper = _outer([np.sin(np.pi * (np.arange(n) + 0.5) / n) if n >= 8 else np.ones(n) for n in edges])
    power = _typical_power(windows * taper.astype(np.float32), padded)
    removed = np.square(np.abs(np.fft.fftn(trend.T.reshape(-1, *edges) * taper, padded, axes=(1, 2, 3)))).sum(axis=0)
    reach = [edge // 2 if edge >= 8 else edge - 1 for edge in edges]
    overlap = cut_lags(np.fft.ifftn(np.square(np.abs(np.fft.fftn(taper, padded, axes=(0, 1, 2))))).real, reach)
    found = cut_lags(np.fft.ifftn(power).real, reach) / overlap
    missing = cut_lags(np.fft.ifftn(removed).real, reach) / overlap
    whole = (found + _low_power(found) * missing) * _outer([_lag_taper(r) for r in reach])
    return _without_anatomy(whole, spacing_mm)


def _typical_power(windows: Float32[np.ndarray, "n i j k"], padded: tuple[int, ...]) -> Kernel:
    """Return the power of noise at every frequency of a padded window: that of most windows, not the mean of all.

    The power of Gaussian noise at a frequency is distributed exponentially over windows, so that its mean is its median
    over ln 2. A weak edge, which only some windows hold, changes the mean but hardly the median.
    """
    spectra = [np.fft.rfftn(part, padded, axes=(1, 2, 3)) for part in np.array_split(windows, -(-len(windows) // 128))]
    power = np.concatenate([np.square(np.abs(part)).astype(np.float32) for part in spectra])
    half = np.median(power, axis=0).astype(np.float64) / np.log(2)
    return np.fft.fftn(np.fft.irfftn(half, padded, axes=(0, 1, 2)), axes=(0, 1, 2)).real  # its other, mirrored half


def _low_power(kernel: Kernel) -> float:
    """Return the power, per voxel volume, at half a period a window, which levelling hides.

    On the straight line through the power at 1.5 and 3 periods, which it hardly touches.
    """
    size = tuple(4 * (n // 2) for n in kernel.shape)  # twice the window's edge, so that bin 3 is 1.5 periods
    power = np.fft.fftn(wrapped(kernel, size)).real
    found = []
    for axis in (a for a in range(3) if kernel.shape[a] >= 9):
        nearer, farther = (power[tuple(n if a == axis else 0 for a in range(3))] for n in (3, 6))
        found.append(max(nearer - (farther - nearer) * 2 / 3, 0.0))
    return float(np.mean(found)) if found else 1.0


def _without_anatomy(kernel: Kernel, spacing_mm: tuple[float, float, float]) -> Kernel:
    """Limit the power at less than ``NEAR`` periods a window, where organs vary, to that on the ring around it.

    The ring is a shell where voxels are about cubes, else one for each frequency across the thick slices. What the
    estimate shows of negative power goes to zero, and the rest is scaled to the same variance.
    """
    size = tuple(4 * (n // 2) if n > 1 else 1 for n in kernel.shape)
    power = np.fft.fftn(wrapped(kernel, size)).real
    periods = np.meshgrid(*[np.fft.fftfreq(n) * max(n // 2, 1) for n in size], indexing="ij")
    across = slice_axis(spacing_mm)
    thick = spacing_mm[across] > 1.5 * min(spacing_mm)
    radius = np.sqrt(sum(p**2 for axis, p in enumerate(periods) if not (thick and axis == across)))
    layers = [(slice(None),) * across + (n,) for n in range(size[across])] if thick else [(slice(None),)]
    for layer in layers:
        near, ring = radius[layer] < NEAR, (radius[layer] >= NEAR) & (radius[layer] < 2 * NEAR)
        if ring.any():
            power[layer] = np.where(near, power[layer].clip(max=power[layer][ring].mean()), power[layer])
    positive = power.clip(min=0)
    positive *= max(power.mean(), 0.0) / max(positive.mean(), np.finfo(np.float64).tiny)
    return cut_lags(np.fft.ifftn(positive).real, [n // 2 for n in kernel.shape])


def _lag_taper(reach: int) -> Line:
    """Return 1 for distances up to three voxels or half the reach, falling to zero beyond the reach."""
    lags = np.abs(np.arange(-reach, reach + 1))
    flat = max(SHORTEST - 1, reach // 2)
    return np.cos(np.pi / 2 * (lags - flat).clip(min=0) / max(reach + 1 - flat, 1)) ** 2


def _outer(lines: list[Line]) -> Kernel:
    i, j, k = lines
    return i[:, None, None] * j[None, :, None] * k[None, None, :]
