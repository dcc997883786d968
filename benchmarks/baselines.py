"""The classical filters of the denoising table, each over a grid of settings, with and without Rician correction."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from medinterp.denoisers.base import Denoiser, scalar_sigma
from medinterp.denoisers.classical import Curvature, NonLocalMeans, PeronaMalik, TotalVariation, Wavelet
from medinterp.noise.stabilize import stabilize, unstabilize


@dataclass(frozen=True)
class Setting:
    """A filter and whether it works on the variance-stabilised image (with the exact unbiased inverse after it)."""

    denoiser: Denoiser
    stabilized: bool

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in vars(self.denoiser).items())


def apply(setting: Setting, noisy: np.ndarray, sigma: float) -> np.ndarray:
    """Filter a noisy (I, J, K)."""
    image = torch.from_numpy(np.array(noisy))[None, None]
    level = scalar_sigma(sigma, image)
    if not setting.stabilized:
        return setting.denoiser(image, level)[0, 0].numpy()
    smooth = setting.denoiser(stabilize(image, level), level)
    return unstabilize(smooth.clamp_min(0), level)[0, 0].numpy()


def _perona_malik() -> Iterator[Denoiser]:
    return (PeronaMalik(edge, steps) for edge, steps in product((1.0, 1.5, 2.0, 2.5, 3.0), (4, 7, 10, 14)))


def _curvature() -> Iterator[Denoiser]:
    return (Curvature(edge, steps) for edge, steps in product((1.0, 2.0, 3.0), (3, 5, 7, 10)))


def _total_variation() -> Iterator[Denoiser]:
    return (TotalVariation(weight) for weight in (0.4, 0.55, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75))


def _wavelet() -> Iterator[Denoiser]:
    for method, thresholds in (("BayesShrink", (0.7, 0.85, 1.0, 1.2)), ("VisuShrink", (0.2, 0.3, 0.4, 0.55))):
        yield from (Wavelet(threshold, method, name) for threshold in thresholds for name in ("db2", "sym4"))


def _non_local_means() -> Iterator[Denoiser]:
    return (NonLocalMeans(strength, 1, block) for strength, block in product((0.5, 0.65, 0.8, 1.0, 1.2), (2, 3)))


BASELINES = {
    "Perona-Malik (ITK)": _perona_malik,
    "curvature diffusion (ITK)": _curvature,
    "total variation (scikit-image)": _total_variation,
    "wavelet (scikit-image)": _wavelet,
    "non-local means (dipy)": _non_local_means,
}


def settings(name: str, *, stabilized: bool) -> list[Setting]:
    """Return every setting of a baseline that is tried."""
    return [Setting(denoiser, stabilized) for denoiser in BASELINES[name]()]
