"""The certificate of a map: whether it is complete, has converged, and depends on what the model learned."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medinterp.attribution.result import Attribution
from medinterp.denoisers.base import Denoiser, evaluate
from medinterp.errors import InputError, MethodNotValid, NonFinite

Explain: TypeAlias = Callable[[Denoiser], Attribution]
"""Denoiser -> the same explanation, made with that denoiser in place of the real one."""

SENSITIVE = "sensitive to the model"
INSENSITIVE = "insensitive to the model"
UNDECIDED = "undecided: too few independent voxels"
ALL_INPUT = 0.999
"""A map of which a denoiser that changes nothing explains more than this says nothing about the model."""


@dataclass(frozen=True)
class Tolerances:
    """Where a certificate draws its lines.

    Args:
        completeness: largest residual of a map that is called complete.
        convergence: largest relative change of a map when its points or draws were last doubled.
        homogeneity: largest ||D - J_x x - J_sigma sigma|| / ||D||.
    """

    completeness: float = 0.01
    convergence: float = 0.1
    homogeneity: float = 1e-5


@dataclass(frozen=True)
class Randomisation:
    """How much a map resembles the map of a network with random weights.

    Args:
        correlation: Pearson correlation of the two maps, after what a denoiser that changes nothing would show has
            been taken out of both.
        plain_correlation: the same without taking anything out; high where the model mostly keeps its input.
        input_share: part of the map's variance that the map of a denoiser that changes nothing explains.
        threshold: 3 / sqrt(independent voxels), the largest |correlation| of unrelated maps.
        independent_voxels: effective number of them.
        smoothing_voxels: width of the Gaussian blur that would make white noise as smooth as the maps.
        verdict: SENSITIVE, INSENSITIVE or UNDECIDED.
    """

    correlation: float
    plain_correlation: float
    input_share: float
    threshold: float
    independent_voxels: float
    smoothing_voxels: float
    verdict: str


@dataclass(frozen=True)
class Certificate:
    """What was checked of one map, and whether it held; ``dataclasses.asdict`` gives JSON.

    Args:
        method: name of the attributor.
        target: what was measured.
        explained: what the explained image is.
        value: the measurement.
        residual: completeness residual.
        complete: whether it is within tolerance; None where the method does not claim that its parts sum up.
        convergence: change at the last doubling of path points, None without a path.
        converged: whether it is within tolerance, None without a path.
        noise_share: part of the measurement owed to the assumed noise level, over the measurement's change from the
            baseline, per input.
        randomisation: comparison with a network of random weights, None where the denoiser has none.
        homogeneity: ||D - J_x x - J_sigma sigma|| / ||D|| of the denoiser near the region, None when not asked for.
        homogeneous: whether it is within tolerance.
        passed: nothing that was checked failed.
        notes: what failed or could not be checked, in words.
    """

    method: str
    target: str
    explained: str
    value: float
    residual: float
    complete: bool | None
    convergence: float | None
    converged: bool | None
    noise_share: dict[str, float]
    randomisation: Randomisation | None
    homogeneity: float | None
    homogeneous: bool | None
    passed: bool
    notes: tuple[str, ...]


def certify(
    attribution: Attribution,
    *,
    randomisation: Randomisation | None = None,
    homogeneity: float | None = None,
    accounts: bool = True,
    tolerances: Tolerances = Tolerances(),
) -> Certificate:
    """Judge a map by its own numbers and by the checks that were made of it.

    Args:
        attribution: the map.
        randomisation: from ``check_randomisation``.
        homogeneity: from ``homogeneity_residual``.
        accounts: whether the method claims that its parts sum to the measurement; see ``Capabilities.accounts``.
        tolerances: where the lines are.
    """
    convergence = attribution.convergence
    complete = attribution.residual <= tolerances.completeness if accounts else None
    converged = None if convergence is None else convergence <= tolerances.convergence
    homogeneous = None if homogeneity is None else homogeneity <= tolerances.homogeneity
    change = attribution.value - attribution.baseline_value
    notes = _notes(attribution, complete, converged, randomisation, homogeneous)
    insensitive = randomisation is not None and randomisation.verdict == INSENSITIVE
    return Certificate(
        method=attribution.method,
        target=attribution.target,
        explained=attribution.explained,
        value=attribution.value,
        residual=attribution.residual,
        complete=complete,
        convergence=convergence,
        converged=converged,
        noise_share={name: share / change if change else 0.0 for name, share in attribution.noise_share.items()},
        randomisation=randomisation,
        homogeneity=homogeneity,
        homogeneous=homogeneous,
        passed=complete is not False and converged is not False and homogeneous is not False and not insensitive,
        notes=notes,
    )


def _notes(
    attribution: Attribution,
    complete: bool | None,  # noqa: FBT001 - private, called once, all verdicts side by side
    converged: bool | None,  # noqa: FBT001
    randomisation: Randomisation | None,
    homogeneous: bool | None,  # noqa: FBT001
) -> tuple[str, ...]:
    notes = []
    if complete is False:
        notes.append(f"{100 * attribution.residual:.2g} % of the measurement is not accounted for by the map")
    if converged is False:
        notes.append(f"the map still changed by {100 * (attribution.convergence or 0):.2g} % at the last doubling")
    if homogeneous is False:
        notes.append("the model is not homogeneous in scan and noise level, so no gradient map is complete")
    if randomisation is None:
        notes.append("dependence on the model's weights was not checked")
    elif randomisation.verdict != SENSITIVE:
        notes.append(
            f"{randomisation.verdict}: correlation {randomisation.correlation:.2f} with the map of a random network, "
            f"threshold {randomisation.threshold:.2f}"
        )
    return tuple(notes)


def check_randomisation(
    attribution: Attribution, explain: Explain, network: nn.Module, *, generator: torch.Generator
) -> Randomisation:
    """Compare a map with the map of the same method on a network whose weights are all random.

    Two more explanations are made: one with the random network, one with a denoiser that returns its input. The latter
    map, which a network with a skip connection carries whatever its weights, is projected out of both before they are
    compared. Unrelated maps exceed the threshold in about 0.3 % of the cases.

    Args:
        attribution: the map to be checked.
        explain: makes the same explanation with another denoiser.
        network: the network behind the map; it is copied, not changed.
        generator: source of the random weights.

    Source:
        Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.
    """
    random = explain(randomised(network, generator))
    try:
        untouched = _stacked(explain(_return_input))
    except MethodNotValid:  # where nothing is done to the input, nothing is carried: what was removed, for one
        untouched = torch.zeros_like(_stacked(attribution))
    return compare_maps(_stacked(attribution), _stacked(random), untouched)


def _return_input(x: Tensor, sigma: Tensor, *, cond: Tensor | None = None) -> Tensor:
    """Change nothing: the denoiser that trusts its input."""
    return x


def _stacked(attribution: Attribution) -> Tensor:
    """Return the maps of all inputs as (inputs, I, J, K), channels summed."""
    return torch.cat([image.sum(dim=1) for image in attribution.maps.values()])


def randomised(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a copy of a network with every weight drawn at random, at the size the weights had.

    Weight tensors become Gaussian with mean zero and the same root mean square; vectors (biases, scales of normalising
    layers) keep their mean and standard deviation. Buffers are left, since they are not learned.
    """
    duplicate = copy.deepcopy(network)
    with torch.no_grad():  # weights are set, nothing is differentiated
        for parameter in duplicate.parameters():
            noise = torch.randn(parameter.shape, generator=generator, device=generator.device).to(parameter)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter.square().mean().sqrt())
            else:
                parameter.copy_(parameter.mean() + noise * parameter.std(correction=0))
    return duplicate


def compare_maps(
    found: Float[Tensor, "M _ _ _"], random: Float[Tensor, "M _ _ _"], untouched: Float[Tensor, "M _ _ _"]
) -> Randomisation:
    """Correlate two maps of the same inputs, with ``untouched`` projected out of both.

    The threshold is 3 / sqrt(n_eff). Each map is taken as smoothed noise under its own envelope; then the variance of
    the correlation of unrelated maps is 1 / n_eff with

        n_eff = [sum a^2 sum b^2 / sum a^2 b^2] / V,    V = sum over lags of rho_a rho_b,

    where V, from the product of the power spectra, is (2 pi w^2)^1.5 voxels for maps smoothed by a Gaussian of width w,
    and the bracket is the number of voxels for stationary maps.

    Raises:
        InputError: the maps have different shapes.
    """
    if not found.shape == random.shape == untouched.shape:
        raise InputError(f"maps of {tuple(found.shape)}, {tuple(random.shape)}, {tuple(untouched.shape)}: expected one")
    a, b, kept = (tensor - tensor.mean() for tensor in _cut_to_support(found, random, untouched))
    plain, size = _correlate(a, b), float(a.norm())
    a, b = _without(a, kept), _without(b, kept)
    input_share = 1 - float(a.square().sum()) / size**2 if size else 1.0
    shared, spread = float((a**2 * b**2).sum()), _correlation_volume(a, b)
    independent = float((a**2).sum() * (b**2).sum()) / shared / spread if shared else 1.0
    threshold = 3 / math.sqrt(max(independent, 1.0))
    correlation = _correlate(a, b)
    verdict = INSENSITIVE if input_share > ALL_INPUT or abs(correlation) > threshold else SENSITIVE
    if threshold >= 1 and verdict == SENSITIVE:
        verdict = UNDECIDED
    width = math.sqrt(spread ** (2 / 3) / (2 * math.pi)) if spread > 1 else 0.0
    return Randomisation(correlation, plain, input_share, threshold, max(independent, 1.0), width, verdict)


def _cut_to_support(*maps: Tensor) -> list[Tensor]:
    """Return the maps in float64, cut to the box outside which all are zero."""
    used = torch.stack([image != 0 for image in maps]).any(dim=0).any(dim=0)
    box: list[slice] = [slice(None)]
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        index = used.any(dim=others[1]).any(dim=others[0]).nonzero()
        box.append(slice(int(index[0]), int(index[-1]) + 1) if len(index) else slice(0, 1))
    return [image[tuple(box)].to(torch.float64) for image in maps]


def _correlate(a: Tensor, b: Tensor) -> float:
    """Return the correlation of two maps of mean zero, 0 where one of them is constant."""
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size else 0.0


def _without(a: Tensor, kept: Tensor) -> Tensor:
    """Return what is left of ``a`` after a least-squares fit of ``kept``."""
    size = float(kept.square().sum())
    return a - kept * (float((a * kept).sum()) / size) if size else a


def _correlation_volume(a: Tensor, b: Tensor) -> float:
    """Return the sum over lags of the product of both maps' autocorrelations, in voxels; at least 1."""
    power_a, power_b = (torch.fft.fftn(image, dim=(1, 2, 3)).abs().square() for image in (a, b))
    size = float(power_a.sum() * power_b.sum())
    return max(float((power_a * power_b).sum()) * power_a.numel() / size, 1.0) if size else 1.0


def homogeneity_residual(
    denoiser: Denoiser, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"]
) -> float:
    """Return ||D - J_x x - J_sigma sigma|| / ||D|| at one scan.

    Zero, up to rounding, says that the denoiser is linear along the ray through the origin, so that gradient x input
    and the noise level's share account for every voxel of its output. A crop of a scan is enough.

    Raises:
        NonFinite: the denoiser returned NaN or infinity, or zero everywhere.
    """
    image, account = _image_and_account(denoiser, (x, sigma))
    size = float(image.norm())
    if not math.isfinite(size) or size == 0:
        raise NonFinite(f"the denoiser's output has norm {size}; its homogeneity cannot be judged, choose another crop")
    return float((image - account).norm()) / size


def _image_and_account(denoiser: Denoiser, point: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return D and J_x x + J_sigma sigma, the latter as the derivative of J' u for u, which is linear in u.

    Forward-mode differentiation would do it in one pass, but loading PyTorch's takes longer than all of this.
    """
    with torch.enable_grad():
        leaves = tuple(tensor.detach().requires_grad_() for tensor in point)
        image = evaluate(denoiser, *leaves)
        account = torch.zeros_like(image)
        if image.requires_grad:
            u = account.clone().requires_grad_()
            rows = torch.autograd.grad((image * u).sum(), leaves, create_graph=True, materialize_grads=True)
            products = [(row * tensor).sum() for row, tensor in zip(rows, point, strict=True)]
            (account,) = torch.autograd.grad(torch.stack(products).sum(), u)
    return image.detach(), account
