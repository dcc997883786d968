"""The certificate of a map: whether it is complete, has converged, and depends on what the model learned."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.assessment.full import FullChecks
from medinterp.assessment.randomisation import INSENSITIVE, SENSITIVE, Randomisation
from medinterp.attribution.result import Attribution
from medinterp.denoisers.base import Denoiser, evaluate
from medinterp.errors import NonFinite


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
        full: the checks of a full certificate, None where they were not asked for.
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
    full: FullChecks | None = None


def with_checks(certificate: Certificate, checks: FullChecks) -> Certificate:
    """Return a certificate with the checks of a full one; it passes when both did."""
    return replace(
        certificate,
        full=checks,
        passed=certificate.passed and checks.passed,
        notes=certificate.notes + checks.notes,
    )


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
