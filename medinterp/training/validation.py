"""Watching a training: PSNR on a scan that is never trained on, and how far the network is from a posterior mean."""

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medinterp import io
from medinterp.denoisers.base import scalar_sigma
from medinterp.noise.models import add_rician
from medinterp.testing.linearity import jacobian_asymmetry
from medinterp.training.draws import seeded
from medinterp.training.scans import bright_scaled
from medinterp.training.views import blurred

_LEVELS = (0.03, 0.09)
_SHAPE = (96, 96, 64)
_PROBE = 40  # edge in voxels of the cube on which the Jacobian is probed
_SMOOTH = 0.8  # voxels: leaves 4 % of a scan's own noise


@dataclass(frozen=True)
class Case:
    """A clean image, the same with noise, and what the noise is."""

    name: str
    clean: Float[Tensor, "1 1 I J K"]
    noisy: Float[Tensor, "1 1 I J K"]
    sigma: float


@dataclass(frozen=True)
class TuningScan:
    """Measure a network on the middle of one scan, as it is and smoothed, under fixed seeded Rician noise.

    A scan's own noise bounds the PSNR that can be reached on it; smoothed it has almost none, but less detail too.

    Args:
        path: the scan, kept apart from training.
        device: where the network is.
    """

    path: Path
    device: str = "cpu"
    cases: tuple[Case, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        voxels = bright_scaled(torch.from_numpy(io.read(Path(self.path)).voxels[0].copy()))
        box = tuple(
            slice(max(0, (n - m) // 2), max(0, (n - m) // 2) + m) for n, m in zip(voxels.shape, _SHAPE, strict=True)
        )
        native = voxels[box]
        smooth = native
        for axis in range(3):
            smooth = blurred(smooth, _SMOOTH, axis)
        cases, generator = [], seeded(9)
        for name, clean in (("", native[None, None]), ("smooth_", smooth[None, None])):
            for level in _LEVELS:
                noisy = add_rician(clean, scalar_sigma(level, clean), generator=generator)
                cases.append(Case(f"{name}psnr_{round(100 * level)}_percent", clean, noisy, level))
        object.__setattr__(self, "cases", tuple(cases))  # a frozen dataclass's own way to derive a field

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Return PSNR in dB of the foreground by case, peak = 1 (bright tissue), and the Jacobian's asymmetry."""
        found = {}
        with torch.no_grad():  # measurements; the probe below differentiates by itself
            for case in self.cases:
                noisy = case.noisy.to(self.device)
                error = network(noisy, scalar_sigma(case.sigma, noisy)).cpu() - case.clean
                square = error[case.clean > 0.1].square().mean()
                found[case.name] = round(-10 * math.log10(float(square) + 1e-12), 3)
        return {**found, "asymmetry": round(self.asymmetry(network), 4)}

    def asymmetry(self, network: nn.Module) -> float:
        """Return the norm of Jv - J'v over that of Jv at 9 % noise, for one white v: 0 for a posterior mean."""
        case = self.cases[1]
        i, j, k = (slice(max(0, (n - _PROBE) // 2), (n + _PROBE) // 2) for n in case.noisy.shape[2:])
        noisy = case.noisy[:, :, i, j, k].to(self.device)
        frozen = copy.deepcopy(network).requires_grad_(False)  # the scan is differentiated, not the weights
        return jacobian_asymmetry(frozen, noisy, scalar_sigma(case.sigma, noisy), generator=seeded(10))
