"""Influence of training scans (TracIn): how much one more training step on each would move the measurement."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from medinterp.errors import ConfigError, MethodNotValid, WeightsMismatch

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""(network, training example) -> the number that training lowered, differentiable."""
Measured: TypeAlias = Callable[[nn.Module], Tensor]
"""network -> the measurement on the scan in question, differentiable."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights at one moment of the training.

    Args:
        state: by parameter name.
        learning_rate: of the steps around it; 1 leaves the influence in measurement units per unit of learning rate.
    """

    state: Mapping[str, Tensor]
    learning_rate: float = 1.0


@dataclass(frozen=True)
class Influence:
    """How training examples moved a measurement.

    Args:
        scores: of each example, by name: change of the measurement by one plain gradient step on it, summed over the
            checkpoints. Positive: it made the measurement larger.
        alignment: of each: cosine between its step and the measurement's gradient, mean over the checkpoints; large
            steps of odd examples do not count more.
        parameters: number of weights that were looked at.
        checkpoints: number of them.
    """

    scores: Mapping[str, float]
    alignment: Mapping[str, float]
    parameters: int
    checkpoints: int

    def ranked(self) -> tuple[str, ...]:
        """Return the examples, the one with the largest absolute influence first."""
        return tuple(sorted(self.scores, key=lambda name: -abs(self.scores[name])))


def tracin(
    network: nn.Module,
    checkpoints: Sequence[Checkpoint],
    examples: Mapping[str, Any],
    *,
    loss: Loss,
    measured: Measured,
    parameters: str = "",
) -> Influence:
    """Return how much each training example moved a measurement, to first order in the training steps.

    Costs one gradient of the measurement and one of each example's loss a checkpoint; one set of weight gradients is
    held at a time beside the measurement's. It knows the examples only through their gradients at the checkpoints: use
    several from the phase of the training where the loss fell. With the last layer alone (``parameters="head"``) it is
    quick, and blind to what earlier layers learned. The network's weights are as before afterwards.

    Args:
        network: the architecture.
        checkpoints: weights along the training; a single one, the final, is the cheapest approximation.
        examples: what it was trained on, by name free of patient data; passed to ``loss``.
        loss: of one example. Randomness in it (a noise draw) must be fixed for the example.
        measured: the measurement.
        parameters: look only at those whose name starts with this.

    Raises:
        ConfigError: no checkpoint, no example, or no parameter of that name.
        WeightsMismatch: a checkpoint is of another network.
        MethodNotValid: the measurement does not depend on the weights.

    Source:
        Pruthi et al., "Estimating training data influence by tracing gradient descent", NeurIPS 2020, eq. 2.
    """
    chosen = [name for name, _ in network.named_parameters() if name.startswith(parameters)]
    if not checkpoints or not examples or not chosen:
        raise ConfigError(
            f"influence with {len(checkpoints)} checkpoints, {len(examples)} examples and {len(chosen)} parameters "
            f"named '{parameters}...': expected at least one of each"
        )
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    scores, cosines = dict.fromkeys(examples, 0.0), dict.fromkeys(examples, 0.0)
    try:
        for checkpoint in checkpoints:
            _load(network, checkpoint.state)
            weights = _enable(network, chosen)
            with torch.enable_grad():
                rise = _gradient(measured(network), weights, "the measurement")
                for name, example in examples.items():
                    step = _gradient(loss(network, example), weights, f"the loss of '{name}'")
                    product = _dot(rise, step)
                    scores[name] -= checkpoint.learning_rate * product
                    cosines[name] -= product / max(_norm(rise) * _norm(step), 1e-300) / len(checkpoints)
    finally:
        network.load_state_dict(before)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(flags[name])
    return Influence(scores, cosines, sum(weight.numel() for weight in weights), len(checkpoints))


def read_checkpoint(path: Path, learning_rate: float = 1.0) -> Checkpoint:
    """Read weights from a file: a state dict (a bundle's ``models/model.pt``) or a checkpoint of our training loop.

    Of the latter the averaged weights are taken, which are those a bundle gets.

    Raises:
        ConfigError: the file is missing.
    """
    if not path.is_file():
        raise ConfigError(f"no checkpoint {path.name}: expected a file with a state dict")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    state = stored.get("average", stored)
    return Checkpoint({name: value.float() for name, value in state.items()}, learning_rate)


def _load(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise WeightsMismatch(f"a checkpoint does not fit {type(network).__name__}: {detail}") from error


def _enable(network: nn.Module, chosen: list[str]) -> list[Tensor]:
    """Let gradients flow to the chosen parameters only, and return these."""
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in chosen)
    return [parameters[name] for name in chosen]


def _gradient(number: Tensor, weights: list[Tensor], what: str) -> list[Tensor]:
    if not number.requires_grad:
        raise MethodNotValid(
            f"{what} does not depend on the weights; is it computed under no_grad, or by other layers?"
        )
    found = torch.autograd.grad(number.sum(), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return float(sum((x * y).sum(dtype=torch.float64) for x, y in zip(a, b, strict=True)))


def _norm(tensors: list[Tensor]) -> float:
    return _dot(tensors, tensors) ** 0.5
