"""Where a scan holds a fill value instead of a measurement, and so no noise: cut-away background, padding."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from medinterp.noise.estimate import NoiseEstimate
from medinterp.noise.windows import fill_values
from medinterp.volume import Step, Volume

EDGE = 3
"""Voxels along each side of the smallest block of one value that noise would not leave by chance."""
LEAST_SHARE = 0.001
"""Share of the scan below which blocks of the fill value are not worth a noise map."""


def masked_voxels(volume: Volume) -> Bool[np.ndarray, "I J K"]:
    """Return where a one-channel scan was masked or padded: blocks of 3x3x3 voxels or more that hold one fill value.

    The fill value is the scan's lowest, or 0 where that is not a value in HU. Noise leaves single voxels at the
    lowest value, never blocks: of the scans this was measured on, raw ones with up to 40 % of their voxels at 0 hold
    no such block outside their padding.
    """
    voxels = volume.voxels[0]
    masked = np.zeros(voxels.shape, dtype=bool)
    if float(voxels.min()) == float(voxels.max()):  # a plain volume is the scan itself
        return masked
    for value in fill_values(voxels, volume):
        masked |= _opened(voxels == value)
    return masked


def silent_where_masked(noise: NoiseEstimate, volume: Volume) -> NoiseEstimate:
    """Return the estimate with a noise map that is 0 where the scan was masked; unchanged when it was not.

    Told that a fill value is as noisy as tissue, a denoiser takes it for a very unlikely measurement and puts
    something else there, and the tissue beside it suffers too (docs/decisions/0002-masked-background.md).
    """
    masked = masked_voxels(volume)
    if masked.mean() < LEAST_SHARE:
        return noise
    level = volume.voxels * 0 + noise.sigma if noise.map is None else noise.map.voxels
    step = Step("noise standard deviation", {"method": noise.method, "zero_in": "masked voxels"})
    return replace(noise, map=volume.derive(np.where(masked, np.float32(0), level), step))


def _opened(voxels: Bool[np.ndarray, "I J K"]) -> Bool[np.ndarray, "I J K"]:
    """Return the union of all blocks inside: erosion, then dilation, one axis at a time."""
    blocks = voxels
    for axis, size in enumerate(voxels.shape):
        edge = min(EDGE, size)
        blocks = np.logical_and.reduce([_from(blocks, axis, i, size - edge + 1) for i in range(edge)])
    for axis, size in enumerate(voxels.shape):
        grown = np.zeros([size if a == axis else s for a, s in enumerate(blocks.shape)], dtype=bool)
        for i in range(min(EDGE, size)):
            place = _from(grown, axis, i, blocks.shape[axis])
            place |= blocks
        blocks = grown
    return blocks


def _from(array: Bool[np.ndarray, "..."], axis: int, start: int, length: int) -> Bool[np.ndarray, "..."]:
    where = [slice(None)] * array.ndim
    where[axis] = slice(start, start + length)
    return array[tuple(where)]
