"""Structure in what the model took away: where the removed noise does not look like noise."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medinterp.errors import ConfigError
from medinterp.volume import Region, Volume, sphere

_SMOOTHING_MM = 2.0
_FOREGROUND_SHARE = 0.15


@dataclass(frozen=True)
class MostStructuredRemoval:
    """Finds the sphere, inside tissue, where the locally averaged removed signal is largest.

    White noise averages out over a neighbourhood; anatomy that was smoothed away does not. The place is thus the
    first one to check, and the default target when a user names none.

    Args:
        radius_mm: radius of the sphere.
        needs_removed: the region is not known before the scan is denoised.
    """

    radius_mm: float
    needs_removed: bool = True

    def __call__(self, scan: Volume, removed: Volume | None) -> Region:
        """Return the sphere.

        Raises:
            ConfigError: nothing was removed, since nothing was denoised.
        """
        if removed is None:
            raise ConfigError("the target 'auto' is found on the denoised volume: use 'run', or name a sphere or voxel")
        smoothing = [_SMOOTHING_MM / spacing for spacing in scan.grid.spacing_mm]
        structure = np.abs(ndimage.gaussian_filter(removed.voxels[0], smoothing))
        tissue = ndimage.gaussian_filter(scan.voxels[0] - removed.voxels[0], smoothing)
        floor = tissue.min() if scan.unit == "HU" else 0.0
        inside = tissue - floor > _FOREGROUND_SHARE * (np.percentile(tissue, 99.5) - floor)
        # stay a radius away from the surface, where averages mix tissue and air
        depth = ndimage.distance_transform_edt(inside, sampling=scan.grid.spacing_mm)
        inside = depth > min(self.radius_mm, 0.5 * float(depth.max()))
        index = np.unravel_index(int(np.where(inside, structure, -1.0).argmax()), scan.grid.shape)
        x, y, z = scan.grid.to_world(index)
        found = sphere(scan.grid, (float(x), float(y), float(z)), max(self.radius_mm, 0.6 * max(scan.grid.spacing_mm)))
        return Region(found.mask, scan.grid, "auto")
