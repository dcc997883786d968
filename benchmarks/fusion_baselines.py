"""Classic fusion rules, to be beaten: the larger value, the average, Laplacian pyramid and wavelet, in 3D."""

from collections.abc import Sequence

import numpy as np
import pywt
from scipy import ndimage

_LEVELS = 4


def take_first(images: Sequence[np.ndarray]) -> np.ndarray:
    """Copy the first input."""
    return images[0]


def take_second(images: Sequence[np.ndarray]) -> np.ndarray:
    """Copy the second input."""
    return images[1]


def larger(images: Sequence[np.ndarray]) -> np.ndarray:
    """Take the larger value at every voxel."""
    return np.maximum.reduce(list(images))


def average(images: Sequence[np.ndarray]) -> np.ndarray:
    """Take the mean."""
    return np.mean(images, axis=0)


def _strongest(parts: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.stack(parts)
    return np.take_along_axis(stacked, np.abs(stacked).argmax(axis=0)[None], axis=0)[0]


def laplacian_pyramid(images: Sequence[np.ndarray]) -> np.ndarray:
    """Keep at every scale the strongest detail, and the mean of what is left (Burt & Kolczynski, 1993)."""
    rest, details = list(images), []
    for _ in range(_LEVELS):
        coarse = [ndimage.gaussian_filter(x, 1.0)[::2, ::2, ::2] for x in rest]
        wide = [_grown(c, x.shape) for c, x in zip(coarse, rest, strict=True)]
        details.append(_strongest([x - w for x, w in zip(rest, wide, strict=True)]))
        rest = coarse
    fused = np.mean(rest, axis=0)
    for detail in reversed(details):
        fused = _grown(fused, detail.shape) + detail
    return fused


def _grown(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    places = np.meshgrid(*(np.arange(n) / 2 for n in shape), indexing="ij")
    return ndimage.map_coordinates(image, places, order=1, mode="nearest")


def wavelet(images: Sequence[np.ndarray]) -> np.ndarray:
    """Keep the strongest wavelet coefficient (db2), and the mean of the approximations (Li et al., 1995)."""
    level = min(_LEVELS, pywt.dwt_max_level(min(images[0].shape), "db2"))
    trees = [pywt.wavedecn(x, "db2", mode="reflect", level=level) for x in images]
    fused = [np.mean([tree[0] for tree in trees], axis=0)]
    for details in zip(*(tree[1:] for tree in trees), strict=True):
        fused.append({key: _strongest([d[key] for d in details]) for key in details[0]})
    return pywt.waverecn(fused, "db2", mode="reflect")[tuple(slice(n) for n in images[0].shape)]


RULES = {
    "copy of the first": take_first,
    "copy of the second": take_second,
    "larger value": larger,
    "average": average,
    "Laplacian pyramid": laplacian_pyramid,
    "wavelet (db2)": wavelet,
}
