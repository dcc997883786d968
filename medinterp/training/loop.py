"""The training loop: seeded, resumable, with an exponential moving average, paced by time or by steps."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medinterp.errors import NonFinite
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.training.checkpoint import TrainingState
from medinterp.training.losses import log_relative_mse
from medinterp.training.patches import PatchDataset, Request
from medinterp.training.precision import TrainingInferer
from medinterp.training.simulate import Batch

__all__ = ["TrainingPlan", "TrainingState", "train"]

logger = logging.getLogger(__name__)
Validate = Callable[[nn.Module], dict[str, float]]
LOG = "log.jsonl"
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how to train.

    Args:
        minutes: wall-clock budget; the learning rate falls linearly to zero over it.
        patch_sizes: patch edge in voxels, growing over the budget in equal parts.
        batch: samples a step.
        learning_rate: the optimiser's, at the start.
        ema: decay of the weight average a step.
        checkpoint_s: seconds between two checkpoints, each with a validation and a line in the log.
        steps: budget in steps instead of minutes. Only then do the same seed and device give the same bits.
        warmup: steps over which the learning rate rises to its start.
    """

    minutes: float
    patch_sizes: Sequence[int] = (32, 40, 48)
    batch: int = 2
    learning_rate: float = 5e-4
    ema: float = 0.998
    checkpoint_s: float = 180.0
    steps: int | None = None
    warmup: int = 100

    def progress(self, step: int, elapsed_s: float) -> float:
        """Return the share of the budget that is used, 0 to 1."""
        return min(1.0, step / self.steps if self.steps is not None else elapsed_s / (60 * self.minutes))

    def rate(self, step: int, progress: float) -> float:
        """Return the learning rate of a step."""
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * (1 - progress)

    def size(self, progress: float) -> int:
        """Return the patch edge at a time below the budget's end."""
        return self.patch_sizes[min(len(self.patch_sizes) - 1, int(progress * len(self.patch_sizes)))]

    def left_s(self, step: int, elapsed_s: float) -> float:
        """Return the seconds that are left, by the pace so far where the budget is in steps."""
        if self.steps is None:
            return max(0.0, 60 * self.minutes - elapsed_s)
        return elapsed_s / max(1, step) * (self.steps - step)


@dataclass(frozen=True)
class Watch:
    """Who looks at a training from outside.

    Args:
        validate: measures the averaged network on scans kept apart for tuning.
        on_step: told of every step.
        stop: asked before every step; the training then saves its checkpoint and ends early.
        workers: processes that draw batches ahead; 0 draws them in between. The same bits either way.
    """

    validate: Validate
    on_step: OnStep = ignore
    stop: Callable[[], bool] = lambda: False
    workers: int = 0


class _Run:
    """One stretch of training between a start, or a resume, and its end."""

    def __init__(self, state: TrainingState, plan: TrainingPlan, folder: Path) -> None:
        self.state, self.plan, self.folder = state, plan, folder
        self.begun = time.monotonic() - state.elapsed_s
        self.saved = time.monotonic()
        self.losses: list[Tensor] = []

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.begun

    @property
    def progress(self) -> float:
        return self.plan.progress(self.state.step, self.elapsed_s)

    def requests(self) -> Iterator[Request]:
        """Yield what to draw next, ahead of the steps when workers ask for it."""
        seed, step = self.state.generator.initial_seed(), self.state.step
        while (progress := self.plan.progress(step, self.elapsed_s)) < 1:
            yield Request(seed, step, self.plan.batch, self.plan.size(progress))
            step += 1

    def record(self, measured: dict[str, float]) -> dict[str, Any]:
        """Write a line of the log."""
        line: dict[str, Any] = {
            "step": self.state.step,
            "minutes": round(self.elapsed_s / 60, 2),
            "left_minutes": round(self.plan.left_s(self.state.step, self.elapsed_s) / 60, 2),
            "loss": round(float(torch.stack(self.losses).mean()), 4) if self.losses else None,
            **measured,
        }
        logger.info("%s", json.dumps(line))
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self.losses.clear()
        return line

    def save(self) -> None:
        """Write the checkpoint, unless the training has diverged since the last one."""
        if self.losses and not torch.isfinite(torch.stack(self.losses)).all():
            raise NonFinite(
                f"the loss was not finite before step {self.state.step}; the last checkpoint is from before that: "
                "resume from it with a lower learning rate"
            )
        self.state.elapsed_s, self.saved = self.elapsed_s, time.monotonic()
        self.state.save(self.folder / CHECKPOINT)


def train(
    state: TrainingState,
    dataset: PatchDataset,
    inferer: TrainingInferer,
    plan: TrainingPlan,
    folder: Path,
    watch: Watch,
) -> dict[str, Any]:
    """Train until the plan's budget is used; write ``checkpoint.pt`` and ``log.jsonl``, and return its last line.

    Args:
        state: network, average, optimizer and generator; changed in place; resumed from ``checkpoint.pt`` if present.
        dataset: draws the batches.
        inferer: runs the network.
        plan: budget and schedule.
        folder: where the checkpoint and the log go.
        watch: validation, progress and interruption.

    Raises:
        NonFinite: the loss became NaN or infinite.
        WeightsMismatch: the checkpoint is damaged or another training's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / CHECKPOINT).exists():
        state.load(folder / CHECKPOINT)
    run = _Run(state, plan, folder)
    line = run.record(watch.validate(state.average)) if state.step == 0 else {}
    for batch in dataset.batches(run.requests(), workers=watch.workers, pinned=inferer.place.type == "cuda"):
        if watch.stop() or (progress := run.progress) >= 1:
            break
        run.losses.append(_advance(state, inferer, plan, progress, batch.to(inferer.place)))
        watch.on_step(_info(run))
        if time.monotonic() - run.saved > plan.checkpoint_s:
            run.save()
            line = run.record(watch.validate(state.average))
    run.save()
    return run.record(watch.validate(state.average)) if run.losses or not line else line


def _advance(
    state: TrainingState, inferer: TrainingInferer, plan: TrainingPlan, progress: float, batch: Batch
) -> Tensor:
    """Take one step of the optimizer and of the weight average, and return the loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = plan.rate(state.step, progress)
    loss = log_relative_mse(inferer(batch.noisy, state.network, batch.sigma), batch.clean, batch.sigma)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimizer.step()
    decay = min(plan.ema, (state.step + 1) / (state.step + 10))
    with torch.no_grad():  # bookkeeping of the weight average, outside the differentiated computation
        for kept, new in zip(state.average.parameters(), state.network.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)
    state.step += 1
    return loss.detach()


def _info(run: _Run) -> StepInfo:
    """Describe a step in a thousandth of the budget, which may be time."""
    left = round(run.plan.left_s(run.state.step, run.elapsed_s) / 60)
    detail = f"step {run.state.step}, {left // 60} h {left % 60:02d} min left"
    return StepInfo("train", int(1000 * run.progress), 1000, detail)
