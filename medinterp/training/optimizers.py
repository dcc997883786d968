"""Muon for convolution weights, with Adam for what is not a matrix."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medinterp.errors import ConfigError

NAMES = ("muon", "adam")
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_TINY = 1e-12


def orthogonalize(matrices: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """Return matrices with the same singular vectors and all singular values near 1 (0.68 to 1.14).

    Five quintic Newton-Schulz iterations X -> aX + b(XX')X + c(XX')^2 X. They are run on the small Gram matrix XX', of
    which every iteration is a polynomial, and the product of the polynomials is applied to X once: for convolution
    weights, 27 times as wide as tall, less than half of the plain iteration's time. In float32 whatever comes in.
    Singular values below about 1e-3 of the root of their squares' sum stay below that range, as in the plain iteration.

    Source:
        Jordan et al., "Muon", 2024 (coefficients); Björck & Bowie, SIAM J Numer Anal 8 (1971) (the iteration).
    """
    wide = matrices.float() if matrices.shape[1] <= matrices.shape[2] else matrices.float().mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp_min(_TINY)
    gram = wide @ wide.mT
    one = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    product = one
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        factor = a * one + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    result = product @ wide
    return result if matrices.shape[1] <= matrices.shape[2] else result.mT


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is orthogonalised, so that no direction of a weight matrix learns faster than others.

    A convolution's weight is the matrix (first axis, all others): (outputs, inputs x kernel), and for a transposed
    convolution (inputs, outputs x kernel), each the linear map it is where strides and kernels do not overlap. The
    update has the root mean square of Adam's, 0.2, so the same learning rates serve. Parameters of fewer than two
    axes (biases, norms) are left to Adam's rule. Equal shapes are orthogonalised together.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        momentum: decay of the gradient's running mean, Nesterov's look ahead included.

    Source:
        Jordan et al., "Muon", 2024; Liu et al., "Muon is scalable for LLM training", 2025, eq. 4 (0.2 sqrt(max side)).
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step on every parameter that has a gradient; ``closure`` re-evaluates the loss, as in torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():  # the update itself is not differentiated
            for group in self.param_groups:
                shapes: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
                for parameter in group["params"]:
                    if parameter.grad is None:
                        continue
                    if parameter.ndim < 2:
                        self._adam(parameter, group)
                    else:
                        shapes[(parameter.shape[0], parameter.numel() // parameter.shape[0])].append(parameter)
                for (rows, columns), parameters in shapes.items():
                    self._muon(parameters, group, 0.2 * math.sqrt(max(rows, columns)))
        return loss

    def _muon(self, parameters: list[Tensor], group: dict[str, Any], scale: float) -> None:
        ahead = []
        for parameter in parameters:
            gradient = _gradient(parameter)
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            mean = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
            ahead.append(gradient.lerp(mean, group["momentum"]).flatten(1))
        updates = orthogonalize(torch.stack(ahead))
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.add_(update.reshape(parameter.shape).to(parameter.dtype), alpha=-group["lr"] * scale)

    def _adam(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = _gradient(parameter)
        state = self.state[parameter]
        if not state:
            state.update(count=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
        state["count"] += 1
        state["mean"].lerp_(gradient, 0.1)
        state["square"].lerp_(gradient.square(), 0.001)
        mean, square = state["mean"] / (1 - 0.9 ** state["count"]), state["square"] / (1 - 0.999 ** state["count"])
        parameter.addcdiv_(mean, square.sqrt() + 1e-8, value=-group["lr"])


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise ValueError("a parameter without gradient has no update")
    return parameter.grad


def make_optimizer(name: str, network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Return the optimiser of this name for a network's parameters.

    Raises:
        ConfigError: no such optimiser.
    """
    if name == "muon":
        return Muon(network.parameters(), learning_rate)
    if name == "adam":
        return torch.optim.Adam(network.parameters(), learning_rate)
    raise ConfigError(f"no optimizer '{name}'; known are {', '.join(NAMES)}")
