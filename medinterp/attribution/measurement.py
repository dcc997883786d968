"""A measurement as a function of one flat tuple of tensors, the only form Captum knows."""

from collections.abc import Mapping

import torch
from torch import Tensor

from medinterp.attribution.result import Attribution, Forward, Kind, completeness_residual, degree_of, sum_of
from medinterp.attribution.targets import Target
from medinterp.errors import InputError, MethodNotValid


def seen_by(target: Target, forward: Forward) -> Forward:
    """Return a forward whose image is right where a target reads it, for less work if the forward offers that.

    For methods that look at the model from outside, by gradients or perturbations: the features inside the network
    then cover only what matters. A forward offers it by a method ``within(box)``.
    """
    within = getattr(forward, "within", None)
    narrowed: Forward = forward if within is None else within(target.support())
    return narrowed


class Measurement:
    """``target(forward(inputs, sigmas))`` as a function of all images, then all noise levels.

    Counts its evaluations and keeps the last value, so that no method evaluates twice what it already knows.

    Args:
        forward: the function that made the image.
        target: what is measured on it.
        inputs: one scan per name, batch of one.
        sigmas: its noise level under the same name, a scalar or a map.

    Raises:
        InputError: names do not match, or a batch is larger than one.
    """

    def __init__(
        self, forward: Forward, target: Target, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]
    ) -> None:
        if not inputs or set(inputs) != set(sigmas):
            raise InputError(
                f"inputs {sorted(inputs)} and noise levels {sorted(sigmas)}: expected the same names, at least one"
            )
        for name, tensor in [*inputs.items(), *sigmas.items()]:
            if tensor.ndim != 5 or tensor.shape[0] != 1 or not tensor.is_floating_point():
                raise InputError(
                    f"'{name}' is {tensor.dtype} of shape {tuple(tensor.shape)}: expected floating-point voxels "
                    "(1, C, I, J, K); explain one scan at a time"
                )
        self.forward, self.target = forward, target
        self.names = tuple(inputs)
        self.tensors = tuple(inputs[name].detach() for name in self.names)
        self.tensors += tuple(sigmas[name].detach() for name in self.names)
        self.evaluations = 0
        self.last_value = 0.0

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Measure a batch of points; the graph reaches every tensor, also those the forward does not use."""
        inputs, sigmas = self.split(tensors)
        self.evaluations += tensors[0].shape[0]
        measured = self.target(self.forward(inputs, sigmas))
        if torch.is_grad_enabled() and not measured.requires_grad:
            raise MethodNotValid(
                f"the measurement '{self.target.name}' has no gradient with respect to any input; the forward detaches "
                "its result, runs under no_grad, or ends in a step such as rounding that has none"
            )
        self.last_value = float(measured[-1].detach())
        unused = sum((tensor.reshape(-1)[:1] * 0).sum() for tensor in tensors)
        return measured + unused

    def split(self, tensors: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the flat tuple as images and noise levels by name."""
        count = len(self.names)
        return dict(zip(self.names, tensors[:count], strict=True)), dict(zip(self.names, tensors[count:], strict=True))

    def leaves(self) -> tuple[Tensor, ...]:
        """Return fresh leaves that share the inputs' storage; the caller's tensors are left as they are."""
        return tuple(tensor.detach().requires_grad_() for tensor in self.tensors)

    def value_at(self, tensors: tuple[Tensor, ...]) -> float:
        """Return the measurement at a point where no gradient is needed."""
        with torch.no_grad():  # one number is read off; keeping the graph would only cost memory
            self(*tensors)
        return self.last_value

    def gradients_at(self, point: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the measurement's gradient at a point, for each image and each noise level."""
        leaves = tuple(tensor.detach().requires_grad_() for tensor in point)
        with torch.enable_grad():
            return torch.autograd.grad(self(*leaves).sum(), leaves)

    def attribution(
        self,
        tensors: tuple[Tensor, ...],
        kind: Kind,
        method: str,
        *,
        value: float,
        baseline_value: float = 0.0,
        baseline: str = "",
        convergence: float | None = None,
    ) -> Attribution:
        """Return what a method found for each tensor as an Attribution, with its completeness residual.

        Args:
            tensors: a gradient or a contribution for each image, then for each noise level.
            kind: which of the two they are.
            method: name of the method.
            value: the measurement.
            baseline_value: the measurement at the method's baseline.
            baseline: its name.
            convergence: see Attribution.

        Raises:
            MethodNotValid: everything is exactly zero.
        """
        tensors = tuple(tensor.detach() for tensor in tensors)
        maps, _ = self.split(tensors)
        if not any(bool(image.any()) for image in maps.values()):
            raise MethodNotValid(
                f"the {method} of '{self.target.name}' is exactly zero everywhere: the model ignores its input there "
                "(an untrained network whose last layer is zero, a saturated activation, or an input that is all zero)"
            )
        products, unchanged = tensors, 0.0
        if kind == "gradient":
            degree = degree_of(self.target, self.forward)
            share = 1 / (degree or 1)  # Euler: gradient x input sums to degree times the measurement
            products = tuple(gradient * at * share for gradient, at in zip(tensors, self.tensors, strict=True))
            unchanged = value if degree == 0 else 0.0
        sums = [sum_of(product) for product in products]
        return Attribution(
            maps=maps,
            kind=kind,
            noise_share=dict(zip(self.names, sums[len(self.names) :], strict=True)),
            value=value,
            baseline_value=baseline_value,
            residual=completeness_residual(value, baseline_value, sum(sums) + unchanged, self.tensors[0].dtype),
            convergence=convergence,
            evaluations=self.evaluations,
            method=method,
            target=self.target.name,
            explained=str(getattr(self.forward, "explained", "output image")),
            baseline=baseline,
        )
