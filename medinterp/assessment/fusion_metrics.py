"""Measures of a fused image in 3D: the classic ones, and for each the least over the modalities, which no copy wins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from scipy import ndimage

from medinterp.fusion.similarity import entropy_bits, mutual_information_bits

Image3D = Float[np.ndarray, "I J K"]

_LEVELS = 256
# Xydeas and Petrovic's constants: ceiling, steepness and half-way point for strength and for orientation
_STRENGTH = (0.9994, -15.0, 0.5)
_ORIENTATION = (0.9879, -22.0, 0.8)
_VISUAL_NOISE = 2.0 / 255**2  # variance of the eye's own noise, for values from 0 to 1
_SSIM = (0.01**2, 0.03**2)


@dataclass(frozen=True)
class FusionMetrics:
    """What the literature reports of a fused image, and the least over modalities.

    Args:
        classic: EN, SD, SF, MI, SCD, VIF, Qabf, SSIM, CC; larger is called better for each.
        least: the smallest over the modalities of those that compare with a modality (MI over its entropy).
    """

    classic: Mapping[str, float]
    least: Mapping[str, float]


def fusion_metrics(fused: Image3D, modalities: Mapping[str, Image3D]) -> FusionMetrics:
    """Judge a fused image against what went in.

    Every image is first brought to 0 to 1 by its own 0.1st and 99.9th percentile, as a viewer would show it. The
    classic figures are means or sums over modalities, so an image that copies one modality and ignores the others can
    win them; the least over modalities cannot be won that way.
    """
    image, inputs = as_shown(fused), {m: as_shown(x) for m, x in modalities.items()}
    compared: dict[str, Callable[[Image3D, Image3D], float]] = {
        "VIF": visual_information, "Qabf": lambda x, f: edge_quality(x, f)[0], "SSIM": similarity, "CC": correlation
    }  # fmt: skip
    each = {name: {m: measure(x, image) for m, x in inputs.items()} for name, measure in compared.items()}
    shared = {m: mutual_information_bits(x.ravel(), image.ravel(), 64) for m, x in inputs.items()}
    classic = {
        "EN": entropy(image),
        "SD": float(image.std()),
        "SF": spatial_frequency(image),
        "MI": sum(shared.values()),
        "SCD": correlation_of_differences(image, inputs),
        "VIF": float(np.mean(list(each["VIF"].values()))),
        "Qabf": total_edge_quality(image, inputs),
        "SSIM": float(np.mean(list(each["SSIM"].values()))),
        "CC": float(np.mean(list(each["CC"].values()))),
    }
    least = {name: min(values.values()) for name, values in each.items()}
    own = {m: mutual_information_bits(x.ravel(), x.ravel(), 64) for m, x in inputs.items()}
    least["MI"] = min(shared[m] / own[m] for m in inputs)
    return FusionMetrics(classic, least)


def as_shown(image: Image3D) -> Float64[np.ndarray, "I J K"]:
    """Return an image from 0 to 1 by its 0.1st and 99.9th percentile."""
    low, high = np.percentile(image, (0.1, 99.9))
    return np.clip((image.astype(np.float64) - low) / max(float(high - low), 1e-30), 0, 1)


def entropy(image: Image3D) -> float:
    """EN: entropy in bits of the values in 256 classes."""
    counts = np.histogram(image, bins=_LEVELS, range=(0, 1))[0]
    return entropy_bits(counts / counts.sum())


def spatial_frequency(image: Image3D) -> float:
    """SF: root of the summed mean squared differences along the three axes."""
    return float(np.sqrt(sum(np.mean(np.diff(image, axis=axis) ** 2) for axis in range(3))))


def correlation(a: Image3D, b: Image3D) -> float:
    """CC: Pearson's correlation; 0 where an image is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def correlation_of_differences(fused: Image3D, inputs: Mapping[str, Image3D]) -> float:
    """SCD: summed correlation of each modality with what the fused image adds to the mean of the others.

    Source:
        Aslantas & Bendes, "A new image quality metric for image fusion", AEU 69 (2015).
    """
    total = 0.0
    for m, own in inputs.items():
        others = [x for n, x in inputs.items() if n != m]
        total += correlation(fused - np.mean(others, axis=0), own)
    return total


def edge_quality(modality: Image3D, fused: Image3D) -> tuple[float, float]:
    """Qabf of one modality: how much of its edges' strength and orientation the fused image holds, and their weight.

    In 3D the orientation is that of the gradient, without sign; perpendicular is nothing kept.

    Source:
        Xydeas & Petrovic, "Objective image fusion performance measure", Electronics Letters 36 (2000), eq. 1-6.
    """
    own, there = _sobel(modality), _sobel(fused)
    strength, found = np.linalg.norm(own, axis=0), np.linalg.norm(there, axis=0)
    high, low = np.maximum(strength, found), np.minimum(strength, found)
    ratio = np.divide(low, high, out=np.zeros_like(low), where=high > 0)
    product = strength * found
    cosine = np.divide(np.abs((own * there).sum(axis=0)), product, out=np.zeros_like(product), where=product > 0)
    turned = 1 - np.arccos(np.clip(cosine, 0, 1)) / (np.pi / 2)
    kept = _sigmoid(ratio, _STRENGTH) * _sigmoid(turned, _ORIENTATION)
    weight = float(strength.sum())
    return (float((strength * kept).sum()) / weight if weight > 0 else 0.0), weight


def total_edge_quality(fused: Image3D, inputs: Mapping[str, Image3D]) -> float:
    """Qabf as the literature has it: the modalities' edge qualities, weighted by the strength of their edges."""
    found = [edge_quality(x, fused) for x in inputs.values()]
    return sum(quality * weight for quality, weight in found) / sum(weight for _, weight in found)


def visual_information(modality: Image3D, fused: Image3D, scales: int = 3) -> float:
    """VIF: share of a modality's information, as seen through the eye's noise, that the fused image holds.

    Source:
        Sheikh & Bovik, "Image information and visual quality", IEEE TIP 15 (2006), eq. 8, in the pixel domain.
    """
    told, possible = 0.0, 0.0
    for scale in range(scales):
        if min(modality.shape) < 8:
            break
        _, _, spread, spread_other, shared = _moments(modality, fused, width=1.2)
        gain = shared / (spread + 1e-10)
        gain = np.where(gain < 0, 0.0, gain)
        rest = np.maximum(spread_other - gain * shared, 1e-10)
        told += float(np.log2(1 + gain**2 * spread / (rest + _VISUAL_NOISE)).sum())
        possible += float(np.log2(1 + spread / _VISUAL_NOISE).sum())
        if scale + 1 < scales:
            modality, fused = (ndimage.gaussian_filter(x, 1.0)[::2, ::2, ::2] for x in (modality, fused))
    return told / possible if possible > 0 else 0.0


def similarity(modality: Image3D, fused: Image3D) -> float:
    """SSIM in 3D, Gaussian window of 1.5 voxels, mean over the volume."""
    mean, other, spread, spread_other, shared = _moments(modality, fused, width=1.5)
    a, b = _SSIM
    luminance = (2 * mean * other + a) / (mean**2 + other**2 + a)
    return float((luminance * (2 * shared + b) / (spread + spread_other + b)).mean())


def _moments(a: Image3D, b: Image3D, width: float) -> tuple[Image3D, Image3D, Image3D, Image3D, Image3D]:
    """Return local means, variances and the covariance."""

    def blur(x: Image3D) -> Image3D:
        return np.asarray(ndimage.gaussian_filter(x, width))

    mean, other = blur(a), blur(b)
    spread, spread_other = np.maximum(blur(a * a) - mean**2, 0), np.maximum(blur(b * b) - other**2, 0)
    return mean, other, spread, spread_other, blur(a * b) - mean * other


def _sobel(image: Image3D) -> Float64[np.ndarray, "3 I J K"]:
    return np.stack([ndimage.sobel(image, axis=axis) for axis in range(3)])


def _sigmoid(x: Float64[np.ndarray, "I J K"], constants: tuple[float, float, float]) -> Float64[np.ndarray, "I J K"]:
    ceiling, steepness, half = constants
    return np.asarray(ceiling / (1 + np.exp(steepness * (x - half))))
