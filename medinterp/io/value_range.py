"""The range of voxel values that single precision can square and sum without loss."""

import numpy as np
from jaxtyping import Float32

from medinterp.errors import InputError

SMALLEST, LARGEST = 1e-15, 1e15
"""Measured: the noise estimate is the same to 1e-6 from 1e-16 to 1e19, and wrong by half and more beyond."""


def require_usable_range(voxels: Float32[np.ndarray, "..."]) -> None:
    """Refuse values so large or so small that their squares leave single precision; zeros and NaN pass.

    Raises:
        InputError: the largest magnitude is out of range.
    """
    reach = max(float(voxels.max()), -float(voxels.min()))
    if np.isfinite(reach) and reach != 0 and not SMALLEST <= reach <= LARGEST:
        raise InputError(
            f"the voxel values reach {reach:.3g}: expected a largest magnitude from {SMALLEST:g} to {LARGEST:g}, where "
            "single precision is exact enough; rescale the scan to a handier unit"
        )
