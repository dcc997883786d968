"""The estimator for CT: spectrum, level and level map of the noise, for denoisers that are told the spectrum."""

from dataclasses import dataclass, replace

from medinterp.noise.colour import estimate_colour, estimate_level_map
from medinterp.noise.estimate import NoiseEstimate
from medinterp.noise.spectrum_estimate import estimate_spectrum
from medinterp.volume import Volume


@dataclass(frozen=True)
class Coloured:
    """Measure spectrum, level and level map of a CT scan's noise: for denoisers that are told the spectrum.

    The level is that of pure noise in flat soft tissue; the map is ``estimate_level_map``'s.

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
        level = estimate_level_map(volume, spectrum) if self.level_map else None
        return replace(found, map=level, colour=estimate_colour(volume, spectrum))
