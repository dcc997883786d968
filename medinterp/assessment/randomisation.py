"""Whether a map depends on what the model learned: the same map with random weights, all at once or layer by layer."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medinterp.attribution.result import Attribution
from medinterp.denoisers.base import Denoiser
from medinterp.errors import ConfigError, InputError, MethodNotValid

Explain: TypeAlias = Callable[[Denoiser], Attribution]
"""Denoiser -> the same explanation, made with that denoiser in place of the real one."""

SENSITIVE = "sensitive to the model"
INSENSITIVE = "insensitive to the model"
UNDECIDED = "undecided: too few independent voxels"
ALL_INPUT = 0.999
"""A map of which a denoiser that changes nothing explains more than this says nothing about the model."""


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
class CascadeStage:
    """How much a map still resembles its original when the layers nearest the output are random.

    Args:
        layers: how many layers are random, counted from the output.
        of: how many there are.
        deepest: name of the random layer farthest from the output.
        comparison: of the original map with the one made then.
    """

    layers: int
    of: int
    deepest: str
    comparison: Randomisation


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
    return compare_maps(_stacked(attribution), _stacked(random), _untouched(attribution, explain))


def check_cascade(
    explain: Explain, network: nn.Module, *, generator: torch.Generator, stages: int = 5
) -> tuple[CascadeStage, ...]:
    """Compare a map with those of networks whose layers are made random one group after another, from the output down.

    A map that explains the model changes with the first layers; one that still resembles its original when all are
    random shows the scan, not the model. Each stage is judged by the same null as ``check_randomisation``; the last one
    is a network of random weights throughout. Costs ``stages`` + 2 explanations. Which layer is nearest the output is
    seen from one run; layers that the explanation never calls count as farthest.

    Args:
        explain: makes the explanation with another denoiser.
        network: the network behind the map; it is copied, not changed.
        generator: source of the random weights.
        stages: groups of layers, of nearly equal number; at most one a layer.

    Raises:
        ConfigError: there is no stage, or the network has no weights.

    Source:
        Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 4.1.
    """
    duplicate = copy.deepcopy(network)
    original, layers = _explain_and_order(explain, duplicate)
    if stages < 1 or not layers:
        raise ConfigError(f"a cascade of {stages} stages over {len(layers)} layers: expected at least one of each")
    found, untouched = _stacked(original), _untouched(original, explain)
    stages, done, result = min(stages, len(layers)), 0, []
    for stage in range(1, stages + 1):
        upto = stage * len(layers) // stages
        for _, layer in layers[done:upto]:
            for parameter in layer.parameters(recurse=False):
                _redraw(parameter, generator)
        done = upto
        comparison = compare_maps(found, _stacked(explain(duplicate)), untouched)
        result.append(CascadeStage(done, len(layers), layers[done - 1][0], comparison))
    return tuple(result)


def _explain_and_order(explain: Explain, network: nn.Module) -> tuple[Attribution, Sequence[tuple[str, nn.Module]]]:
    """Return the explanation by a network, and its layers with weights, the one called last first."""
    layers = {name: m for name, m in network.named_modules() if any(True for _ in m.parameters(recurse=False))}
    called: dict[str, None] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda module, given, name=name: called.setdefault(name))
        for name, layer in layers.items()
    ]
    try:
        found = explain(network)
    finally:
        for hook in hooks:
            hook.remove()
    order = [*reversed(called), *reversed([name for name in layers if name not in called])]
    return found, [(name, layers[name]) for name in order]


def _untouched(attribution: Attribution, explain: Explain) -> Tensor:
    """Return the maps of a denoiser that changes nothing; where then there is nothing to explain, zeros."""
    try:
        return _stacked(explain(_return_input))
    except MethodNotValid:  # where nothing is done to the input, nothing is carried: what was removed, for one
        return torch.zeros_like(_stacked(attribution))


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
    for parameter in duplicate.parameters():
        _redraw(parameter, generator)
    return duplicate


def _redraw(parameter: nn.Parameter, generator: torch.Generator) -> None:
    """Draw a parameter anew, in place."""
    noise = torch.randn(parameter.shape, generator=generator, device=generator.device).to(parameter)
    values = parameter.detach()  # shares the storage: weights are set, nothing is differentiated
    if values.ndim > 1:
        values.copy_(noise.detach() * values.square().mean().sqrt())
    else:
        values.copy_(values.mean() + noise.detach() * values.std(correction=0))


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
