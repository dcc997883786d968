"""Fit a pretrained denoiser to one scan, from that scan alone, and keep the fit only if held-out voxels are better off.

The network's weights are trained further on patches of the noisy scan with a loss that needs no clean image. Other
patches, which share no voxel with these, say when to stop; yet others, whether to keep the result.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, sqrt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medinterp.denoisers.base import Denoiser, evaluate
from medinterp.denoisers.stein import BRIGHT_SIGMAS, Probe, Scatter, expected_scan, expected_scatter, probe
from medinterp.denoisers.weights import PretrainedDenoiser
from medinterp.errors import ConfigError, TooFewVoxels
from medinterp.progress import OnStep, StepInfo, ignore

FOREGROUND_SHARE = 0.05
"""Magnitudes below this share of the brightest are air; they are held to the original's estimate."""
LEAST_FILLED = 0.2
"""A patch is used when at least this share of its voxels counts."""
RECORRUPTION = 0.5
"""Noise added to a recorrupted scan, in units of its own."""
SIGNIFICANT = 2.0
"""Standard errors by which held-out patches must be better off."""


@dataclass(frozen=True)
class RefinePlan:
    """How long and how fast to refine.

    Args:
        steps: most steps of the optimiser.
        rate: its step size at the start, falling linearly to 0.
        edge: voxels along each edge of a patch; a multiple of 8.
        batch: patches in a step.
        check_every: steps between two looks at the held-out patches.
        patience: looks without improvement after which to stop.
        loss: "stein", the estimated error at the scan's own noise; or "recorrupted", a noisier copy of the scan
            against another one with independent noise.

    Source:
        Soltanayev & Chun, NeurIPS 2018 ("stein"); Pang et al., Recorrupted-to-Recorrupted, CVPR 2021 ("recorrupted").
    """

    steps: int = 200
    rate: float = 5e-5
    edge: int = 40
    batch: int = 2
    check_every: int = 20
    patience: int = 3
    loss: Literal["stein", "recorrupted"] = "stein"

    def __post_init__(self) -> None:
        if min(self.steps, self.edge, self.batch, self.check_every, self.patience) < 1 or self.rate <= 0:
            raise ConfigError(f"every number of a refinement plan must be positive, not {self}")
        if self.edge % 8 or self.loss not in ("stein", "recorrupted"):
            raise ConfigError(f"edge {self.edge}, loss '{self.loss}': expected a multiple of 8; stein or recorrupted")


@dataclass(frozen=True)
class Refinement:
    """A refined denoiser, or the original where refining did not help, and what was measured.

    Args:
        denoiser: the one to use.
        accepted: whether it is the refined one.
        before: estimated mean squared error of the original on patches that no step and no stopping saw, in the scan's
            unit squared.
        after: the same of the refined one.
        standard_error: of ``before - after``.
        steps: steps behind the weights that were judged.
        history: estimated mean squared error on the stopping patches, by steps taken.
        reason: why it was accepted or not, in words.
    """

    denoiser: PretrainedDenoiser
    accepted: bool
    before: float
    after: float
    standard_error: float
    steps: int
    history: tuple[tuple[int, float], ...]
    reason: str


@dataclass(frozen=True)
class _Patch:
    """A cube of the scan, and what the original denoiser makes of it: where voxels count, and their noise."""

    y: Tensor
    sigma: Tensor
    original: Tensor
    mask: Tensor
    scatter: Scatter


def refine(
    denoiser: PretrainedDenoiser,
    y: Float[Tensor, "1 1 I J K"],
    sigma: Float[Tensor, "#1 #1 #I #J #K"],
    *,
    rician: bool,
    generator: torch.Generator,
    plan: RefinePlan | None = None,
    on_step: OnStep = ignore,
) -> Refinement:
    """Refine a denoiser's weights on the scan itself; the one that was given is left as it is.

    Assumes noise independent from voxel to voxel, of the given level: an over-estimated sigma teaches it to smooth,
    and correlated noise to keep the noise. Run ``assess`` on the result. With magnitudes, voxels whose denoised signal
    is below two noise levels are held to the original's estimate.

    Args:
        denoiser: what to start from.
        y: the scan.
        sigma: its noise level, a scalar or a map.
        rician: whether the scan is a magnitude image.
        generator: of patches, poses and random changes; on the device of the scan.
        plan: how long and how fast; the defaults without it.
        on_step: told after every step.

    Raises:
        TooFewVoxels: fewer than 6 patches of the scan hold enough tissue.
    """
    chosen = RefinePlan() if plan is None else plan
    patches = _cut(denoiser, y, sigma, chosen.edge, rician=rician)
    order = torch.randperm(len(patches), generator=generator, device=generator.device).tolist()
    count = max(1, len(patches) // 6)
    stopping, judging, training = ([patches[n] for n in part] for part in _split(order, count))
    best, steps, history = _train(denoiser.network, training, stopping, chosen, rician, generator, on_step)
    refined = _with_network(denoiser, best)
    before, after, error = _compare(denoiser, refined, judging, rician=rician)
    accepted = steps > 0 and before - after > SIGNIFICANT * error
    figures = (
        f"estimated squared error {before:.4g} before, {after:.4g} after, +-{error:.2g}, on {count} unseen patches"
    )
    reason = f"{'kept' if accepted else 'not kept, since it did not clearly help'}: {figures}"
    return Refinement(refined if accepted else denoiser, accepted, before, after, error, steps, history, reason)


def _split(order: Sequence[int], count: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    return order[:count], order[count : 2 * count], order[2 * count :]


def _cut(denoiser: Denoiser, y: Tensor, sigma: Tensor, edge: int, *, rician: bool) -> list[_Patch]:
    """Return the cubes of the scan that hold enough tissue; no two share a voxel."""
    size = [min(edge, extent // 8 * 8) for extent in y.shape[2:]]
    if min(size) < 8:
        raise TooFewVoxels(f"a scan of {tuple(y.shape[2:])} voxels: refining needs at least 8 along every axis")
    brightest, found = float(y.max()), []
    starts = [range(0, extent - n + 1, n) for extent, n in zip(y.shape[2:], size, strict=True)]
    for i, j, k in product(*starts):
        box = (slice(None), slice(None), slice(i, i + size[0]), slice(j, j + size[1]), slice(k, k + size[2]))
        part = y[box]
        level = sigma.expand(y.shape)[box]
        original = evaluate(denoiser, part, level).detach()
        mask = (level > 0) & (part != 0)
        if rician:
            mask = mask & (original > BRIGHT_SIGMAS * level) & (original > FOREGROUND_SHARE * brightest)
        if float(mask.float().mean()) >= LEAST_FILLED:
            safe = torch.where(level > 0, level, 1.0)
            found.append(_Patch(part, level, original, mask.to(y), expected_scatter(original, safe, rician=rician)))
    if len(found) < 6:
        raise TooFewVoxels(
            f"{len(found)} patches of {size} voxels hold enough tissue: refining needs 6; use the model as it is"
        )
    return found


def _train(
    original: nn.Module,
    training: list[_Patch],
    stopping: list[_Patch],
    plan: RefinePlan,
    rician: bool,  # noqa: FBT001 - private, called once
    generator: torch.Generator,
    on_step: OnStep,
) -> tuple[nn.Module, int, tuple[tuple[int, float], ...]]:
    """Return the network that was best on the stopping patches, its steps, and what these patches said on the way."""
    network, average = (copy.deepcopy(original) for _ in range(2))
    optimiser = torch.optim.Adam(network.requires_grad_(True).parameters(), lr=plan.rate)
    best, steps, least = copy.deepcopy(original), 0, _held_out(original, stopping, rician=rician)
    history = [(0, least)]
    for step in range(1, plan.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = plan.rate * (1 - (step - 1) / plan.steps)
        batch = _draw(training, plan.batch, generator)
        optimiser.zero_grad(set_to_none=True)
        with torch.enable_grad():
            _loss(network, batch, plan.loss, rician=rician, generator=generator).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        _follow(average, network, min(0.98, step / (step + 10)))
        on_step(StepInfo("refine", step, plan.steps, f"held-out error {100 * history[-1][1] / history[0][1]:.1f} %"))
        if step % plan.check_every == 0 or step == plan.steps:
            history.append((step, _held_out(average, stopping, rician=rician)))
            if history[-1][1] < least:
                best, steps, least = copy.deepcopy(average), step, history[-1][1]
            elif step - steps >= plan.patience * plan.check_every:
                break
    return best.eval().requires_grad_(False), steps, tuple(history)


def _draw(training: list[_Patch], count: int, generator: torch.Generator) -> _Patch:
    """Return a batch of patches at random, each flipped at random along each axis."""
    drawn = []
    for _ in range(count):
        patch = training[int(torch.randint(len(training), (), generator=generator, device=generator.device))]
        coins = torch.rand(3, generator=generator, device=generator.device)
        flips = [axis + 2 for axis in range(3) if coins[axis] < 0.5]
        parts = patch.y, patch.sigma, patch.original, patch.mask, patch.scatter.variance, patch.scatter.slope
        drawn.append([part.flip(flips) for part in parts])
    y, sigma, original, mask, variance, slope = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return _Patch(y, sigma, original, mask, Scatter(variance, slope))


def _loss(
    network: nn.Module, batch: _Patch, kind: str, *, rician: bool, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Return the loss of a batch in units of its noise; voxels that do not count are held to the original."""
    if kind == "stein":
        answer = _ask(network, batch, rician=rician, generator=generator)
        estimate, loss = answer.estimate, answer.risk().sum() / answer.noise().sum()
    else:
        spread = batch.scatter.variance.sqrt()
        added = spread * torch.randn(spread.shape, generator=generator, device=generator.device)
        estimate = network(batch.y + RECORRUPTION * added, batch.sigma * sqrt(1 + RECORRUPTION**2))
        weight = batch.mask / torch.where(batch.mask > 0, batch.scatter.slope, 1.0).square()
        apart = expected_scan(estimate, batch.sigma, rician=rician) - (batch.y - added / RECORRUPTION)
        loss = (weight * apart.square()).sum() / (weight * batch.scatter.variance).sum()
    drift = (1 - batch.mask) * (estimate - batch.original).square() / batch.scatter.variance
    return loss + drift.mean()


def _ask(denoiser: Denoiser | nn.Module, patch: _Patch, *, rician: bool, generator: torch.Generator) -> Probe:
    return probe(denoiser, patch.y, patch.sigma, patch.mask, rician=rician, generator=generator, scatter=patch.scatter)


def _fixed(patches: list[_Patch]) -> torch.Generator:
    """Return a generator that makes every look at these patches use the same random change."""
    return torch.Generator(device=patches[0].y.device).manual_seed(0)


def _held_out(network: nn.Module, patches: list[_Patch], *, rician: bool) -> float:
    """Return the estimated mean squared error over patches, in the scan's unit squared."""
    generator, total, voxels = _fixed(patches), 0.0, 0.0
    for patch in patches:
        answer = _ask(network, patch, rician=rician, generator=generator)
        total, voxels = total + float(answer.risk().detach().sum()), voxels + float(patch.mask.sum())
    return total / voxels


def _compare(
    original: Denoiser, refined: Denoiser, patches: list[_Patch], *, rician: bool
) -> tuple[float, float, float]:
    """Return both estimated errors on the same patches and random changes, and the difference's standard error.

    The error is the scatter of the difference between blocks of 8 voxels along each edge.
    """
    generators, sums, blocks, voxels = [_fixed(patches), _fixed(patches)], [0.0, 0.0], [], 0.0
    for patch in patches:
        risks = [
            _ask(denoiser, patch, rician=rician, generator=generator).risk().detach()
            for denoiser, generator in zip((original, refined), generators, strict=True)
        ]
        sums = [total + float(risk.sum()) for total, risk in zip(sums, risks, strict=True)]
        voxels += float(patch.mask.sum())
        blocks.append(512 * nn.functional.avg_pool3d(risks[0] - risks[1], 8).flatten())
    change = torch.cat(blocks).double()
    error = float(change.std() * sqrt(len(change))) / voxels if len(change) > 1 else inf
    return sums[0] / voxels, sums[1] / voxels, error


def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the running average of the weights towards them, in place."""
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.data.lerp_(value.data, 1 - decay)


def _with_network(denoiser: PretrainedDenoiser, network: nn.Module) -> PretrainedDenoiser:
    """Return the denoiser with other weights, and the hash of these."""
    changed = copy.copy(denoiser)
    changed.network = network
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    changed.weights_sha256 = digest.hexdigest()
    return changed
