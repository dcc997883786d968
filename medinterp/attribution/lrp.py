"""Layer-wise relevance propagation with the epsilon rule, through any graph of linear layers and activations."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medinterp.attribution.capabilities import Capabilities, Cost
from medinterp.attribution.measurement import Measurement
from medinterp.attribution.modules import ModuleWatch, Until
from medinterp.attribution.preflight import require
from medinterp.attribution.result import Attribution, Forward, sum_of
from medinterp.attribution.targets import Target
from medinterp.errors import ConfigError, MethodNotValid

_LAYERS = frozenset({"conv3d", "conv_transpose3d", "linear", "batch_norm", "avg_pool3d"})
_SUMS = frozenset({"add", "sub", "__rsub__", "__radd__", "__add__", "__sub__", "__iadd__", "__isub__"})
_OVERWRITING = frozenset({"relu_", "leaky_relu_", "elu_", "tanh_", "celu_", "selu_", "hardtanh_", "add_", "sub_"})
_CURVES = frozenset({"silu", "gelu", "elu", "tanh", "mish", "hardswish", "hardtanh", "celu", "selu", "softsign"})


@dataclass(frozen=True)
class LayerwiseRelevance:
    """Relevance handed back layer by layer, each layer's result shared out by what its inputs brought to it.

    The epsilon rule: input a of a linear layer z = W a gets a W' R / (z + epsilon sign z), so that where large parts
    cancel in z the relevance is damped and not blown up. Layers are convolutions, transposed convolutions, pooling,
    fixed normalisation and sums of two paths; activations pass relevance on unchanged. Without epsilon, on a network
    of linear layers and ReLUs, the result is gradient x input.

    What the rule takes away is not lost: ``statistics`` holds the part absorbed by epsilon and by biases, and
    ``conservation``, the relative error of "relevance + noise share + absorbed = measurement".

    Args:
        epsilon: over the root mean square of each layer's result, so that it does not depend on intensity units.
        relative: with False, epsilon is an absolute number for every layer, as in Captum and Zennit.

    Source:
        Bach et al., PLoS ONE 10 (2015) e0130140, eq. 58; Ancona et al., ICLR 2018, section 2 (as a modified gradient).
    """

    epsilon: float = 0.01
    relative: bool = True
    name: str = "lrp"

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ConfigError(f"relevance with epsilon {self.epsilon}: expected a number of at least 0")

    @property
    def capabilities(self) -> Capabilities:
        """What it needs and costs: a trace, and one gradient that also holds each layer's result."""
        return Capabilities("layer rule", complete=False, random=False, cost=Cost(2, 1, 1.5))

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Explain the measurement by relevance.

        Raises:
            MethodNotValid: there is no rule for an operation of this network, or the measurement is different when
                activations in place are computed out of place.
        """
        found = require(self.name, forward, inputs, sigmas, target)
        rule = _EpsilonRule(self.epsilon, relative=self.relative)
        measurement = Measurement(Until(forward, rule), target, inputs, sigmas)
        measurement.evaluations += 1  # the trace
        leaves = measurement.leaves()
        with torch.enable_grad():
            with rule.watch, rule:
                measured = measurement(*leaves)
            slopes = torch.autograd.grad(measured.sum(), leaves)
        value = measurement.last_value
        _require_same(value, found.measured, leaves[0].dtype)
        relevance = tuple(slope * at for slope, at in zip(slopes, measurement.tensors, strict=True))
        result = measurement.attribution(relevance, "contribution", self.name, value=value)
        kept = result.total() + sum(result.noise_share.values())
        left = abs(value - kept - rule.absorbed.epsilon - rule.absorbed.bias)
        return replace(
            result,
            statistics={
                "absorbed_by_epsilon": rule.absorbed.epsilon,
                "absorbed_by_biases": rule.absorbed.bias,
                "conservation": left / max(abs(value), torch.finfo(torch.float32).tiny),
            },
        )


def _require_same(value: float, plain: float | None, dtype: torch.dtype) -> None:
    if plain is not None and abs(value - plain) > 1e3 * torch.finfo(dtype).eps * max(abs(value), abs(plain)):
        raise MethodNotValid(
            f"the measurement is {plain:.6g}, and {value:.6g} when nothing is computed in place: the network uses the "
            "overwritten input of an operation; use input_x_gradient"
        )


@dataclass
class _Absorbed:
    """Relevance that a backward pass took away."""

    epsilon: float = 0.0
    bias: float = 0.0


@dataclass(eq=False)
class _EpsilonRule(TorchFunctionMode):
    """While open, makes a backward pass carry relevance over activation: R / z instead of the gradient.

    With g = R / z, a linear layer's rule R_a = a W' R / (z + eps sign z) is the plain gradient step on
    g z / (z + eps sign z); an activation that passes relevance on multiplies g by f(z) / z, for a ReLU its gradient.
    """

    epsilon: float
    relative: bool = field(kw_only=True)
    absorbed: _Absorbed = field(default_factory=_Absorbed)
    watch: ModuleWatch = field(default_factory=ModuleWatch)
    measuring: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.measuring and self.watch.running is None:
            return func(*args, **kwargs)  # the target's arithmetic: its gradient is where relevance starts
        name = str(getattr(func, "__name__", ""))
        if kwargs.pop("inplace", False) or name in _OVERWRITING:
            name = name.rstrip("_")
            func = getattr(Tensor, name, None) or getattr(torch.nn.functional, name)
        if name in _CURVES:
            return self._pass_on(func(*args, **kwargs), args[0])
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.requires_grad and name in _LAYERS | _SUMS:
            fixed = _fixed_part(name, func, args, kwargs)
            self._damp(result, fixed)
        return result

    def _pass_on(self, activated: Tensor, z: Tensor) -> Tensor:
        """Return the activation with f(z) / z for its gradient; 1/2 at zero, where only silu and gelu matter."""
        if not z.requires_grad:
            return activated
        ratio = torch.where(z == 0, torch.full_like(z, 0.5), activated / torch.where(z == 0, torch.ones_like(z), z))
        passed: Tensor = z * ratio.detach()
        return passed

    def _damp(self, z: Tensor, fixed: Tensor | None) -> None:
        """Multiply what comes back at z by z / (z + eps sign z), and keep account of what that and a bias take."""
        kept, version = z.detach(), z._version
        size = float(kept.square().mean().sqrt()) if self.relative else 1.0

        def hook(g: Tensor) -> Tensor:
            if kept._version != version:
                raise MethodNotValid("a layer's result is overwritten by the network; use input_x_gradient")
            if self.epsilon * size == 0:
                damped = g
            else:
                damped = g * (kept / (kept + torch.copysign(torch.full_like(kept, self.epsilon * size), kept)))
            self.absorbed.epsilon += sum_of((g - damped) * kept)
            if fixed is not None:
                self.absorbed.bias += sum_of(damped * fixed)
            return damped

        z.register_hook(hook)  # type: ignore[no-untyped-call]


def _fixed_part(name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return what a layer adds that no input of it carries: its bias, or the summand that is no feature."""
    with torch.no_grad():  # an account, not a part of the computation
        if name == "batch_norm":  # its running mean is a bias even where it has none of its own
            shift: Tensor = func(args[0].new_zeros(1, args[0].shape[1], *[1] * (args[0].ndim - 2)), *args[1:], **kwargs)
            return shift
        if name in _LAYERS:
            bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
            if not isinstance(bias, Tensor):
                return None  # avg_pool3d has a stride in that place
            return bias.detach() if name == "linear" else bias.detach().reshape(1, -1, 1, 1, 1)
        moving = [isinstance(summand, Tensor) and summand.requires_grad for summand in args[:2]]
        if all(moving):
            return None
        zeroed = [torch.zeros_like(s) if m else s for s, m in zip(args[:2], moving, strict=True)]
        summand: Tensor = func(*zeroed, *args[2:], **kwargs)
        return summand
