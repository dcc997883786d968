"""The equivalent filter: the weights with which the model, on this scan, averages its input into the measurement."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medinterp.attribution.gradient import Saliency
from medinterp.attribution.result import Attribution, Forward, sum_of
from medinterp.attribution.targets import Target
from medinterp.errors import ConfigError

FWHM = 2.3548200450309493
"""Full width at half maximum of a Gaussian of standard deviation one: 2 sqrt(2 ln 2)."""


@dataclass(frozen=True)
class EquivalentFilter:
    """One row of the model's Jacobian: a weight for every input voxel, and what kind of filter that is.

    For a one-voxel region on a Gaussian filter, the map is the filter's kernel. The statistics, per input:

    - ``gain``: sum of the weights; 1 keeps a flat region's level.
    - ``negative_share``: part of the weights' magnitude that is negative; above 0 the model sharpens.
    - ``noise_gain``: root of the sum of squares: white input noise times this is the measurement's, to first order.
    - ``width_{i,j,k}_mm``: full width at half maximum of the Gaussian with the same second moment as the magnitude.
    - ``half_weight_radius_mm``: radius around the centroid that holds half of the magnitude.

    Args:
        spacing_mm: voxel size along I, J and K.
    """

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    name: str = "equivalent_filter"

    def __post_init__(self) -> None:
        if min(self.spacing_mm) <= 0:
            raise ConfigError(f"a voxel size of {self.spacing_mm} mm: expected three positive numbers")

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Return the weights, by one vector-Jacobian product.

        Raises:
            MethodNotValid: there is no gradient, or it is zero everywhere.

        Source:
            Mohan et al., "Robust and interpretable blind image denoising via bias-free CNNs", ICLR 2020, section 5.
        """
        return self.of_gradient(Saliency()(forward, inputs, sigmas, target), inputs, target, forward)

    def of_gradient(
        self, gradient: Attribution, inputs: Mapping[str, Tensor], target: Target, forward: Forward
    ) -> Attribution:
        """Return the gradient, which is the row, with what kind of filter it is; the arguments are as elsewhere."""
        statistics = {
            f"{key}:{name}": number
            for name, image in gradient.maps.items()
            for key, number in filter_statistics(image, self.spacing_mm).items()
        }
        return replace(gradient, method=self.name, statistics={**gradient.statistics, **statistics})


def filter_statistics(weights: Tensor, spacing_mm: tuple[float, float, float]) -> dict[str, float]:
    """Return gain, negative share, noise gain and widths of a filter (1, C, I, J, K); widths 0 for an all-zero one."""
    weights = _without_empty_margins(weights)
    gain, total = sum_of(weights), sum_of(weights.abs())
    size = weights.abs().sum(dim=(0, 1), dtype=torch.float64) / max(total, torch.finfo(torch.float64).tiny)
    centre, statistics = [], {"gain": gain, "noise_gain": sum_of(weights**2) ** 0.5}
    statistics["negative_share"] = sum_of(weights.clamp(max=0).abs()) / total if total else 0.0
    for axis, (label, spacing) in enumerate(zip("ijk", spacing_mm, strict=True)):
        profile = size.sum(dim=[other for other in range(3) if other != axis])
        position = torch.arange(len(profile), dtype=torch.float64, device=size.device) * spacing
        centre.append(float((profile * position).sum()))
        spread = float((profile * (position - centre[-1]) ** 2).sum())
        statistics[f"width_{label}_mm"] = FWHM * spread**0.5
    statistics["half_weight_radius_mm"] = _half_weight_radius(size, centre, spacing_mm)
    return statistics


def _without_empty_margins(weights: Tensor) -> Tensor:
    """Return the box of voxels outside of which every weight is zero: a map on a whole grid is mostly that."""
    used = (weights != 0).any(dim=0).any(dim=0)
    for axis in range(3):
        along = used.any(dim=[other for other in range(3) if other != axis]).nonzero()
        if len(along):
            weights = weights.narrow(2 + axis, int(along[0]), int(along[-1] - along[0]) + 1)
    return weights


def _half_weight_radius(size: Tensor, centre_mm: list[float], spacing_mm: tuple[float, float, float]) -> float:
    """Return the radius around the centre that holds half of ``size``, which sums to one."""
    squared = size.new_zeros(())
    for axis, (centre, spacing) in enumerate(zip(centre_mm, spacing_mm, strict=True)):
        position = torch.arange(size.shape[axis], dtype=size.dtype, device=size.device) * spacing - centre
        squared = squared + position.square().reshape([-1 if other == axis else 1 for other in range(3)])
    distance, order = squared.flatten().sort()
    reached = size.flatten()[order].cumsum(0)
    return float(distance[int((reached < 0.5 * reached[-1]).sum())]) ** 0.5 if bool(reached[-1]) else 0.0
