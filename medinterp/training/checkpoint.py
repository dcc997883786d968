"""What a training needs to go on after an interruption, and its file."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from medinterp.errors import ConfigError, WeightsMismatch


@dataclass
class TrainingState:
    """Everything needed to go on after an interruption.

    Args:
        network: what is trained.
        average: its exponential moving average, which is what will be used.
        optimizer: with its running means.
        generator: its seed names the stream of batches; trainings that draw one batch after the other use it directly.
        step: steps taken.
        elapsed_s: seconds trained, interruptions not counted.
    """

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    elapsed_s: float = 0.0

    def save(self, path: Path) -> None:
        """Write the checkpoint, replacing the old one in one move."""
        partial = path.with_suffix(".partial")
        stored = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "optimizer_kind": type(self.optimizer).__name__,
            "generator": self.generator.get_state(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        with partial.open("wb") as file:
            torch.save(stored, file)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name on an empty file
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            WeightsMismatch: it is damaged, or of another network.
            ConfigError: it is of a training with another seed or optimiser.
        """
        seed, kind = self.generator.initial_seed(), type(self.optimizer).__name__
        advice = f"move {path.name} away to start anew, or give another --work folder"
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            used = stored.get("optimizer_kind", kind)
            if used != kind:
                raise ConfigError(f"the checkpoint was trained with {used}, this training uses {kind}; {advice}")
            for name in ("network", "average", "optimizer"):
                getattr(self, name).load_state_dict(stored[name])
            self.generator.set_state(stored["generator"])
            self.step, self.elapsed_s = int(stored["step"]), float(stored["elapsed_s"])
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
            raise WeightsMismatch(
                f"the checkpoint {path.name} is damaged or of another network ({reason}); {advice}"
            ) from error
        if (found := self.generator.initial_seed()) != seed:
            raise ConfigError(f"the checkpoint was trained with seed {found}, this training has {seed}; {advice}")
