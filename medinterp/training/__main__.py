"""``python -m medinterp.training``: train a bundle's network on a folder of scans, or go on where it stopped."""

import argparse
import copy
import json
import logging
import math
from pathlib import Path

import torch
from torch import nn

from medinterp import io
from medinterp.denoisers.network import BiasFreeUNet
from medinterp.denoisers.weights import WEIGHTS_FILE, file_sha256
from medinterp.noise.models import add_rician
from medinterp.training.loop import TrainingPlan, TrainingState, train
from medinterp.training.scans import Corpus, bright_scaled, load_scans
from medinterp.training.simulate import PatchSource

_TUNING_LEVELS = (0.03, 0.09)


class TuningScan:
    """PSNR of a network on a scan that is never trained on, at fixed seeded noise.

    Args:
        path: the scan; its central 96 x 96 x 64 voxels are used.
    """

    def __init__(self, path: Path) -> None:
        voxels = bright_scaled(torch.from_numpy(io.read(path).voxels[0].copy()))
        start = [max(0, (size - extent) // 2) for size, extent in zip(voxels.shape, (96, 96, 64), strict=True)]
        i, j, k = start
        self.clean = voxels[i : i + 96, j : j + 96, k : k + 64][None, None]
        generator = torch.Generator().manual_seed(9)
        self.noisy = {p: add_rician(self.clean, _level(p), generator=generator) for p in _TUNING_LEVELS}

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Return the foreground PSNR in dB by noise level, peak = 1 (bright tissue)."""
        inside, found = self.clean > 0.1, {}
        with torch.no_grad():  # a measurement, nothing is differentiated
            for p, noisy in self.noisy.items():
                error = (network(noisy, _level(p)) - self.clean)[inside].square().mean()
                found[f"psnr_{round(100 * p)}_percent"] = round(-10 * math.log10(float(error)), 3)
        return found


def _level(p: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1, 1), p)


def export_weights(network: nn.Module, bundle: Path) -> None:
    """Write the averaged weights into the bundle in half precision, and their hash into its metadata."""
    path = bundle / WEIGHTS_FILE
    path.parent.mkdir(exist_ok=True)
    torch.save({name: value.half() for name, value in network.state_dict().items()}, path)
    described = bundle / "configs" / "metadata.json"
    metadata = json.loads(described.read_text(encoding="utf-8"))
    metadata["medinterp"]["weights_sha256"] = file_sha256(path)
    described.write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line, train, and put the weights into the bundle."""
    parser = argparse.ArgumentParser(prog="python -m medinterp.training", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("pipelines/mri_denoise"))
    parser.add_argument("--scans", type=Path, required=True, help="folder the corpus's file names are relative to")
    parser.add_argument("--corpus", type=Path, help="JSON lists; default: configs/corpus.json of the bundle")
    parser.add_argument("--minutes", type=float, default=120.0, help="wall-clock budget, earlier runs counted in")
    parser.add_argument("--work", type=Path, default=Path(".training/mri_denoise"), help="checkpoint and log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    corpus = Corpus.load(given.corpus or given.bundle / "configs" / "corpus.json")
    config = json.loads((given.bundle / "configs" / "inference.json").read_text(encoding="utf-8"))["network_def"]
    torch.manual_seed(given.seed)  # the initial weights; everything after uses the generator below
    network = BiasFreeUNet(tuple(config["widths"]), tuple(config["blocks"]))
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # missing in torch's stubs
    generator = torch.Generator().manual_seed(given.seed)
    state = TrainingState(network, copy.deepcopy(network), torch.optim.Adam(network.parameters()), generator)
    source = PatchSource(load_scans(given.scans, corpus, torch.Generator().manual_seed(given.seed + 1)))
    tuning = TuningScan(given.scans / corpus.tune)
    train(state, source, TrainingPlan(minutes=given.minutes), given.work, validate=tuning)
    export_weights(state.average, given.bundle)


if __name__ == "__main__":
    main()
