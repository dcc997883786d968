"""When each method is valid: its conditions on the operations a network consists of, and on how it behaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from medinterp.attribution.operations import Kind
from medinterp.attribution.trace import Trace
from medinterp.errors import MethodNotValid

Status: TypeAlias = Literal["valid", "equal", "refused"]

HOMOGENEOUS = 1e-5
"""Largest relative error of f(2x, 2 sigma) = 2 f(x, sigma) of a forward called homogeneous: rounding of float32."""
RELUS = frozenset({"relu"})
"""Operations the rules of guided backpropagation and deconvolution are made for."""
RESCALED = frozenset(["relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "max_pool3d_with_indices"])
"""Operations DeepLift's rescale rule is defined for in Captum, and that are given to it one by one."""
_MIXING = (Kind.NORM, Kind.SOFTMAX, Kind.PRODUCT, Kind.OTHER, Kind.RANDOM)
_ACTIVATIONS = (Kind.RELU, Kind.GATE, Kind.CURVE, Kind.OFFSET_CURVE)


@dataclass(frozen=True)
class Verdict:
    """Whether a method is valid on a network.

    Args:
        method: the method.
        status: "valid", "equal" (the map would be that of ``instead``) or "refused".
        reason: why, in words; for a valid method what to know about it.
        instead: the method to use in its place.
    """

    method: str
    status: Status
    reason: str = ""
    instead: str | None = None

    def require(self) -> None:
        """Pass if the method is valid.

        Raises:
            MethodNotValid: it is not; the message says why and what to use.
        """
        if self.status == "valid":
            return
        word = f"is the same as {self.instead}" if self.status == "equal" else "is not valid"
        advice = f"; use {self.instead}" if self.instead is not None else ""
        raise MethodNotValid(f"{self.method} {word} on this network: {self.reason}{advice}")


@dataclass(frozen=True)
class Behaviour:
    """What a forward was seen to do when its input changed.

    Args:
        responds: another input gives another image.
        repeats: the same input gives the same image.
        has_gradient: the image can be differentiated with respect to an input.
        zero_gradient: that gradient is exactly zero everywhere.
        homogeneity: relative error of f(2x, 2 sigma) = 2 f(x, sigma).
    """

    responds: bool
    repeats: bool
    has_gradient: bool
    zero_gradient: bool
    homogeneity: float

    @property
    def homogeneous(self) -> bool:
        """Whether the forward is linear along the ray through the origin, to rounding."""
        return self.homogeneity <= HOMOGENEOUS


Rule: TypeAlias = Callable[[Trace, Behaviour | None], Verdict]


def judge(method: str, found: Trace, behaviour: Behaviour | None = None) -> Verdict:
    """Decide about one method of METHODS; without ``behaviour``, from the operations alone.

    An operation that is not known is never taken for a harmless one.
    """
    verdict = (_perturbs if method in _FROM_OUTSIDE else _differentiates)(found, behaviour)
    return replace(verdict if verdict is not None else RULES[method](found, behaviour), method=method)


def _valid(reason: str = "") -> Verdict:
    return Verdict("", "valid", reason)


def _equal(other: str, reason: str) -> Verdict:
    return Verdict("", "equal", reason, other)


def _refused(reason: str, instead: str | None) -> Verdict:
    return Verdict("", "refused", reason, instead)


def _differentiates(found: Trace, behaviour: Behaviour | None) -> Verdict | None:
    """Return why nothing that takes a gradient is valid, None if it may be."""
    if not found.depends:
        return _refused("the image does not depend on the scan", None)
    if behaviour is None:
        return None
    if not behaviour.has_gradient:
        return _refused("the image has no gradient (it was detached, rounded or made under no_grad)", "occlusion")
    if behaviour.zero_gradient:
        return _refused("the gradient is exactly zero everywhere, as behind an untrained last layer", None)
    return None if behaviour.repeats else _random_refusal()


def _perturbs(found: Trace, behaviour: Behaviour | None) -> Verdict | None:
    """Return why nothing that changes the input and looks at the image is valid, None if it may be."""
    if behaviour is None:
        return None
    if not behaviour.responds:
        return _refused("the image stays the same when the scan changes", None)
    return None if behaviour.repeats else _random_refusal()


def _random_refusal() -> Verdict:
    return _refused("the forward draws new random numbers at each call, so two calls differ; fix its seed", None)


def _gradient_times_input(found: Trace, behaviour: Behaviour | None) -> Verdict:
    if behaviour is None or behaviour.homogeneous:
        return _valid("complete with the noise level's share" if behaviour is not None else "")
    return _valid("not complete here: the residual says how much is missing")


def _path(found: Trace, behaviour: Behaviour | None) -> Verdict:
    if behaviour is not None and behaviour.homogeneous:
        return _valid("along the ray from zero it equals input_x_gradient, with one point")
    return _valid("complete to the number of its path points")


def _averaged(found: Trace, behaviour: Behaviour | None) -> Verdict:
    if not _nonlinear(found):
        return _equal("saliency", "the network is linear, so its gradient is the same at every noisy copy of the scan")
    return _valid()


def _expected(found: Trace, behaviour: Behaviour | None) -> Verdict:
    return _valid("complete on average over its draws")


def _nonlinear(found: Trace) -> bool:
    return any(operation.kind is not Kind.LINEAR for operation in found.operations)


def _deep_lift(found: Trace, behaviour: Behaviour | None) -> Verdict:
    mixing = found.names(*_MIXING)
    if mixing:
        return _refused(f"the rescale rule has no multiplier for {mixing}", "integrated_gradients")
    others = _outside(found, RESCALED, *_ACTIVATIONS, Kind.POOL, Kind.STEP)
    if others:
        return _refused(f"the rescale rule is not defined for {others} in Captum", "integrated_gradients")
    if not _nonlinear(found):
        return _equal("integrated_gradients", "the network is linear, so both are the gradient times the difference")
    return _valid(_hooked(found) or "each activation gets a hook of its own")


def _outside(found: Trace, allowed: frozenset[str], *kinds: Kind) -> str:
    names = dict.fromkeys(o.name for o in found.of_kind(*kinds) if o.name not in allowed)
    return ", ".join(names)


def _lrp(found: Trace, behaviour: Behaviour | None) -> Verdict:
    blocking = found.names(*_MIXING, Kind.OFFSET_CURVE, Kind.STEP)
    if blocking:
        return _refused(f"relevance has no rule for {blocking}", "integrated_gradients")
    if behaviour is not None and behaviour.homogeneous:
        return _valid("without epsilon it equals input_x_gradient; epsilon damps where paths cancel")
    return _valid("biases keep a share of the relevance, which is stated")


def _guided(found: Trace, behaviour: Behaviour | None) -> Verdict:
    relus = found.of_kind(Kind.RELU)
    others = found.names(Kind.GATE, Kind.CURVE, Kind.OFFSET_CURVE)
    if not relus:
        why = f"its activations are {others}" if others else "it has no activation"
        return _equal("saliency", f"the rule changes the gradient at ReLUs only, and there is none: {why}")
    unknown = found.names(Kind.OTHER)
    if unknown:
        return _refused(f"it is not known whether {unknown} are activations", "saliency")
    if others:
        return _refused(f"the rule covers {len(relus)} ReLUs but not {others}: half a rule is none", "saliency")
    return _valid(_hooked(found) or "each ReLU gets a hook of its own")


def _deconvolution(found: Trace, behaviour: Behaviour | None) -> Verdict:
    verdict = _guided(found, behaviour)
    if verdict.status != "valid":
        return verdict
    return _valid("it passes through ReLUs that are off, so its size grows with depth: read its pattern only")


def _hooked(found: Trace) -> str:
    """Say what plain hooks on this network's modules would have got wrong."""
    findings = hook_findings(found)
    return f"each activation gets a module of its own, since {findings[0]}" if findings else ""


def _grad_cam(found: Trace, behaviour: Behaviour | None) -> Verdict:
    if not found.blocks:
        return _refused("no module returns a feature map (B, C, I, J, K) of the scan", "saliency")
    if any(block.lattice is None and min(block.shape[2:]) > 1 for block in found.blocks):
        return _valid("blocks that move voxels in memory are placed as equal cells; the others exactly")
    return _valid()


def _guided_grad_cam(found: Trace, behaviour: Behaviour | None) -> Verdict:
    guided, cam = _guided(found, behaviour), _grad_cam(found, behaviour)
    if cam.status != "valid":
        return cam
    if guided.status == "valid":
        return guided
    return _refused(f"its guided half is none: {guided.reason}", "grad_cam")


def _equivalent_filter(found: Trace, behaviour: Behaviour | None) -> Verdict:
    if tuple(found.output.shape[2:]) != found.input_shape:
        return _equal("saliency", "the output is no image of the scan, so there is no filter that made it")
    if behaviour is not None and not behaviour.homogeneous:
        return _equal("saliency", "the image is no weighted average of the scan: weights times scan leave a remainder")
    return _valid("the saliency map, read as the weights that average the scan")


def _from_outside(found: Trace, behaviour: Behaviour | None) -> Verdict:
    return _valid()


def _regions(found: Trace, behaviour: Behaviour | None) -> Verdict:
    return _valid("needs at least twice as many evaluations as regions")


RULES: Mapping[str, Rule] = {
    "saliency": lambda found, behaviour: _valid(),
    "input_x_gradient": _gradient_times_input,
    "integrated_gradients": _path,
    "smoothgrad": _averaged,
    "gradient_shap": _expected,
    "deep_lift": _deep_lift,
    "lrp": _lrp,
    "guided_backprop": _guided,
    "guided_grad_cam": _guided_grad_cam,
    "grad_cam": _grad_cam,
    "deconvolution": _deconvolution,
    "occlusion": _from_outside,
    "kernel_shap": _regions,
    "equivalent_filter": _equivalent_filter,
}
METHODS = tuple(RULES)
"""Every method that can be judged; what is said of ``kernel_shap`` holds for LIME too."""
_FROM_OUTSIDE = frozenset({"occlusion", "kernel_shap"})


def hook_findings(found: Trace) -> tuple[str, ...]:
    """Return what hooks on modules would miss or trip over on this network: reuse, functional and in-place calls."""
    gates = found.of_kind(*_ACTIVATIONS, Kind.POOL)
    shared = {o.path: found.calls[o.path] for o in gates if o.in_module and found.calls[o.path] > 1}
    functional = sum(not operation.in_module for operation in gates)
    in_place = sum(operation.in_place for operation in gates)
    texts = []
    if shared:
        path, count = max(shared.items(), key=lambda item: item[1])
        texts.append(f"{len(shared)} activation modules run more than once ('{path}' {count} times)")
    if functional:
        texts.append(f"{functional} activations are functions that no module hook sees")
    if in_place:
        texts.append(f"{in_place} activations overwrite their input")
    return tuple(texts)
