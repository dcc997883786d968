"""The estimator for CT: spectrum, level and level map of the noise, for denoisers that are told the spectrum."""

from dataclasses import dataclass, replace

import numpy as np

from medinterp.noise.colour import estimate_colour, estimate_level_map
from medinterp.noise.estimate import NoiseEstimate
from medinterp.noise.spectrum_estimate import estimate_spectrum
from medinterp.volume import Step, Volume

HIGHEST = 1.25
"""Level of a voxel over that of soft tissue above which a level map is not believed.

Vessels of the lung fill its blocks with fine detail, which reads as several times the noise that is there, and a
denoiser told so removes them. Rays through lung meet less tissue than others: its noise is lower than that of soft
tissue. Figures: docs/decisions/0003-coloured-noise.md.
"""


@dataclass(frozen=True)
class Coloured:
    """Measure spectrum, level and level map of a CT scan's noise: for denoisers that are told the spectrum.

    The level is that of pure noise in flat soft tissue; the map is ``estimate_level_map``'s, up to ``HIGHEST`` times
    that level. Under-estimates behind the thickest bone, where noise is up to 2.2 times that of soft tissue.

    Args:
        level_map: give the denoiser the level of every voxel instead of one for the whole scan.
        seed: of the generator that places windows.

    Raises:
        TooFewVoxels: fewer than 50 windows of soft tissue.
    """

    level_map: bool = True
    seed: int = 0

    def __call__(self, volume: Volume) -> NoiseEstimate:
        """Return the noise of a one-channel scan."""
        spectrum = estimate_spectrum(volume, seed=self.seed)
        low, high = spectrum.sigma_interval
        found = NoiseEstimate(spectrum.sigma, low, high, "coloured", "flat windows' spectrum", spectrum=spectrum)
        if spectrum.variance == 0:
            return found
        found = replace(found, colour=estimate_colour(volume, spectrum))
        if not self.level_map:
            return found
        level = estimate_level_map(volume, spectrum)
        highest = np.float32(HIGHEST * spectrum.sigma)
        believed = level.derive(
            np.minimum(level.voxels, highest), Step("limit noise level", {"highest": float(highest)})
        )
        return replace(found, map=believed)
