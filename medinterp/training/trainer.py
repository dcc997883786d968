"""The trainer: from a fresh, grown or resumed network to weights in a bundle and a record of how they came about."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medinterp.catalogue import versions
from medinterp.denoisers.network import BiasFreeUNet
from medinterp.denoisers.weights import WEIGHTS_FILE, file_sha256
from medinterp.errors import ConfigError
from medinterp.progress import OnStep, ignore
from medinterp.training.checkpoint import TrainingState
from medinterp.training.growth import Size, fresh, grown, read_weights
from medinterp.training.loop import TrainingPlan, Validate, Watch, train
from medinterp.training.optimizers import make_optimizer
from medinterp.training.patches import PatchDataset
from medinterp.training.precision import TrainingInferer
from medinterp.training.recipes import corpus_of, read_config
from medinterp.training.validation import TuningScan

NETWORK_CONFIGS = ("inference.json", "train.json")


@dataclass(frozen=True)
class Trainer:
    """Train a network and put it into its bundle; what the command line and ``configs/train.json`` both call.

    Args:
        network: what to train. A ``BiasFreeUNet`` is given its seeded initial weights, or grown from ``start_from``;
            any other network is taken as it comes.
        dataset: the batches.
        inferer: runs the network; says on which device.
        validate: measures the averaged network.
        plan: budget and schedule.
        bundle_root: where the weights go.
        work: folder of checkpoint, log and weights; a training found there is resumed.
        start_from: weights to start from: a bundle's ``model.pt`` or a training checkpoint.
        optimizer: "muon" or "adam".
        seed: of initial weights and batches.
        export: put the weights into the bundle at the end of the budget.
        workers: processes that draw batches ahead.
        max_epochs: MONAI's word: one pass, whose length is the plan's budget.
    """

    network: nn.Module
    dataset: PatchDataset
    inferer: TrainingInferer
    validate: Validate
    plan: TrainingPlan
    bundle_root: str
    work: str
    start_from: str | None = None
    optimizer: str = "muon"
    seed: int = 0
    export: bool = True
    workers: int = 0
    max_epochs: int = 1

    def run(self, *, on_step: OnStep = ignore, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Train to the end of the budget, or until told to stop, and return the last line of the log.

        Raises:
            ConfigError: more than one epoch was asked for.
        """
        if self.max_epochs != 1:
            raise ConfigError(
                f"max_epochs {self.max_epochs}: a training is one pass; set its length by minutes or steps"
            )
        state = self.initial_state()
        watch = Watch(self.validate, on_step, stop, self.workers)
        line = train(state, self.dataset, self.inferer, self.plan, Path(self.work), watch)
        finished = self.plan.progress(state.step, state.elapsed_s) >= 1
        if finished:
            save_half(state.average, Path(self.work) / WEIGHTS_FILE.name)
            if self.export:
                export_weights(state.average, Path(self.bundle_root), self.record(state, line))
        return line

    def initial_state(self) -> TrainingState:
        """Return the state before the first step: seeded, grown or given weights, on the inferer's device."""
        network = self.network
        if isinstance(network, BiasFreeUNet):
            size = Size.of(network.state_dict())
            network = (
                grown(read_weights(Path(self.start_from)), size, self.seed)
                if self.start_from
                else fresh(size, self.seed)
            )
        elif self.start_from:
            network.load_state_dict(read_weights(Path(self.start_from)))
        network.to(self.inferer.place, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # in torch's stubs
        optimizer = make_optimizer(self.optimizer, network, self.plan.learning_rate)
        return TrainingState(network, copy.deepcopy(network), optimizer, torch.Generator().manual_seed(self.seed))

    def record(self, state: TrainingState, line: dict[str, Any]) -> dict[str, Any]:
        """Return what the model card says of this training; no path and no file name of a scan."""
        device = self.inferer.place
        name = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
        )
        return {
            "device": name,
            "precision": "bfloat16" if self.inferer.in_bfloat16 else "float32",
            "optimizer": self.optimizer,
            "seed": self.seed,
            "started_from": file_sha256(Path(self.start_from)) if self.start_from else None,
            "steps": state.step,
            "minutes": round(state.elapsed_s / 60, 2),
            "batch": self.plan.batch,
            "patch_sizes": list(self.plan.patch_sizes),
            "learning_rate": self.plan.learning_rate,
            "ema": self.plan.ema,
            "measured": {key: value for key, value in line.items() if key not in ("step", "minutes", "left_minutes")},
            "versions": {name: versions()[name] for name in ("medinterp", "python", "torch")},
        }


def make_validation(folder: str, bundle_root: str, corpus: str | None = None, device: str = "cpu") -> TuningScan:
    """Return the measurement on the corpus's tuning scan."""
    return TuningScan(Path(folder) / corpus_of(Path(bundle_root), corpus).tune, device)


def run_trainer(trainer: Trainer) -> dict[str, Any]:
    """Train; what ``python -m monai.bundle run`` calls."""
    return trainer.run()


def save_half(network: nn.Module, path: Path) -> None:
    """Write a network's weights in half precision, contiguous, replacing the file in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({name: value.half().cpu().contiguous() for name, value in network.state_dict().items()}, partial)
    partial.replace(path)


def export_weights(network: nn.Module, bundle: Path, record: dict[str, Any]) -> None:
    """Put a network into a bundle: its weights, their hash and the training's record, and its size in the configs."""
    path = bundle / WEIGHTS_FILE
    save_half(network, path)
    described = read_config(bundle / "configs" / "metadata.json")
    described.setdefault("medinterp", {}).update(weights_sha256=file_sha256(path), training=record)
    _write(bundle / "configs" / "metadata.json", described)
    if not isinstance(network, BiasFreeUNet):
        return
    size = Size.of(network.state_dict())
    for name in NETWORK_CONFIGS:
        if (bundle / "configs" / name).is_file():
            config = read_config(bundle / "configs" / name)
            config["network_def"].update(widths=list(size.widths), blocks=list(size.blocks))
            _write(bundle / "configs" / name, config)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
