"""How good a denoised scan is without knowing the truth: its estimated error, and whether noise alone was removed.

Both come from two evaluations of the denoiser: on the scan, and on the scan with a small random change.
"""

from dataclasses import dataclass
from math import inf, log10, prod

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.assessment.removed_noise import Figure, examine_removed
from medinterp.denoisers.base import Denoiser, evaluate
from medinterp.denoisers.stein import BRIGHT_SIGMAS, Probe, probe
from medinterp.errors import InputError, MethodNotValid, TooFewVoxels
from medinterp.noise.estimate import NoiseEstimate

MINIMUM_VOXELS = 1000
"""Voxels below which the figures scatter too much to mean anything."""
FOREGROUND_SHARE = 0.1
"""A magnitude counts where the denoised signal exceeds this share of its maximum."""
MARGIN = 8
"""Voxels left out along a cut border, where the denoiser misses its surroundings."""
ASSUMED = {
    "gaussian": "Gaussian noise, independent from voxel to voxel",
    "rician": "Rician noise, independent from voxel to voxel, taken as Gaussian about its mean above two noise levels",
}
"""What the estimated error takes for granted, by noise model."""


@dataclass(frozen=True)
class RiskEstimate:
    """The mean squared error of a denoised scan, estimated by Stein's identity, and the PSNR that follows.

    Args:
        mse: estimate, in the scan's unit squared; may fall below 0 by chance or where sigma is over-estimated.
        standard_error: of ``mse``, by chance alone.
        low: lower end of the 95 % interval: chance, and the interval of sigma; at least 0.
        high: upper end.
        noise: mean squared noise of the scan itself over the same voxels.
        peak: what PSNR refers to, in the scan's unit.
        voxels: how many count.
        assumed: what the estimate takes for granted, for reports.
    """

    mse: float
    standard_error: float
    low: float
    high: float
    noise: float
    peak: float
    voxels: int
    assumed: str

    @property
    def psnr(self) -> float:
        """Estimated peak signal-to-noise ratio in dB; infinite where the estimated error is not positive."""
        return self._decibels(self.mse)

    @property
    def psnr_low(self) -> float:
        """Lower end of the 95 % interval, in dB."""
        return self._decibels(self.high)

    @property
    def psnr_high(self) -> float:
        """Upper end of the 95 % interval, in dB."""
        return self._decibels(self.low)

    @property
    def gain(self) -> float:
        """Estimated improvement over the scan itself, in dB."""
        return self.psnr - self._decibels(self.noise)

    def _decibels(self, mse: float) -> float:
        return 10 * log10(self.peak**2 / mse) if mse > 0 else inf


@dataclass(frozen=True)
class TruthFreeQuality:
    """The estimated error of a denoised scan, and whether what was removed looks like noise.

    Args:
        risk: estimated error and PSNR.
        figures: level (removed power over the expected one: the square of true over assumed sigma), autocorrelation at
            a lag of one voxel along each axis, flatness of the spectrum, and correlation with the detail of the
            denoised image.
        notes: what the failed figures mean, in words.
    """

    risk: RiskEstimate
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every figure lies in its interval."""
        return all(figure.passed for figure in self.figures)


def assess(
    denoiser: Denoiser,
    y: Float[Tensor, "1 1 I J K"],
    sigma: Float[Tensor, "#1 #1 #I #J #K"],
    noise: NoiseEstimate,
    *,
    generator: torch.Generator,
    mask: Float[Tensor, "1 1 I J K"] | None = None,
    max_voxels: int = 128**3,
    peak: float | None = None,
) -> TruthFreeQuality:
    """Estimate the error of a denoised scan, and examine what was removed, from the scan alone.

    Assumes noise independent from voxel to voxel; where it is not (interpolated scans, CT), the lags say so and the
    estimated error is too small. Magnitudes are judged where the denoised signal is at least two noise levels and a
    tenth of its maximum. A large scan is judged in its middle. Measured against the truth on two tuning scans with 3
    to 15 % Rician noise: within 0.2 dB when sigma is given. An error of 7 % in sigma alone moves it by 3 dB at 9 %, and
    that is what the interval says. Run it without a graph, on the very denoiser that made the result.

    Args:
        denoiser: what made the result; called twice.
        y: the scan.
        sigma: the noise level that the denoiser was told.
        noise: where that level came from; its model and interval are used.
        generator: of the random change.
        mask: 1 for voxels that count. Without it, the foreground of magnitudes; of other scans, all but padding.
        max_voxels: largest number of voxels looked at.
        peak: what PSNR refers to; the largest denoised value among the voxels that count when not given.

    Raises:
        InputError: the noise estimate is zero.
        TooFewVoxels: fewer than 1000 voxels count.
        MethodNotValid: the denoiser removes nothing, or was told that the noise is coloured.
    """
    if noise.model == "coloured":
        raise MethodNotValid(
            "Stein's identity as used here takes noise as independent from voxel to voxel; this scan's is coloured: "
            "the estimated error would be too small; compare with a reference, or look at the removed noise"
        )
    if noise.sigma <= 0:
        raise InputError("no noise was found in this scan: there is no error to estimate; report the scan as it is")
    scan, level = _middle(y, max_voxels), _middle(sigma, max_voxels)
    rician = noise.model == "rician"
    estimate = evaluate(denoiser, scan, level)
    counted = _foreground(scan, estimate, level, rician=rician) if mask is None else _middle(mask, max_voxels)
    counted = counted * _inside(scan, y)
    if int(counted.sum()) < MINIMUM_VOXELS:
        raise TooFewVoxels(
            f"{int(counted.sum())} voxels count for an estimate of the error: at least {MINIMUM_VOXELS} are needed; "
            "give a larger mask or field of view"
        )
    answer = probe(denoiser, scan, level, counted, rician=rician, generator=generator, estimate=estimate)
    interval = (noise.low / noise.sigma, noise.high / noise.sigma)
    risk = estimate_risk(answer, interval, peak=peak, assumed=ASSUMED[noise.model])
    figures = examine_removed(answer, interval)
    return TruthFreeQuality(risk, figures, _notes(figures))


def estimate_risk(
    answer: Probe,
    interval: tuple[float, float] = (1.0, 1.0),
    *,
    peak: float | None = None,
    assumed: str = ASSUMED["gaussian"],
) -> RiskEstimate:
    """Turn a probe into a mean squared error with its interval.

    The standard error is that of the estimate about this image's own error: by the second-order Stein identity for the
    noise, and Hutchinson's variance for the random change, with the squared Jacobian bounded by its Frobenius norm.

    Args:
        answer: what the denoiser said; see ``probe``.
        interval: least and largest true noise level, over the one assumed.
        peak: what PSNR refers to; the largest estimate among the voxels that count when not given.
        assumed: what the numbers take for granted, in words.

    Source:
        Stein, Annals of Statistics 9 (1981), theorem 1; Bellec & Zhang, Annals of Statistics 49 (2021), theorem 3.2;
        Ramani, Blu & Unser, IEEE TIP 17 (2008) for the random change.
    """
    voxels = float(answer.mask.sum())
    noise = answer.noise().double()
    scatter = 4 * answer.removed().double().square() - 2 + 12 * answer.answer.double().square()
    floor = noise.square().sum()  # the least that any denoiser leaves; a wrong sigma could take the sum below it
    error = float(torch.maximum((noise.square() * scatter).sum(), floor).sqrt()) / voxels
    scales = (1.0, *interval)
    mse, *ends = (float(answer.risk(scale=scale).double().sum()) / voxels for scale in scales)
    return RiskEstimate(
        mse=mse,
        standard_error=error,
        low=max(0.0, min(mse, *ends) - 1.96 * error),
        high=max(0.0, max(mse, *ends) + 1.96 * error),
        noise=float(noise.sum()) / voxels,
        peak=float((answer.estimate * answer.mask).max()) if peak is None else peak,
        voxels=int(voxels),
        assumed=assumed,
    )


def _foreground(y: Tensor, estimate: Tensor, sigma: Tensor, *, rician: bool) -> Tensor:
    """Return where magnitudes are bright enough; in other scans, all voxels but padding (the minimum, if frequent)."""
    if rician:
        bright = (estimate > BRIGHT_SIGMAS * sigma) & (estimate > FOREGROUND_SHARE * estimate.max())
        return (bright & (y > 0) & (sigma > 0)).to(y)
    lowest = y == y.min()
    padding = lowest if float(lowest.float().mean()) > 0.01 else torch.zeros_like(lowest)
    return (~padding & (sigma > 0)).to(y)


def _middle(image: Tensor, max_voxels: int) -> Tensor:
    """Return the middle of an image, cut evenly along its longest axes; a scalar stays."""
    shape = list(image.shape[2:])
    while prod(shape) > max_voxels:
        longest = max(range(3), key=shape.__getitem__)
        shape[longest] -= min(8, shape[longest] - 1)
    starts = [(size - kept) // 2 for size, kept in zip(image.shape[2:], shape, strict=True)]
    i, j, k = (slice(a, a + n) for a, n in zip(starts, shape, strict=True))
    return image[:, :, i, j, k]


def _inside(scan: Tensor, whole: Tensor) -> Tensor:
    """Return 1 away from the borders at which the scan was cut, 0 within a margin of them."""
    inside = torch.zeros_like(scan)
    margins = [MARGIN if part < full else 0 for part, full in zip(scan.shape[2:], whole.shape[2:], strict=True)]
    i, j, k = (slice(m, n - m) for m, n in zip(margins, scan.shape[2:], strict=True))
    inside[:, :, i, j, k] = 1
    return inside


def _notes(figures: tuple[Figure, ...]) -> tuple[str, ...]:
    notes, failed = [], {figure.name: figure for figure in figures if not figure.passed}
    if "level" in failed:
        level = failed["level"]
        verdict = "over-estimated" if level.value < level.low else "under-estimated, or anatomy was removed"
        notes.append(f"{level.value:.2f} times the expected power was removed: sigma is {verdict}; the error is off")
    lags = [figure for name, figure in failed.items() if name.startswith("lag")]
    if any(figure.value > figure.high for figure in lags):
        notes.append(
            "neighbouring voxels of what was removed are alike: the scan's noise is correlated (interpolated or "
            "filtered), or anatomy was removed; the estimated error is too small"
        )
    elif lags:
        notes.append("neighbouring voxels of what was removed alternate: noise is left in the result")
    if "flatness" in failed and not lags:
        notes.append("the spectrum of what was removed is not that of noise")
    if "structure" in failed:
        notes.append("what was removed follows the detail of the result more than noise would: anatomy was removed")
    return tuple(notes)
