"""A measurement whose every activation call is a module of its own, so that Captum's hooks meet each exactly once."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medinterp.attribution.measurement import Measurement
from medinterp.attribution.modules import ModuleWatch, Until
from medinterp.attribution.result import Forward
from medinterp.attribution.targets import Target
from medinterp.attribution.trace import Trace
from medinterp.errors import MethodNotValid


def _relu(*_: Any, inplace: bool = False) -> nn.Module:
    return nn.ReLU()


def _leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> nn.Module:  # noqa: FBT001 - PyTorch's own
    return nn.LeakyReLU(negative_slope)


def _elu(alpha: float = 1.0, inplace: bool = False) -> nn.Module:  # noqa: FBT001
    return nn.ELU(alpha)


def _max_pool(kernel_size: Any, *rest: Any, return_indices: bool = False, **options: Any) -> nn.Module | None:
    return None if return_indices else nn.MaxPool3d(kernel_size, *rest, **options)


_MODULES: Mapping[str, Callable[..., nn.Module | None]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "max_pool3d": _max_pool,
}
"""What each function becomes, by its name in torch, torch.nn.functional and Tensor alike; never in place."""
_SPELLED = {"max_pool3d_with_indices": "max_pool3d"}
"""Names in Python of those that differ in the dispatcher."""


class _EachCallAModule(TorchFunctionMode):
    """While open, sends activations through modules: made in the first pass, met again in the same order later.

    Once the image is made, only what runs inside a module counts: a network in the target, not its arithmetic.
    """

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.modules = nn.ModuleList()
        self.recording, self.measuring, self.place, self._names = True, False, 0, names
        self.watch = ModuleWatch()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = str(getattr(func, "__name__", "")).rstrip("_")
        if name not in self._names or not args or not args[0].requires_grad:
            return func(*args, **kwargs)
        made = None if self.measuring and self.watch.running is None else _MODULES[name](*args[1:], **kwargs)
        if made is None:
            return func(*args, **kwargs)
        # a view of its own: Captum's hook sits on the module's input and would take in what other consumers send back
        return self._met(made)(args[0].view_as(args[0]))

    def _met(self, made: nn.Module) -> nn.Module:
        if self.recording:
            self.modules.append(made)
            return made
        if self.place >= len(self.modules) or type(self.modules[self.place]) is not type(made):
            raise MethodNotValid(
                "the forward did not run the same activations twice: it branches on its input; use "
                "integrated_gradients, which hooks none of them"
            )
        self.place += 1
        return self.modules[self.place - 1]


class _ReroutedMeasurement(Measurement):
    """A measurement that runs with its activations rerouted."""

    def __init__(
        self,
        forward: Forward,
        target: Target,
        inputs: Mapping[str, Tensor],
        sigmas: Mapping[str, Tensor],
        route: _EachCallAModule,
    ) -> None:
        super().__init__(Until(forward, route), target, inputs, sigmas)
        self._route = route

    def __call__(self, *tensors: Tensor) -> Tensor:
        self._route.place, self._route.measuring = 0, False
        with self._route.watch, self._route:
            return super().__call__(*tensors)


class Rerouted(nn.Module):
    """A measurement as a module with one child per activation call, in the order of the calls.

    Captum's rules hook modules. A ReLU module that runs twice, a functional one or one in place are then treated
    wrongly or not at all. Here each call that the scan's gradient passes goes through a fresh module.

    Args:
        forward: the function that made the image.
        target: what is measured on it.
        inputs: one scan per name.
        sigmas: its noise level.
        names: the activations to reroute, by their name in PyTorch's dispatcher.
        found: what the forward does; every such operation in it must have been rerouted.

    Raises:
        MethodNotValid: an activation was missed, or the measurement changed by rerouting.
    """

    def __init__(
        self,
        forward: Forward,
        target: Target,
        inputs: Mapping[str, Tensor],
        sigmas: Mapping[str, Tensor],
        *,
        names: Collection[str],
        found: Trace,
    ) -> None:
        super().__init__()
        route = _EachCallAModule(frozenset(_SPELLED.get(name, name) for name in names))
        self.measurement = _ReroutedMeasurement(forward, target, inputs, sigmas, route)
        self.measurement.evaluations += 1  # the trace
        with torch.enable_grad():  # only what carries a gradient can be hooked
            self.measurement(*self.measurement.leaves())
        route.recording = False
        self.calls = route.modules
        self.value = self.measurement.last_value
        self._check(Counter(o.name for o in found.operations if o.name in names), found.measured)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Measure a batch of points."""
        return self.measurement(*tensors)

    def _check(self, expected: Counter[str], value: float | None) -> None:
        """Compare the calls and the value with those of the plain forward: no rule is applied to a part in silence."""
        if len(self.calls) != expected.total():
            raise MethodNotValid(
                f"of the network's {expected.total()} activations ({dict(expected)}) {len(self.calls)} could be "
                "hooked (checkpointing without a graph hides them); use integrated_gradients, which needs none"
            )
        rounding = 1e3 * torch.finfo(self.measurement.tensors[0].dtype).eps
        if value is not None and abs(self.value - value) > rounding * max(abs(value), abs(self.value)):
            raise MethodNotValid(
                f"the measurement is {value:.6g}, and {self.value:.6g} with each activation as a module of its own: "
                "the network uses the overwritten input of an activation in place; use integrated_gradients"
            )
