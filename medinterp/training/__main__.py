"""``python -m medinterp.training``: train a bundle's network on a folder of scans, or go on where it stopped."""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

import torch

from medinterp.catalogue import find_bundle
from medinterp.denoisers.network import BiasFreeUNet
from medinterp.errors import MedinterpError
from medinterp.progress import StepInfo
from medinterp.training.growth import Size
from medinterp.training.loop import TrainingPlan
from medinterp.training.optimizers import NAMES
from medinterp.training.patches import PatchDataset
from medinterp.training.precision import PRECISIONS, TrainingInferer
from medinterp.training.recipes import LEARNING_RATE, RECIPES, make_source, network_size, preset
from medinterp.training.trainer import Trainer, make_validation

_EVERY_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, train, and put the weights into the bundle; return the exit code."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(given.threads)
    try:
        build(given).run(on_step=_Line(), stop=_Stop())
    except MedinterpError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def build(given: argparse.Namespace) -> Trainer:
    """Return the trainer that the options describe; what they leave open comes from the device's preset."""
    bundle, usual = find_bundle(given.bundle or f"{given.recipe}_denoise"), preset(given.device)
    size = usual.size or network_size(bundle)
    if given.widths or given.blocks:
        size = Size(tuple(given.widths or size.widths), tuple(given.blocks or size.blocks))
    source = make_source(given.scans, str(bundle), given.recipe, given.corpus, given.seed)
    inferer = TrainingInferer(given.device, given.precision)
    plan = TrainingPlan(
        minutes=usual.minutes if given.minutes is None else given.minutes,
        steps=given.steps,
        patch_sizes=given.patch_sizes or usual.patch_sizes,
        batch=given.batch or usual.batch,
        learning_rate=given.learning_rate,
    )
    return Trainer(
        network=BiasFreeUNet(size.widths, size.blocks),
        dataset=PatchDataset(source),
        inferer=inferer,
        validate=make_validation(given.scans, str(bundle), given.corpus, given.device),
        plan=plan,
        bundle_root=str(bundle),
        work=given.work or f".training/{bundle.name}",
        start_from=given.start_from,
        optimizer=given.optimizer,
        seed=given.seed,
        export=not given.no_export,
        workers=usual.workers if given.workers is None else given.workers,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medinterp.training", description=__doc__)
    add = parser.add_argument
    add("--scans", required=True, help="folder the corpus's file names are relative to")
    add("--recipe", choices=tuple(RECIPES), default="mri", help="physics and data")
    add("--bundle", help="name or folder; default: the recipe's own, such as mri_denoise")
    add("--corpus", help="JSON lists of scans; default: configs/corpus.json of the bundle")
    add("--work", help="folder of checkpoint and log; a training found there is resumed; default: .training/BUNDLE")
    add("--start-from", help="weights to start from (model.pt or a checkpoint); grown when the network is larger")
    add("--widths", type=int, nargs=3, help="channels at 1/2, 1/4, 1/8 resolution; default: the bundle's, or a GPU's")
    add("--blocks", type=int, nargs=3, help="residual blocks at each; default as above")
    add("--minutes", type=float, help="wall-clock budget, earlier runs counted in; default 120, on a GPU 28")
    add("--steps", type=int, help="budget in steps instead; the same seed then gives the same bits")
    add("--batch", type=int, help="samples a step; default 2, on a GPU 16")
    add("--patch-sizes", type=int, nargs="+", help="patch edges in voxels, growing over the budget")
    add("--learning-rate", type=float, default=LEARNING_RATE)
    add("--optimizer", choices=NAMES, default="muon")
    add("--device", default="cpu", help="cpu, cuda or cuda:1")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: bfloat16 convolutions on a GPU")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--workers", type=int, help="processes that draw batches ahead; default 1, on a GPU 12")
    add("--no-export", action="store_true", help="leave the bundle as it is; the weights are in WORK/model.pt")
    return parser


class _Line:
    """Progress with time left, as one line that is written over; nothing where the output is no terminal."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, info: StepInfo) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self.last > _EVERY_S:
            self.last = now
            sys.stderr.write(f"\r{100 * info.done / info.total:5.1f} %  {info.detail}   ")
            sys.stderr.flush()


class _Stop:
    """Becomes true at the first interrupt, so that the step is finished and the checkpoint written."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = True
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once

    def __call__(self) -> bool:
        return self.asked


if __name__ == "__main__":
    sys.exit(main())
