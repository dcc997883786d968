"""What kind of operation each of PyTorch's is, as far as rules for explaining through it differ."""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor


class Kind(str, Enum):
    """How an operation treats what depends on the scan."""

    LINEAR = "linear"
    RELU = "ReLU"
    GATE = "piecewise linear through zero"
    POOL = "maximum"
    CURVE = "smooth activation through zero"
    OFFSET_CURVE = "smooth activation not through zero"
    NORM = "normalisation by the scan's own statistics"
    PRODUCT = "product of two parts that both depend on the scan"
    SOFTMAX = "softmax"
    STEP = "step without gradient"
    RANDOM = "random"
    OTHER = "other"


_NAMES: dict[Kind, str] = {
    Kind.LINEAR: (
        "convolution _convolution convolution_overrideable mkldnn_convolution cudnn_convolution "
        "cudnn_convolution_transpose slow_conv3d conv_depthwise3d "
        "mm addmm bmm baddbmm matmul linear mv dot add sub rsub neg mul div mean sum cumsum "
        "avg_pool3d _adaptive_avg_pool3d adaptive_avg_pool3d constant_pad_nd replication_pad3d reflection_pad3d "
        "upsample_nearest3d _upsample_nearest_exact3d upsample_trilinear3d grid_sampler_3d cat stack view "
        "_unsafe_view reshape _reshape_alias permute transpose t expand repeat squeeze unsqueeze select slice index "
        "index_select gather unbind split split_with_sizes unfold roll flip clone copy _to_copy to contiguous alias "
        "detach as_strided lift_fresh slice_scatter select_scatter index_put scatter where masked_fill diagonal tril "
        "triu movedim narrow native_dropout dropout view_as_real view_as_complex real imag _fft_r2c _fft_c2r _fft_c2c"
    ),
    Kind.RELU: "relu",
    Kind.GATE: "leaky_relu prelu _prelu_kernel abs maximum minimum amax amin median",
    Kind.POOL: "max_pool3d_with_indices max_pool3d adaptive_max_pool3d",
    Kind.CURVE: "silu gelu elu tanh mish hardswish hardtanh softsign celu selu asinh",
    Kind.OFFSET_CURVE: (
        "sigmoid softplus exp log log1p sqrt rsqrt reciprocal pow cos sin erf hardsigmoid log_sigmoid_forward clamp "
        "clamp_min clamp_max threshold"
    ),
    Kind.NORM: "native_group_norm native_layer_norm var var_mean std std_mean norm linalg_vector_norm",
    Kind.SOFTMAX: "_softmax _log_softmax logsumexp",
    Kind.STEP: "round floor ceil trunc sign heaviside argmax topk sort",
    Kind.RANDOM: "normal rand_like randn_like bernoulli uniform",
}
_KINDS: dict[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_TWO_SIDED = frozenset(
    {"mul", "div", "bmm", "mm", "addmm", "baddbmm", "matmul", "dot", "mv", "linear", "_convolution", "convolution"}
)
"""Linear in one argument; a product once two of them depend on the scan."""


def kind_of(name: str, arguments: Sequence[Any], dependents: Sequence[Tensor]) -> Kind:
    """Say how an operation treats the scan.

    Args:
        name: the operation as PyTorch's dispatcher calls it, without a trailing underscore.
        arguments: its positional arguments.
        dependents: those tensors among its arguments that depend on the scan.
    """
    if "batch_norm" in name:
        return Kind.NORM if _trains(name, arguments) else Kind.LINEAR
    if "attention" in name:
        return Kind.SOFTMAX
    if name in ("clamp", "clamp_min", "threshold") and _is_relu(name, arguments):
        return Kind.GATE  # piecewise linear, but no rule for ReLU modules reaches it
    if name in _TWO_SIDED and _is_product(name, arguments, dependents):
        return Kind.PRODUCT
    return _KINDS.get(name, Kind.OTHER)


def _is_product(name: str, arguments: Sequence[Any], dependents: Sequence[Tensor]) -> bool:
    """Say whether two factors depend on the scan; the summand of ``addmm`` is none."""
    factors = arguments[1:] if name in ("addmm", "baddbmm") else arguments[:2]
    moving = [any(factor is tensor for tensor in dependents) for factor in factors if isinstance(factor, Tensor)]
    if name == "div" and not (moving and moving[0]):
        return True  # a constant over something that depends on the scan is no linear function of it
    return sum(moving) > 1


def _trains(name: str, arguments: Sequence[Any]) -> bool:
    """Say whether a batch normalisation takes its statistics from the scan, as instance normalisation does."""
    if "no_training" in name or "no_update" in name:
        return False
    flags = [argument for argument in arguments if isinstance(argument, bool)]
    return flags[0] if flags else True


def _is_relu(name: str, arguments: Sequence[Any]) -> bool:
    """Say whether a clamp at zero is a ReLU by another name."""
    if name == "threshold":
        return all(float(bound) == 0 for bound in arguments[1:3])
    bounds = [bound for bound in arguments[1:] if bound is not None]
    low_only = name == "clamp_min" or len(arguments) < 3 or arguments[2] is None
    return low_only and len(bounds) == 1 and not torch.is_tensor(bounds[0]) and float(bounds[0]) == 0
