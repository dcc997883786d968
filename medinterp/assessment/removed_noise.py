"""Whether what a denoiser took away looks like noise: its power, its neighbours, its spectrum, and the anatomy in it.

What a perfect denoiser removes is not white: it leaves out what it mistook for anatomy. So each figure stands beside
the value that the posterior mean with this very Jacobian J would show: what it removes has the covariance
sigma² (1 - J), and J is known from the denoiser's answer to a small random change.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from medinterp.denoisers.stein import Probe
from medinterp.errors import MethodNotValid

CORRELATION_TOLERANCE = 0.05
"""Departure from the expected correlation that is taken as harmless; the shipped network reads up to 0.03."""
LEVEL_TOLERANCE = 0.1
"""Relative departure from the expected power that is taken as harmless, beyond the noise estimate's interval."""
FLATNESS_TOLERANCE = 0.02
"""Departure of the flatness from 1 that is taken as harmless; the shipped network reads up to 0.01."""
BANDS = 8
"""Shells of spatial frequency between 0 and the corner of the spectrum."""
NULL_WIDTH = 3.0
"""Half width of what chance allows, in standard errors."""


@dataclass(frozen=True)
class Figure:
    """One number about what was removed, beside what a perfect denoiser and chance allow.

    Args:
        name: what it is: "level", "lag I", "lag J", "lag K", "flatness" or "structure".
        value: as measured.
        expected: what the posterior mean with this Jacobian would show.
        low: least value that chance and the stated tolerance allow.
        high: largest.
    """

    name: str
    value: float
    expected: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Whether the value lies in its interval."""
        return self.low <= self.value <= self.high


def examine_removed(answer: Probe, interval: tuple[float, float] = (1.0, 1.0)) -> tuple[Figure, ...]:
    """Compare what was removed, in noise levels, with what the posterior mean would have removed.

    Args:
        answer: what the denoiser said; see ``probe``.
        interval: least and largest true noise level, over the one assumed.

    Raises:
        MethodNotValid: the denoiser removes nothing, so there is nothing to examine.
    """
    removed, kept = answer.removed(), answer.coins - answer.answer
    voxels = float(answer.mask.sum())
    chance = NULL_WIDTH * sqrt(1.5 / voxels)  # a correlation of white noise, and the scatter of what is expected
    power, wanted = float(removed.square().sum()), float((answer.coins * kept).sum())
    if power == 0 or wanted <= 0:
        raise MethodNotValid(
            f"removed power {power:.3g}, expected {wanted:.3g}: this denoiser returns its input or amplifies noise, "
            "so there is nothing to examine; is the noise level given to it right?"
        )
    low, high = (edge**2 for edge in interval)
    slack = LEVEL_TOLERANCE + 2 * chance
    figures = [Figure("level", power / wanted, 1.0, low * (1 - slack), high * (1 + slack))]
    for axis in (2, 3, 4):
        value = _lagged(removed, removed, answer.mask, axis) / (power / voxels)
        expected = _lagged(answer.coins, kept, answer.mask, axis) / (wanted / voxels)
        figures.append(_correlation(f"lag {'IJK'[axis - 2]}", value, expected, chance))
    figures.append(_flatness(removed, answer.coins, kept, voxels))
    value, expected = _with_structure(answer, removed)
    # noise that the estimate holds, but for lack of smoothing, makes it smaller; only anatomy makes it larger
    figures.append(Figure("structure", value, expected, -1.0, expected + CORRELATION_TOLERANCE + chance))
    return tuple(figures)


def _correlation(name: str, value: float, expected: float, chance: float) -> Figure:
    slack = CORRELATION_TOLERANCE + chance
    return Figure(name, value, expected, expected - slack, expected + slack)


def _lagged(a: Tensor, b: Tensor, mask: Tensor, axis: int) -> float:
    """Return the mean product of neighbours along an axis, both in the mask, taken both ways."""

    def at(image: Tensor, start: int) -> Tensor:
        return image.narrow(axis, start, mask.shape[axis] - 1)

    pairs = at(mask, 0) * at(mask, 1)
    products = at(a, 0) * at(b, 1) + at(b, 0) * at(a, 1)
    return float((pairs * products).sum() / (2 * pairs.sum().clamp_min(1)))


def _flatness(removed: Tensor, coins: Tensor, kept: Tensor, voxels: float) -> Figure:
    """Return how flat the removed power is over shells of frequency, in units of the expected: 1 is flat.

    The geometric mean over the arithmetic mean; minus its logarithm is chi-squared over the voxels in white noise.
    """
    shells = _shells(removed.shape[2:]).to(removed.device)
    spectra = [torch.fft.fftn(image[0, 0].double()) for image in (removed, coins, kept)]
    power = _by_shell(spectra[0].abs().square(), shells)
    expected = _by_shell((spectra[1].conj() * spectra[2]).real, shells)
    share = torch.bincount(shells.flatten(), minlength=BANDS).double() / shells.numel()
    used = (expected > 0.05 * expected.max()) & (power > 0)  # shells that a perfect denoiser leaves alone say nothing
    ratio, weight = (power / expected)[used], (share / share[used].sum())[used]
    value = float(torch.exp((weight * ratio.log()).sum()) / (weight * ratio).sum())
    chance = 1.5 * (BANDS + NULL_WIDTH * sqrt(2 * BANDS)) / voxels
    return Figure("flatness", value, 1.0, 1 - FLATNESS_TOLERANCE - chance, 1.0)


def _shells(shape: torch.Size) -> Tensor:
    """Return which shell of spatial frequency each coefficient lies in."""
    axes = [torch.fft.fftfreq(size, dtype=torch.float64).square() for size in shape]
    radius = (axes[0][:, None, None] + axes[1][:, None] + axes[2]).sqrt()
    return (radius / 0.75**0.5 * BANDS).long().clamp(max=BANDS - 1)


def _by_shell(values: Tensor, shells: Tensor) -> Tensor:
    return torch.bincount(shells.flatten(), weights=values.flatten(), minlength=BANDS)


def _with_structure(answer: Probe, removed: Tensor) -> tuple[float, float]:
    """Return the correlation of what was removed with the estimate's detail, and what is expected of it.

    A perfect denoiser's estimate holds some of the noise, so the two are correlated: by the Jacobian's diagonal.
    """
    spread = answer.scatter.variance.sqrt()
    detail = answer.mask * _detail(answer.estimate, answer.mask) / spread
    slope = torch.where(answer.mask > 0, answer.scatter.slope, 1.0)
    moved = answer.mask * _detail(spread * answer.answer / slope, answer.mask) / spread
    size = float(removed.norm() * detail.norm())
    if size == 0:
        return 0.0, 0.0
    return float((removed * detail).sum()) / size, float((answer.coins * moved).sum()) / size


def _detail(image: Tensor, mask: Tensor) -> Tensor:
    """Return the image without its 5x5x5 mean over the mask."""
    total, count = (functional.avg_pool3d(part, 5, stride=1, padding=2) for part in (mask * image, mask))
    return image - total / count.clamp_min(1e-6)
