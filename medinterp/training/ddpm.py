"""Training MONAI's diffusion networks on the same batches as our own, by the DDPM loss in the network's own unit."""

import copy
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medinterp.denoisers.intensity import FixedIntensity
from medinterp.denoisers.monai_ddpm import DiffusionDenoiser
from medinterp.denoisers.weights import WEIGHTS_FILE, file_sha256
from medinterp.errors import NonFinite
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.training.loop import CHECKPOINT, LOG, TrainingPlan, TrainingState, Validate
from medinterp.training.optimizers import make_optimizer
from medinterp.training.patches import PatchDataset, Request
from medinterp.training.precision import TrainingInferer
from medinterp.training.recipes import read_config
from medinterp.training.simulate import Batch
from medinterp.training.trainer import save_half

logger = logging.getLogger(__name__)


def epsilon_loss(denoiser: DiffusionDenoiser, batch: Batch, inferer: TrainingInferer) -> Float[Tensor, ""]:
    """Return the mean squared error of the predicted noise, in units of its own level: the DDPM loss.

    The noise is what the batch holds, (noisy - clean) / sigma, so Rician noise and its bias are learned too, and the
    timestep is the one that belongs to the sample's noise level: the prior is asked at inference what it was trained
    on. A noise map enters by its root mean square, since the network takes one timestep; levels outside of the
    scheduler's table are told as its nearest end. The same for networks that predict noise, clean image or velocity.

    Source:
        Ho et al., "Denoising diffusion probabilistic models", 2020, eq. 14.
    """
    level = batch.sigma.square().mean(dim=(1, 2, 3, 4), keepdim=True).sqrt()
    told = level.clamp(*denoiser.sigma_range(batch.noisy, level))
    return ((inferer(batch.noisy, denoiser, told) - batch.clean) / told).square().mean()


@dataclass(frozen=True)
class DiffusionTrainer:
    """Train a diffusion network and put it into its bundle; what the bundle's ``configs/train.json`` calls.

    Training works on scans whose bright tissue is 1, the network's own unit, and on patches: the intensity and the
    windows that the bundle infers with are set aside. Initial weights are the network's as it comes; seed PyTorch
    before it is built.

    Args:
        network: the wrapped MONAI network.
        dataset: the batches.
        inferer: runs the network; says on which device and in which precision.
        validate: measures the averaged denoiser on scans kept apart for tuning.
        plan: budget and schedule.
        bundle_root: where the weights go.
        work: folder of checkpoint and log; a training found there is resumed.
        optimizer: "adam", as DDPMs are trained, or "muon".
        seed: of the batches.
        workers: processes that draw batches ahead; 0 draws them in between.
        export: put the weights into the bundle at the end of the budget.
        max_epochs: MONAI's word: one pass, whose length is the plan's budget.
    """

    network: DiffusionDenoiser
    dataset: PatchDataset
    inferer: TrainingInferer
    validate: Validate
    plan: TrainingPlan
    bundle_root: str
    work: str
    optimizer: str = "adam"
    seed: int = 0
    workers: int = 0
    export: bool = True
    max_epochs: int = 1

    def run(self, *, on_step: OnStep = ignore, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Train to the end of the budget, or until told to stop; return the last line of ``log.jsonl``.

        Raises:
            NonFinite: the loss became NaN or infinite.
            WeightsMismatch: the checkpoint is damaged or another training's.
        """
        folder = Path(self.work)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.initial_state()
        if (folder / CHECKPOINT).exists():
            state.load(folder / CHECKPOINT)
        begun, saved, losses = time.monotonic() - state.elapsed_s, time.monotonic(), list[Tensor]()

        def keep() -> dict[str, Any]:
            state.elapsed_s = time.monotonic() - begun
            return self._keep(state, losses)

        pinned = self.inferer.place.type == "cuda"
        for batch in self.dataset.batches(self._requests(state, begun), workers=self.workers, pinned=pinned):
            progress = self.plan.progress(state.step, time.monotonic() - begun)
            if stop() or progress >= 1:
                break
            losses.append(self._advance(state, progress, batch.to(self.inferer.place)))
            on_step(StepInfo("train", int(1000 * progress), 1000, f"step {state.step}"))
            if time.monotonic() - saved > self.plan.checkpoint_s:
                keep()
                saved = time.monotonic()
        line = keep()
        if self.export and self.plan.progress(state.step, state.elapsed_s) >= 1:
            export_diffusion(state.average, Path(self.bundle_root), line)
        return line

    def initial_state(self) -> TrainingState:
        """Return the state before the first step, on the inferer's device."""
        network = copy.copy(self.network)  # the same parameters, seen in training's unit and without windows
        network.intensity, network.windows, network.checkpoint = FixedIntensity(), None, False
        network.to(self.inferer.place, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # in torch's stubs
        optimizer = make_optimizer(self.optimizer, network, self.plan.learning_rate)
        return TrainingState(network, copy.deepcopy(network), optimizer, torch.Generator().manual_seed(self.seed))

    def _requests(self, state: TrainingState, begun: float) -> Iterator[Request]:
        """Yield what to draw next, ahead of the steps when workers ask for it."""
        step = state.step
        while (progress := self.plan.progress(step, time.monotonic() - begun)) < 1:
            yield Request(self.seed, step, self.plan.batch, self.plan.size(progress))
            step += 1

    def _advance(self, state: TrainingState, progress: float, batch: Batch) -> Tensor:
        """Take one step of the optimizer and of the weight average, and return the loss."""
        denoiser = state.network
        if not isinstance(denoiser, DiffusionDenoiser):
            raise TypeError(f"a state of {type(denoiser).__name__}, expected a DiffusionDenoiser")
        for group in state.optimizer.param_groups:
            group["lr"] = self.plan.rate(state.step, progress)
        loss = epsilon_loss(denoiser, batch, self.inferer)
        state.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        state.optimizer.step()
        decay = min(self.plan.ema, (state.step + 1) / (state.step + 10))
        with torch.no_grad():  # bookkeeping of the weight average, outside the differentiated computation
            for kept, new in zip(state.average.parameters(), denoiser.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        state.step += 1
        return loss.detach()

    def _keep(self, state: TrainingState, losses: list[Tensor]) -> dict[str, Any]:
        """Write the checkpoint and a line of the log."""
        mean = float(torch.stack(losses).mean()) if losses else None
        if mean is not None and not mean < float("inf"):
            raise NonFinite(
                f"the loss was not finite before step {state.step}; the last checkpoint is from before that: resume "
                "from it with a lower learning rate"
            )
        state.save(Path(self.work) / CHECKPOINT)
        line: dict[str, Any] = {
            "step": state.step,
            "minutes": round(state.elapsed_s / 60, 2),
            "left_minutes": round(self.plan.left_s(state.step, state.elapsed_s) / 60, 2),
            "loss": None if mean is None else round(mean, 4),
            **self.validate(state.average),
        }
        losses.clear()
        logger.info("%s", json.dumps(line))
        with (Path(self.work) / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        return line


def run_trainer(trainer: DiffusionTrainer) -> dict[str, Any]:
    """Train; what ``python -m monai.bundle run`` calls."""
    return trainer.run()


def export_diffusion(denoiser: nn.Module, bundle: Path, record: dict[str, Any]) -> None:
    """Put a wrapped network into a bundle: the MONAI network's own weights, their hash and the training's record."""
    network = denoiser.get_submodule("network")
    save_half(network, bundle / WEIGHTS_FILE)
    path = bundle / "configs" / "metadata.json"
    described = read_config(path)
    described.setdefault("medinterp", {}).update(weights_sha256=file_sha256(bundle / WEIGHTS_FILE), training=record)
    path.write_text(json.dumps(described, indent=4) + "\n", encoding="utf-8")
