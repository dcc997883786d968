"""How close an image is to a known truth: PSNR, RMSE and SSIM over the foreground, in numpy."""

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import ndimage

from medinterp.errors import EmptyRegion, InputError

Image3D = Float[np.ndarray, "_ _ _"]
Mask3D = Bool[np.ndarray, "_ _ _"]

FOREGROUND_SHARE = 0.1
"""Foreground is where the clean image exceeds this share of its maximum."""
SSIM_WIDTH_VOXELS = 1.5
"""Standard deviation of SSIM's Gaussian window."""
SSIM_RADIUS = 5
"""Voxels from its middle to its end: 3.5 standard deviations."""


def foreground_mask(clean: Image3D, *, share: float = FOREGROUND_SHARE) -> Mask3D:
    """Return where a clean MR image exceeds ``share`` of its maximum: the voxels every metric here is taken over.

    Raises:
        EmptyRegion: no voxel is above zero.
    """
    peak = float(clean.max())
    if peak <= 0:
        raise EmptyRegion(
            f"the clean image's maximum is {peak:g}: no foreground; give a mask instead (CT: above -500 HU)"
        )
    return clean > share * peak


def rmse(image: Image3D, clean: Image3D, mask: Mask3D | None = None) -> float:
    """Return the root of the mean squared error over the mask, in the images' unit (all voxels without a mask).

    Raises:
        InputError: the shapes differ.
        EmptyRegion: the mask is empty.
    """
    error = _difference(image, clean)
    return float(np.sqrt(np.square(error[_checked(mask, error)]).mean()))


def psnr(image: Image3D, clean: Image3D, mask: Mask3D | None = None, *, peak: float | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB over the mask; infinite when the images are equal.

    Args:
        image: image to judge.
        clean: truth.
        mask: voxels that count.
        peak: the signal's range; the clean image's maximum when not given (for CT give the window's width in HU).

    Raises:
        InputError: the shapes differ, or the peak is not positive.
        EmptyRegion: the mask is empty.
    """
    level = float(clean.max()) if peak is None else peak
    if level <= 0:
        raise InputError(f"a peak of {level:g}: expected a positive number; for CT give the window's width in HU")
    error = rmse(image, clean, mask)
    return float("inf") if error == 0 else float(20 * np.log10(level / error))


def ssim(
    image: Image3D, clean: Image3D, mask: Mask3D | None = None, *, peak: float | None = None, radius: int = SSIM_RADIUS
) -> float:
    """Return the mean structural similarity over the mask, with a 3D Gaussian window of 1.5 voxels.

    The map is computed on the whole image and averaged over the mask; K1 = 0.01, K2 = 0.03, population statistics.

    Args:
        image: image to judge.
        clean: truth.
        mask: voxels that count.
        peak: the signal's range; the clean image's maximum when not given.
        radius: voxels where the window is cut off.

    Raises:
        InputError: the shapes differ, or the peak is not positive.
        EmptyRegion: the mask is empty.

    Source:
        Wang et al., IEEE TIP 13 (2004), eq. 13.
    """
    level = float(clean.max()) if peak is None else peak
    if level <= 0:
        raise InputError(f"a peak of {level:g}: expected a positive number; for CT give the window's width in HU")
    _difference(image, clean)
    similarity = _ssim_map(image.astype(np.float64), clean.astype(np.float64), level, radius)
    return float(similarity[_checked(mask, similarity)].mean())


def _ssim_map(a: NDArray[np.float64], b: NDArray[np.float64], level: float, radius: int) -> NDArray[np.float64]:
    def local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = ndimage.gaussian_filter(values, SSIM_WIDTH_VOXELS, radius=radius)
        return result

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a, variance_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * level) ** 2, (0.03 * level) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure: NDArray[np.float64] = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return luminance * structure


def _difference(image: Image3D, clean: Image3D) -> NDArray[np.float64]:
    if image.shape != clean.shape:
        raise InputError(f"an image of {image.shape} voxels against a truth of {clean.shape}; both must be on one grid")
    return image.astype(np.float64) - clean.astype(np.float64)


def _checked(mask: Mask3D | None, values: NDArray[np.float64]) -> Mask3D:
    if mask is None:
        return np.ones(values.shape, dtype=bool)
    if mask.shape != values.shape:
        raise InputError(f"a mask of {mask.shape} voxels on an image of {values.shape}; both must be on one grid")
    if not mask.any():
        raise EmptyRegion("the mask is empty: no voxel to judge")
    return mask
