"""What every attributor must do, ours and plugins': run each check of ATTRIBUTOR_CHECKS on an instance."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from medinterp.attribution.result import Attribution, Attributor, completeness_residual, sum_of
from medinterp.attribution.targets import RegionMean
from medinterp.errors import InputError, MethodNotValid
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, PeronaMalikStep, ReluNetwork

SHAPE = (6, 7, 5)
UNUSED = "unused"


class _ScanOnly:
    """A forward that has two inputs and uses one.

    A method with rules for layers or blocks gets a small network in the place of a diffusion step, which has none.
    """

    explained = "one denoising step of the first input"

    def __init__(self, attributor: Attributor) -> None:
        rule = getattr(getattr(attributor, "capabilities", None), "rule", "gradient")
        self._inside = rule not in ("gradient", "perturbation")

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        if not self._inside:
            return PeronaMalikStep()(inputs[SCAN], sigmas[SCAN])
        with torch.random.fork_rng(devices=[]):  # a layer's own initialisation draws from the global generator
            network = ReluNetwork(torch.Generator().manual_seed(0)).to(inputs[SCAN].dtype)
        image: Tensor = network(inputs[SCAN], sigmas[SCAN])
        return image


def _case(dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], dict[str, Tensor], RegionMean]:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: 3 + torch.randn((1, 1, *SHAPE), generator=generator, dtype=torch.float64).to(dtype)
        for name in (SCAN, UNUSED)
    }
    sigmas = {SCAN: torch.full((1, 1, 1, 1, 1), 0.5, dtype=dtype), UNUSED: torch.full((1, 1, *SHAPE), 0.5, dtype=dtype)}
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[2:4, 3:5, 1:4] = True
    return inputs, sigmas, RegionMean(mask, "block")


def _explain(attributor: Attributor, dtype: torch.dtype = torch.float64) -> Attribution:
    inputs, sigmas, target = _case(dtype)
    return attributor(_ScanOnly(attributor), inputs, sigmas, target)


def check_maps_follow_the_inputs(attributor: Attributor) -> None:
    """One map per input, with its shape, dtype and device, and no graph attached."""
    for dtype in (torch.float32, torch.float64):
        inputs, _, _ = _case(dtype)
        maps = _explain(attributor, dtype).maps
        assert set(maps) == set(inputs), f"maps {sorted(maps)} for inputs {sorted(inputs)}"
        for name, image in inputs.items():
            assert maps[name].shape == image.shape, f"map of {name} has shape {tuple(maps[name].shape)}"
            assert maps[name].dtype == image.dtype, f"map of {name} has {maps[name].dtype}"
            assert maps[name].device == image.device, f"map of {name} is on {maps[name].device}"
            assert not maps[name].requires_grad, f"map of {name} still carries a graph"


def check_says_what_it_explains(attributor: Attributor) -> None:
    """Method, target, explained image and measurement are those that were asked for."""
    inputs, sigmas, target = _case()
    found = _explain(attributor)
    assert found.method == attributor.name, f"method {found.method!r} of attributor {attributor.name!r}"
    assert found.target == target.name, f"target {found.target!r}"
    assert found.explained == _ScanOnly.explained, f"explained {found.explained!r}"
    assert found.kind in ("contribution", "gradient"), f"kind {found.kind!r}"
    assert found.evaluations > 0, "no evaluation of the forward was counted"
    value = float(target(_ScanOnly(attributor)(inputs, sigmas)).detach())
    assert abs(found.value - value) <= 1e-12 * abs(value), f"value {found.value}, measured {value}"


def check_residual_is_honest(attributor: Attributor) -> None:
    """The completeness residual is the one that follows from the maps, the noise shares and the values."""
    inputs, _, _ = _case()
    found = _explain(attributor)
    maps = found.maps
    if found.kind == "gradient":
        maps = {name: image * inputs[name] for name, image in found.maps.items()}
    accounted = sum(sum_of(image) for image in maps.values()) + sum(found.noise_share.values())
    expected = completeness_residual(found.value, found.baseline_value, accounted, torch.float64)
    assert abs(found.residual - expected) <= 1e-9 * max(1.0, expected), f"residual {found.residual}, is {expected}"


def check_unused_input_gets_nothing(attributor: Attributor) -> None:
    """An input that the forward does not use has a map of exact zeros and no noise share."""
    found = _explain(attributor)
    assert not found.maps[UNUSED].any(), "an input that is not used was given credit"
    assert found.noise_share[UNUSED] == 0, "the noise level of an unused input was given a share"


def check_leaves_its_arguments_alone(attributor: Attributor) -> None:
    """Inputs keep values and flags, and the global random state is not touched."""
    inputs, sigmas, target = _case()
    before = {name: image.clone() for name, image in inputs.items()}
    state = torch.random.get_rng_state()
    attributor(_ScanOnly(attributor), inputs, sigmas, target)
    assert torch.equal(state, torch.random.get_rng_state()), "the global random state was changed"
    for name, image in inputs.items():
        assert torch.equal(image, before[name]), f"input {name} was changed"
        assert not image.requires_grad, f"input {name} was left requiring gradients"
        assert image.grad is None, f"input {name} was left with a gradient"


def check_repeats_to_the_bit(attributor: Attributor) -> None:
    """Twice the same question has the same bits as answer, also under ``no_grad`` (where MONAI runs)."""
    first, second = _explain(attributor), _explain(attributor)
    with torch.no_grad():
        third = _explain(attributor)
    for other in (second, third):
        for name, image in first.maps.items():
            assert torch.equal(image, other.maps[name]), f"map of {name} differs between two runs"
        assert first.residual == other.residual, "the residual differs between two runs"


def check_refuses_a_dead_model(attributor: Attributor) -> None:
    """A model that ignores its input, or has no gradient, is refused and not shown as a map of zeros.

    A method that declares to look at the model from outside needs no gradient: it must explain the second one.
    """
    inputs, sigmas, target = _case()
    dead = DenoiserForward(lambda x, sigma: x * 0 + 1)
    cut = DenoiserForward(lambda x, sigma: x.detach())
    outside = getattr(getattr(attributor, "capabilities", None), "rule", None) == "perturbation"
    for forward in (dead,) if outside else (dead, cut):
        try:
            attributor(forward, inputs, sigmas, target)
        except MethodNotValid:
            continue
        raise AssertionError("a model without a gradient was explained instead of refused with MethodNotValid")
    if outside:
        assert attributor(cut, inputs, sigmas, target).maps[SCAN].any(), "a model was not explained from outside"


def check_refuses_a_batch(attributor: Attributor) -> None:
    """Two scans at once are an input error: one explanation is of one scan."""
    inputs, sigmas, target = _case()
    pair = {name: torch.cat([image, image]) for name, image in inputs.items()}
    try:
        attributor(_ScanOnly(attributor), pair, sigmas, target)
    except InputError:
        return
    raise AssertionError("a batch of two scans was accepted; expected InputError")


ATTRIBUTOR_CHECKS: tuple[Callable[[Attributor], None], ...] = (
    check_maps_follow_the_inputs,
    check_says_what_it_explains,
    check_residual_is_honest,
    check_unused_input_gets_nothing,
    check_leaves_its_arguments_alone,
    check_repeats_to_the_bit,
    check_refuses_a_dead_model,
    check_refuses_a_batch,
)
"""Every check; a plugin author's test parametrises over it."""
