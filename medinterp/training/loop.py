"""The training loop: seeded, resumable, with an exponential moving average, paced by wall-clock time."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medinterp.training.losses import log_relative_mse
from medinterp.training.simulate import PatchSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how to train.

    Args:
        minutes: wall-clock budget; the learning rate falls linearly to zero over it.
        patch_sizes: patch edge in voxels, growing over the budget in equal parts.
        batch: samples a step.
        learning_rate: Adam's, at the start.
        ema: decay of the weight average a step.
        checkpoint_s: seconds between two checkpoints.
    """

    minutes: float
    patch_sizes: tuple[int, ...] = (32, 40, 48)
    batch: int = 2
    learning_rate: float = 5e-4
    ema: float = 0.998
    checkpoint_s: float = 120.0


@dataclass
class TrainingState:
    """Everything needed to go on after an interruption."""

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    elapsed_s: float = 0.0

    def save(self, path: Path) -> None:
        """Write the checkpoint, replacing the old one in one move."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "step": self.step,
                "elapsed_s": self.elapsed_s,
            },
            partial,
        )
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        stored = torch.load(path, weights_only=True)
        for name in ("network", "average", "optimizer"):
            getattr(self, name).load_state_dict(stored[name])
        self.generator.set_state(stored["generator"])
        self.step, self.elapsed_s = stored["step"], stored["elapsed_s"]


def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    with torch.no_grad():  # bookkeeping of the weight average, outside the differentiated computation
        for kept, new in zip(average.parameters(), network.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)


def train(
    state: TrainingState,
    source: PatchSource,
    plan: TrainingPlan,
    folder: Path,
    *,
    validate: Callable[[nn.Module], dict[str, float]],
) -> None:
    """Train until the plan's minutes are used, writing ``checkpoint.pt`` and a line a minute to ``log.jsonl``.

    Args:
        state: network, average, optimizer and generator; changed in place; resumed from ``checkpoint.pt`` if present.
        source: where the batches come from.
        plan: budget and schedule.
        folder: where the checkpoint and the log go.
        validate: measures the averaged network on scans kept apart for tuning.
    """
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state.load(checkpoint)
    begun, last_saved, losses = time.monotonic() - state.elapsed_s, time.monotonic(), list[Tensor]()
    while (progress := (time.monotonic() - begun) / (60 * plan.minutes)) < 1:
        for group in state.optimizer.param_groups:
            group["lr"] = plan.learning_rate * min(1.0, (state.step + 1) / 100) * (1 - progress)
        size = plan.patch_sizes[int(progress * len(plan.patch_sizes))]
        batch = source.draw(plan.batch, size, state.generator)
        loss = log_relative_mse(state.network(batch.noisy, batch.sigma), batch.clean, batch.sigma)
        state.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
        state.optimizer.step()
        _update_average(state.average, state.network, min(plan.ema, (state.step + 1) / (state.step + 10)))
        losses.append(loss.detach())
        state.step += 1
        if time.monotonic() - last_saved > plan.checkpoint_s:
            last_saved, state.elapsed_s = time.monotonic(), time.monotonic() - begun
            state.save(checkpoint)
            line = {
                "step": state.step,
                "minutes": round(state.elapsed_s / 60, 2),
                "left_minutes": round(plan.minutes - state.elapsed_s / 60, 2),
                "loss": round(float(torch.stack(losses).mean()), 4),
                **validate(state.average),
            }
            losses.clear()
            logger.info("%s", json.dumps(line))
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
    state.elapsed_s = time.monotonic() - begun
    state.save(checkpoint)
