"""Fusion of edges: every modality's gradients where it tells most, made one image by the screened Poisson equation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.fusion.fusers import Coverage, Fused, Scaled, Spacing, summed
from medinterp.fusion.poisson import Gradient, along_axis, forward_gradient, solve_screened

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # entries of a symmetric matrix
_TRUNCATED = 3.0  # standard deviations
_SLAB = 2  # layers


@dataclass(frozen=True)
class GradientDomain:
    """The image whose gradients are those of the modality that tells most, voxel by voxel.

    1. Every modality comes to one scale, ``(value + offset) / bright level``, which is stored.
    2. A modality's structure tensor, its smoothed gradient products, counts by the share of it that is no noise
       (contrast over contrast plus the variance that its uncertainty gives a gradient). Their sum, the multi-modal
       structure tensor (Di Zenzo), has at every voxel a direction of greatest change.
    3. A modality's weight is its own such contrast along that direction, to a power, normalised over the modalities:
       of two clean scans the one with more contrast leads, and a noisy one only where it has contrast to tell.
    4. The asked-for gradients are the weighted sum of the modalities' gradients; far from edges the image follows
       their average, weighted by the same contrast over a wider neighbourhood.
    5. The screened Poisson equation gives the image nearest to both. Contrasts of opposite sign meet where the leading
       modality changes, and no image has the gradients asked for. So it counts ``stiffest`` times as much where no
       modality has a step: what cannot be met is missed at edges, and makes no slopes where there are none.
    6. What still leaves the range of the modalities' values is cut to its end.

    Weights, tensor, stiffness, cuts and scales are constants for differentiation: the fused image is linear in the
    modalities, constants and single modalities come back as they are, and each contribution is the same equation solved
    for its modality alone. A modality without any contrast gets no weight.

    Args:
        offsets: added to a modality by name before scaling (for CT +1000 puts air at zero).
        power: how strictly the leading modality takes all: 1 is in proportion to squared contrast.
        width_mm: smoothing of the structure tensor (standard deviation).
        base_width_mm: the same for the average far from edges.
        length_mm: finer structures than this follow the gradients, coarser ones the average.
        step: a step to the next voxel of this share of the range halves the stiffness, or more; at least this.
        stiffest: stiffness where no modality has a step; 1 at the strongest edges.
        iterations: steps of the solver.
        within_range: whether a voxel beyond the values that the modalities have there becomes the nearest of them.

    Source:
        Di Zenzo, "A note on the gradient of a multi-image", CVGIP 33 (1986); Socolinsky & Wolff, "Multispectral image
        visualization through first-order fusion", IEEE TIP 11 (2002), section III, with weights of our own.
    """

    offsets: Mapping[str, float] = field(default_factory=dict)
    power: float = 12.0
    width_mm: float = 1.6
    base_width_mm: float = 12.0
    length_mm: float = 15.0
    step: float = 0.06
    stiffest: float = 20.0
    iterations: int = 6
    within_range: bool = False

    def prepare(self, modality: Scaled, spacing_mm: Spacing) -> "Slopes":
        """Return a modality's gradient, its structure tensor and its contrast far around; see ``Fuser``."""
        slope = _measured_gradient(modality.image, modality.coverage, spacing_mm)
        square = torch.stack([s.detach() ** 2 for s in slope]).sum(dim=0).mean(dim=(0, 1), keepdim=True)
        far = smooth(square, self.base_width_mm, spacing_mm)
        tensor = _structure_tensor(slope, self.width_mm, spacing_mm)
        noise = 2 * modality.variance * sum(mm**-2 for mm in spacing_mm)  # of a gradient's three components together
        certain = _certainty(tensor[0] + tensor[3] + tensor[5], noise)
        return Slopes(modality, slope, tensor * certain, far * _certainty(far, noise), spacing_mm)

    def join(self, parts: Mapping[str, "Slopes"]) -> Fused:
        """Return the image whose gradients are those of the leading modalities; see ``Fuser``."""
        weights, wanted = self._decide(parts)
        shares = {m: self._solve(*one, parts) for m, one in wanted.items()}
        if self.within_range:
            shares = _cut_off(shares, {m: p.modality for m, p in parts.items()})
        else:
            kept = _cut_to_range(torch.stack(list(shares.values())).sum(dim=0), parts)
            shares = {m: share * kept for m, share in shares.items()}
        return summed(shares, weights, {m: p.modality.scale for m, p in parts.items()})

    def _decide(self, parts: Mapping[str, "Slopes"]) -> tuple[dict[str, Tensor], dict[str, tuple[Gradient, Tensor]]]:
        """Return each modality's weight, and the gradient and base that it asks for."""
        energy = _leading_contrast({m: p.tensor for m, p in parts.items()})
        coverage = {m: p.modality.coverage for m, p in parts.items()}
        weights = _shares(energy, coverage, self.power)
        base_weights = _shares({m: p.far for m, p in parts.items()}, coverage, 1.0)
        wanted = {}
        for m, p in parts.items():
            i, j, k = (weights[m] * slope for slope in p.slope)
            wanted[m] = ((i, j, k), base_weights[m] * p.modality.image)
        return weights, wanted

    def image(self, parts: Mapping[str, "Slopes"]) -> Tensor:
        """Return the fused image by one solution instead of one a modality; see ``Fuser``."""
        if self.within_range:
            return self.join(parts).image  # which modality's value a voxel becomes is decided on its shares
        _, wanted = self._decide(parts)
        i, j, k = (torch.stack([slope[axis] for slope, _ in wanted.values()]).sum(dim=0) for axis in range(3))
        together = self._solve((i, j, k), torch.stack([base for _, base in wanted.values()]).sum(dim=0), parts)
        return together * _cut_to_range(together, parts)

    def _solve(self, slope: Gradient, base: Tensor, parts: Mapping[str, "Slopes"]) -> Tensor:
        if len(parts) == 1:
            return base  # whose gradient the slope is
        return solve_screened(
            slope,
            base,
            _stiffness(parts, self.step, self.stiffest),
            spacing_mm=next(iter(parts.values())).spacing_mm,
            length_mm=self.length_mm,
            stiffest=self.stiffest,
            iterations=self.iterations,
        )


@dataclass(frozen=True, eq=False)
class Slopes:
    """What the gradient-domain fuser needs of one modality.

    Args:
        modality: in the fused image's scale.
        slope: its gradient per mm, where it was measured.
        tensor: its structure tensor without noise, the six products of ``_PAIRS``; a constant.
        far: its squared contrast without noise, in a wide neighbourhood; a constant.
        spacing_mm: of the grid.
    """

    modality: Scaled
    slope: Gradient
    tensor: Float[Tensor, "6 I J K"]
    far: Tensor
    spacing_mm: Spacing


def _range(parts: Mapping[str, Slopes]) -> tuple[float, float]:
    """Return the least and the largest value of any modality where it was measured."""
    measured = [p.modality.image.detach()[p.modality.coverage.expand_as(p.modality.image) > 0] for p in parts.values()]
    ends = [(float(x.min()), float(x.max())) for x in measured if x.numel()]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _stiffness(parts: Mapping[str, Slopes], step: float, stiffest: float) -> Gradient:
    """Return how firmly each gradient is to be met: 1 where a modality steps, up to ``stiffest`` where none does."""
    low, high = _range(parts)
    stiff = []
    for axis, mm in enumerate(next(iter(parts.values())).spacing_mm):
        steps = torch.stack([p.slope[axis].detach().abs() for p in parts.values()]).amax(dim=0) * mm / (high - low)
        stiff.append((1 / (1 / stiffest + steps / step)).clamp_min(1.0))
    return stiff[0], stiff[1], stiff[2]


def _cut_to_range(image: Tensor, parts: Mapping[str, Slopes]) -> Tensor:
    """Return the factor that brings every voxel to the end of the modalities' range that it is beyond; a constant.

    It is 1 inside of the range and at most 4: what undershoots a range far above zero by more stays below it.
    """
    low, high = _range(parts)
    image = image.detach()
    factor = image.clamp(low, high) / torch.where(image == 0, 1.0, image)
    return torch.where((image >= low) & (image <= high), 1.0, factor.clamp(0.0, 4.0))


def _cut_off(shares: Mapping[str, Tensor], modalities: Mapping[str, Scaled]) -> dict[str, Tensor]:
    """Return contributions that sum to the image cut to the range of what was measured at each voxel.

    Where it is cut, the modality at that end of the range contributes its value and the others nothing: with this
    choice held constant the image stays linear. Where nothing was measured nothing is cut.
    """
    image = torch.stack(list(shares.values())).sum(dim=0).detach()
    values = torch.stack([p.image.detach() for p in modalities.values()])
    seen = torch.stack([p.coverage.expand_as(p.image) for p in modalities.values()]) > 0
    low, lowest = torch.where(seen, values, math.inf).min(dim=0)
    high, highest = torch.where(seen, values, -math.inf).max(dim=0)
    under, over = seen.any(dim=0) & (image < low), seen.any(dim=0) & (image > high)
    cut = {}
    for number, (m, share) in enumerate(shares.items()):
        ends = (under & (lowest == number)) | (over & (highest == number))
        cut[m] = torch.where(ends, modalities[m].image, torch.where(under | over, 0.0, share))
    return cut


def _certainty(contrast: Tensor, noise: Tensor) -> Tensor:
    """Return the share of a squared contrast that is no noise, 0 to 1."""
    return contrast / (contrast + noise).clamp_min(1e-30)


def _leading_contrast(tensors: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "1 1 I J K"]]:
    """Return each modality's change along the direction in which all together change most.

    Slab by slab: what is computed on the way, some dozens of numbers a voxel, then stays near the processor.
    """
    found: dict[str, list[Tensor]] = {m: [] for m in tensors}
    slabs = {m: torch.split(tensor, _SLAB, dim=1) for m, tensor in tensors.items()}
    for together in zip(*slabs.values(), strict=True):
        along = leading_direction(sum(together[1:], start=together[0]))
        for m, slab in zip(tensors, together, strict=True):
            found[m].append(_along(slab, along))
    return {m: torch.cat(parts)[None, None] for m, parts in found.items()}


def leading_direction(tensor: Float[Tensor, "6 I J K"]) -> Float[Tensor, "3 I J K"]:
    """Return the unit vector of greatest change: the eigenvector of the largest eigenvalue, by squaring the matrix.

    Five squarings raise the ratio of eigenvalues to the 32nd power; where two are equal any direction in their plane
    serves as well.

    Args:
        tensor: symmetric matrices, as the six entries of ``_PAIRS``.
    """
    power = tensor
    for _ in range(5):
        xx, xy, xz, yy, yz, zz = power / (power[0] + power[3] + power[5]).clamp_min(1e-30)
        power = torch.stack(
            [
                xx * xx + xy * xy + xz * xz,
                xx * xy + xy * yy + xz * yz,
                xx * xz + xy * yz + xz * zz,
                xy * xy + yy * yy + yz * yz,
                xy * xz + yy * yz + yz * zz,
                xz * xz + yz * yz + zz * zz,
            ]
        )
    xx, xy, xz, yy, yz, zz = power
    # every column is the wanted vector times one of its components: the one with the largest is the most exact
    largest = torch.stack([xx, yy, zz]).argmax(dim=0)
    columns = torch.stack([torch.stack([xx, xy, xz]), torch.stack([xy, yy, yz]), torch.stack([xz, yz, zz])])
    vector = torch.take_along_dim(columns, largest[None, None], dim=0)[0]
    return vector / vector.norm(dim=0, keepdim=True).clamp_min(1e-30)


def smooth(image: Float[Tensor, "B C I J K"], width_mm: float, spacing_mm: Spacing) -> Float[Tensor, "B C I J K"]:
    """Return an image smoothed by a Gaussian of this standard deviation; borders repeat the outermost voxel.

    As a product with a matrix along each axis: for the lengths of scans faster than a convolution, however wide.
    """
    for axis, mm in zip((2, 3, 4), spacing_mm, strict=True):
        image = along_axis(_blur(image.shape[axis], width_mm / mm).to(image), image, axis)
    return image


def _blur(length: int, width: float) -> Float[Tensor, "n n"]:
    """Return Gaussian smoothing of a line as a matrix; what falls beyond the ends counts as their voxel."""
    reach = max(1, round(_TRUNCATED * width))
    steps = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (steps.to(torch.float64) / width) ** 2)
    rows = torch.arange(length)[:, None].expand(length, len(steps))
    columns = (rows + steps).clamp(0, length - 1)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.index_put((rows, columns), (kernel / kernel.sum()).expand(length, -1), accumulate=True)


def _along(tensor: Float[Tensor, "6 I J K"], direction: Float[Tensor, "3 I J K"]) -> Float[Tensor, "I J K"]:
    """Return the change along a direction: the quadratic form of the structure tensor."""
    terms = [(1 if a == b else 2) * tensor[n] * direction[a] * direction[b] for n, (a, b) in enumerate(_PAIRS)]
    return torch.stack(terms).sum(dim=0)


def _measured_gradient(image: Tensor, coverage: Coverage, spacing_mm: Spacing) -> Gradient:
    """Return the gradient where both voxels were measured: the border of a field of view is no edge."""
    i, j, k = forward_gradient(image, spacing_mm)
    kept = []
    for axis, slope in zip((2, 3, 4), (i, j, k), strict=True):
        following = torch.cat([coverage.narrow(axis, 1, coverage.shape[axis] - 1), coverage.narrow(axis, -1, 1)], axis)
        kept.append(slope * coverage * following)
    return kept[0], kept[1], kept[2]


def _structure_tensor(slope: Gradient, width_mm: float, spacing_mm: Spacing) -> Float[Tensor, "6 I J K"]:
    """Return the smoothed products of a gradient's components, averaged over batch and channels."""
    parts = [s.detach() for s in slope]
    products = torch.stack([(parts[a] * parts[b]).mean(dim=(0, 1)) for a, b in _PAIRS])
    return smooth(products[:, None], width_mm, spacing_mm)[:, 0]


def _shares(energy: Mapping[str, Tensor], coverage: Mapping[str, Coverage], power: float) -> dict[str, Tensor]:
    """Return each modality's share; where nothing has contrast, the shares of the whole image."""
    raised = {}
    for m, here in energy.items():
        everywhere = here.mean()
        raised[m] = coverage[m] * (here.clamp_min(0) ** power + (1e-4 * everywhere) ** power)
    total = torch.stack(list(raised.values())).sum(dim=0)
    return {m: torch.where(total > 0, part / total.clamp_min(1e-30), 0.0) for m, part in raised.items()}
