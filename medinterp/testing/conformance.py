"""What every denoiser and every sampler must keep, as checks that plugin authors run on their own.

A check takes the thing and an example, and raises AssertionError with the broken promise. With pytest:

    @pytest.mark.parametrize("check", DENOISER_CHECKS)
    def test_mine_keeps_the_protocol(check):
        check(MyDenoiser(), torch.rand(2, 1, 16, 16, 16))

The example is a batch of two different noisy images on the device and in the dtype to be tested.

A denoiser that knows a limited range of noise levels says so by a method ``sigma_range(x, sigma) -> (low, high)``: the
levels, in the unit of ``x``, at which all of these images can be denoised, given their noise ``sigma``. The checks then
stay within it, and hold the denoiser to it.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.denoisers.base import Denoiser, evaluate, jacobian_product, scalar_sigma
from medinterp.errors import InputError
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.sampling.samplers import Sampler
from medinterp.sampling.schedules import PowerSchedule

Example = Float[Tensor, "2 C I J K"]

SHARE = 0.2
"""Noise level of the checks, as a share of the example's own standard deviation."""
STEPS = 3


def _range(denoiser: Denoiser, image: Tensor, sigma: Tensor) -> tuple[float, float]:
    """Return the noise levels that a denoiser says it knows; all of them if it says nothing."""
    declared = getattr(denoiser, "sigma_range", None)
    return (0.0, math.inf) if declared is None else declared(image, sigma)


def _sigma(denoiser: Denoiser, image: Tensor, *, times: float = 1.0, room: float = 1.0) -> Tensor:
    """Return the checks' noise level, moved into the denoiser's range, ``room`` times above its lower end."""
    wanted = times * SHARE * float(image.std())
    low, high = _range(denoiser, image, scalar_sigma(wanted, image))
    return scalar_sigma(min(max(wanted, room * low), high), image)


def _close(first: Tensor, second: Tensor, image: Tensor) -> bool:
    """Whether two results agree to 1e4 roundings: sums in another order, never another computation."""
    return float((first - second).norm()) <= 1e4 * torch.finfo(image.dtype).eps * float(second.norm())


def _generator(image: Tensor, seed: int = 0) -> torch.Generator:
    return torch.Generator(device=image.device).manual_seed(seed)


def _white(image: Tensor, seed: int) -> Tensor:
    return torch.randn(image.shape, generator=_generator(image, seed), dtype=image.dtype, device=image.device)


def keeps_shape_dtype_device(denoiser: Denoiser, image: Example) -> None:
    """The estimate has shape, dtype and device of the image, and is finite."""
    estimate = evaluate(denoiser, image, _sigma(denoiser, image))
    assert estimate.shape == image.shape, f"shape {tuple(estimate.shape)} from {tuple(image.shape)}"
    assert estimate.dtype == image.dtype, f"dtype {estimate.dtype} from {image.dtype}"
    assert estimate.device == image.device, f"device {estimate.device} from {image.device}"
    assert bool(torch.isfinite(estimate).all()), "NaN or infinity from a finite image"


def leaves_inputs_alone(denoiser: Denoiser, image: Example) -> None:
    """Neither image nor noise level is written to."""
    sigma = _sigma(denoiser, image)
    before = image.clone(), sigma.clone()
    evaluate(denoiser, image, sigma)
    assert torch.equal(image, before[0]), "the image was changed in place"
    assert torch.equal(sigma, before[1]), "the noise level was changed in place"


def is_deterministic(denoiser: Denoiser, image: Example) -> None:
    """The same input gives the same bits, and the global generator is not used."""
    state = torch.random.get_rng_state()
    first = evaluate(denoiser, image, _sigma(denoiser, image))
    assert torch.equal(first, evaluate(denoiser, image, _sigma(denoiser, image))), "two calls with one input differ"
    assert torch.equal(state, torch.random.get_rng_state()), "the global random generator was used"


def reads_constant_map_as_scalar(denoiser: Denoiser, image: Example) -> None:
    """A noise map of one value means what the scalar means."""
    sigma = _sigma(denoiser, image)
    constant = sigma.expand(1, 1, *image.shape[2:]).contiguous()
    same = _close(evaluate(denoiser, image, constant), evaluate(denoiser, image, sigma), image)
    assert same, "a constant sigma map and the scalar give different images"


def uses_the_noise_level(denoiser: Denoiser, image: Example) -> None:
    """Ten times the noise level, or the end of the range that the denoiser knows, gives another image."""
    sigma, other = _sigma(denoiser, image), _sigma(denoiser, image, times=10.0)
    if torch.equal(sigma, other):
        other = _sigma(denoiser, image, times=0.1)
    differs = not torch.equal(evaluate(denoiser, image, sigma), evaluate(denoiser, image, other))
    assert differs, "the noise level has no influence"


def answers_at_the_levels_it_knows(denoiser: Denoiser, image: Example) -> None:
    """From 1e-4 to 1e4 times the noise the estimate is finite; outside of a declared range it is refused."""
    for exponent in (-4, -2, 0, 2, 4):
        sigma = scalar_sigma(10.0**exponent * SHARE * float(image.std()), image)
        low, high = _range(denoiser, image, sigma)
        told = f"at a noise level of {float(sigma):.3g} (known: {low:.3g} to {high:.3g})"
        estimate = _answer(denoiser, image, sigma)
        known, answered = low <= float(sigma) <= high, estimate is not None
        assert known == answered, f"{'an answer' if answered else 'an InputError'} {told}"
        assert estimate is None or bool(torch.isfinite(estimate).all()), f"NaN or infinity {told}"


def _answer(denoiser: Denoiser, image: Tensor, sigma: Tensor) -> Tensor | None:
    """Return the estimate, None where the denoiser refuses."""
    try:
        return evaluate(denoiser, image, sigma)
    except InputError:
        return None


def treats_batch_items_alone(denoiser: Denoiser, image: Example) -> None:
    """An image's estimate does not depend on what else is in the batch."""
    sigma = _sigma(denoiser, image)
    alone = torch.cat([evaluate(denoiser, item[None], sigma) for item in image])
    assert _close(evaluate(denoiser, image, sigma), alone, image), "batch items influence each other"


def lets_gradients_flow(denoiser: Denoiser, image: Example) -> None:
    """The estimate can be differentiated with respect to image and noise level."""
    start, sigma = image.clone().requires_grad_(), _sigma(denoiser, image).requires_grad_()
    estimate = evaluate(denoiser, start, sigma)
    assert estimate.requires_grad, "the estimate carries no graph; is there a no_grad or a detach inside?"
    for gradient in torch.autograd.grad(estimate.square().sum(), (start, sigma)):
        assert bool(torch.isfinite(gradient).all()), "the gradient is not finite"
        assert float(gradient.abs().max()) > 0, "the gradient is zero"


def derivatives_agree(denoiser: Denoiser, image: Example, *, tolerance: float | None = None) -> None:
    """Forward and reverse derivative are one Jacobian: <w, Jv> = <J'w, v>.

    The tolerance is relative; without one it is 1e4 units of the image's precision.
    """
    v, w = (_white(image, seed) for seed in (1, 2))
    _, product = jacobian_product(denoiser, image, _sigma(denoiser, image), v)
    start = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((w * evaluate(denoiser, start, _sigma(denoiser, image))).sum(), start)
    gap = float(((w * product).sum() - (gradient * v).sum()).abs())
    scale = float(w.norm() * product.norm())
    allowed = 1e4 * torch.finfo(image.dtype).eps if tolerance is None else tolerance
    assert gap <= allowed * scale, f"forward and reverse derivative differ by {gap}"


DENOISER_CHECKS: tuple[Callable[[Denoiser, Tensor], None], ...] = (
    keeps_shape_dtype_device,
    leaves_inputs_alone,
    is_deterministic,
    reads_constant_map_as_scalar,
    uses_the_noise_level,
    answers_at_the_levels_it_knows,
    treats_batch_items_alone,
    lets_gradients_flow,
    derivatives_agree,
)


def _sampled_sigma(denoiser: Denoiser, image: Tensor) -> Tensor:
    """Return a noise level whose smallest fraction on a sampler's way is still one that the denoiser knows."""
    return _sigma(denoiser, image, room=1.01 * STEPS**2)


def _sample(
    sampler: Sampler,
    denoiser: Denoiser,
    image: Tensor,
    *,
    sigma: Tensor | None = None,
    seed: int = 0,
    on_step: OnStep = ignore,
) -> Tensor:
    level = _sampled_sigma(denoiser, image) if sigma is None else sigma
    fractions = PowerSchedule()(STEPS, start=1.0)
    return sampler(denoiser, image, level, fractions, generator=_generator(image, seed), on_step=on_step)


def sampler_keeps_shape_dtype_device(sampler: Sampler, denoiser: Denoiser, image: Example) -> None:
    """The image has shape, dtype and device of the scan, which stays as it was."""
    before = image.clone()
    result = _sample(sampler, denoiser, image)
    kept = (result.shape, result.dtype, result.device) == (image.shape, image.dtype, image.device)
    assert kept, f"{tuple(result.shape)} {result.dtype} {result.device} from {tuple(image.shape)} {image.dtype}"
    assert torch.equal(image, before), "the scan was changed in place"


def sampler_repeats_its_bits(sampler: Sampler, denoiser: Denoiser, image: Example) -> None:
    """The same seed gives the same bits; another seed another image if and only if the sampler says so."""
    state = torch.random.get_rng_state()
    first = _sample(sampler, denoiser, image)
    assert torch.equal(first, _sample(sampler, denoiser, image)), "the same seed gave other bits"
    depends = not torch.equal(first, _sample(sampler, denoiser, image, seed=1))
    assert depends == sampler.stochastic, f"stochastic is {sampler.stochastic}, but the seed matters: {depends}"
    assert torch.equal(state, torch.random.get_rng_state()), "the global random generator was used"


def sampler_shares_noise_over_the_batch(sampler: Sampler, denoiser: Denoiser, image: Example) -> None:
    """A scan's image is the same alone and in a batch: path methods put points of a path into one."""
    level = _sampled_sigma(denoiser, image)
    alone = torch.cat([_sample(sampler, denoiser, item[None], sigma=level) for item in image])
    assert _close(_sample(sampler, denoiser, image, sigma=level), alone, image), "the batch changes the noise"


def sampler_reads_constant_map_as_scalar(sampler: Sampler, denoiser: Denoiser, image: Example) -> None:
    """A noise map of one value means what the scalar means."""
    constant = _sampled_sigma(denoiser, image).expand(1, 1, *image.shape[2:]).contiguous()
    same = _close(_sample(sampler, denoiser, image, sigma=constant), _sample(sampler, denoiser, image), image)
    assert same, "a constant sigma map and the scalar give different images"


def sampler_lets_gradients_flow(sampler: Sampler, denoiser: Denoiser, image: Example) -> None:
    """The image can be differentiated with respect to the scan."""
    start = image.clone().requires_grad_()
    result = _sample(sampler, denoiser, start, sigma=_sampled_sigma(denoiser, image))
    assert result.requires_grad, "the image carries no graph; is there a no_grad or a detach inside?"
    (gradient,) = torch.autograd.grad(result.square().sum(), start)
    assert bool(torch.isfinite(gradient).all()), "the gradient is not finite"
    assert float(gradient.abs().max()) > 0, "the gradient is zero"


def sampler_runs_without_a_graph(sampler: Sampler, denoiser: Denoiser, image: Example) -> None:
    """Under the caller's no_grad the image is the same, and carries no graph."""
    with torch.no_grad():
        result = _sample(sampler, denoiser, image)
    assert not result.requires_grad, "a graph was built against the caller's wish"
    assert _close(result, _sample(sampler, denoiser, image), image), "no_grad changes the image"


def sampler_reports_every_step(sampler: Sampler, denoiser: Denoiser, image: Example) -> None:
    """Progress counts up by one from 0, said before the first step is computed, to the total."""
    told: list[StepInfo] = []
    _sample(sampler, denoiser, image, on_step=told.append)
    assert told, "no step was reported"
    counted = [info.done for info in told] == list(range(told[-1].total + 1))
    assert counted, f"steps reported: {[(info.done, info.total) for info in told]}"


SAMPLER_CHECKS: tuple[Callable[[Sampler, Denoiser, Tensor], None], ...] = (
    sampler_keeps_shape_dtype_device,
    sampler_repeats_its_bits,
    sampler_shares_noise_over_the_batch,
    sampler_reads_constant_map_as_scalar,
    sampler_lets_gradients_flow,
    sampler_runs_without_a_graph,
    sampler_reports_every_step,
)
