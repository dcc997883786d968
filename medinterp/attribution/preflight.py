"""Which methods are valid on a network, decided before any work: valid, the same as another method, or refused."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medinterp.attribution.result import Forward
from medinterp.attribution.rules import METHODS, Behaviour, Verdict, hook_findings, judge
from medinterp.attribution.targets import Target
from medinterp.attribution.trace import Trace, trace


@dataclass(frozen=True)
class Preflight:
    """What is known of a forward before any map is made.

    Args:
        trace: what it does.
        behaviour: what it was seen to do.
        verdicts: by method.
    """

    trace: Trace
    behaviour: Behaviour
    verdicts: Mapping[str, Verdict]

    def findings(self) -> tuple[str, ...]:
        """Return what hooks on modules would miss or trip over: reused modules, functional and in-place calls."""
        return hook_findings(self.trace)


def preflight(
    forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target | None = None
) -> Preflight:
    """Decide for every method whether it is valid on a forward, at the cost of five evaluations and one gradient.

    The forward runs as it is, on the given inputs, so give it a crop of the scan. What is found holds for a target that
    is linear in the image; a target with a network of its own (a downstream classifier) is to be given here, so that
    this network's operations count too.
    """
    found = trace(forward, inputs, sigmas, target)
    behaviour = observe(forward, inputs, sigmas, found.output)
    return Preflight(found, behaviour, {name: judge(name, found, behaviour) for name in METHODS})


def require(
    method: str, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
) -> Trace:
    """Return the trace of a measurement if a method is valid on it, at the cost of one evaluation without a graph.

    Raises:
        MethodNotValid: it is not; the message says why and what to use.
    """
    found = trace(forward, inputs, sigmas, target)
    judge(method, found).require()
    return found


def observe(forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], output: Tensor) -> Behaviour:
    """See how a forward answers the same input, a changed one, a doubled one, and whether it has a gradient."""
    with torch.no_grad():  # three images are compared, none is differentiated
        again = forward(inputs, sigmas)
        changed = forward({name: image + _nudge(image) for name, image in inputs.items()}, sigmas)
        doubled = forward({n: 2 * image for n, image in inputs.items()}, {n: 2 * s for n, s in sigmas.items()})
    size = max(float(output.norm()), torch.finfo(output.dtype).tiny)
    has_gradient, zero_gradient = _gradient(forward, inputs, sigmas)
    return Behaviour(
        responds=not torch.equal(changed, output),
        repeats=float((again - output).norm()) <= 10 * torch.finfo(output.dtype).eps * size,
        has_gradient=has_gradient,
        zero_gradient=zero_gradient,
        homogeneity=float((doubled - 2 * output).norm()) / (2 * size),
    )


def _pattern(image: Tensor) -> Tensor:
    """Return a fixed pattern without symmetry, so that no accident of the input hides a dependence."""
    steps = torch.arange(image.numel(), dtype=image.dtype, device=image.device)
    return torch.cos(steps * 1.7).reshape(image.shape)


def _nudge(image: Tensor) -> Tensor:
    """Return a change of a tenth of the image's mean magnitude."""
    size = float(image.abs().mean())
    return 0.1 * (size if size > 0 else 1.0) * _pattern(image)


def _gradient(forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> tuple[bool, bool]:
    """Return whether there is a gradient, and whether it is zero everywhere."""
    leaves = {name: image.detach().clone().requires_grad_() for name, image in inputs.items()}
    with torch.enable_grad():
        output = forward(leaves, sigmas)
        if not output.requires_grad:
            return False, True
        # a plain sum has no gradient behind a normalisation, so each voxel gets its own weight
        weighted = (output * _pattern(output)).sum()
        gradients = torch.autograd.grad(weighted, list(leaves.values()), allow_unused=True)
    return True, not any(bool(gradient.any()) for gradient in gradients if gradient is not None)
