"""Training scans from a folder: read, scaled to bright tissue = 1, with their own noise level."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from medinterp import io
from medinterp.errors import ConfigError
from medinterp.training.simulate import TrainingScan, phantom

_PATCH = 48


@dataclass(frozen=True)
class Corpus:
    """Which scans to train on.

    Args:
        train: (file name, weight) of the training scans, relative to the folder.
        tune: file name of the scan kept apart for watching progress.
        phantoms: number of synthetic phantoms.
    """

    train: tuple[tuple[str, float], ...]
    tune: str
    phantoms: int = 24

    @classmethod
    def load(cls, path: Path) -> "Corpus":
        """Read the lists from a JSON file.

        Raises:
            ConfigError: it cannot be read, or the tuning scan is also a training scan.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            corpus = cls(tuple((str(n), float(w)) for n, w in stored["train"]), stored["tune"], stored["phantoms"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"the corpus {path.name} cannot be read: {error}") from error
        if corpus.tune in {name for name, _ in corpus.train}:
            raise ConfigError(f"the corpus {path.name} trains on its tuning scan {corpus.tune}; keep them apart")
        return corpus


def load_scans(folder: Path, corpus: Corpus, generator: torch.Generator) -> list[TrainingScan]:
    """Read the training scans, each also averaged 2x2x2 (less noise, another resolution), and draw the phantoms."""
    scans = []
    for name, weight in corpus.train:
        full = bright_scaled(torch.from_numpy(io.read(folder / name).voxels[0].copy()))
        own = min(finest_detail(full), 0.02)  # texture is counted as noise where a scan is sharp
        pooled = functional.avg_pool3d(full[None, None], 2)[0, 0]
        for voxels, sigma in ((full, own), (pooled, own / 2**1.5)):
            if min(voxels.shape) >= _PATCH:
                scans.append(TrainingScan(voxels.contiguous(), sigma, weight))
    return scans + [TrainingScan(phantom(80, generator), 0.0, 0.05) for _ in range(corpus.phantoms)]


def bright_scaled(voxels: Tensor) -> Tensor:
    """Scale the 98th percentile of the voxels above a tenth of the maximum to 1; outliers are clipped at 1.6."""
    bright = voxels[voxels > 0.1 * voxels.max()]
    level = bright.kthvalue(max(1, int(0.98 * bright.numel()))).values
    return (voxels / level).clamp(0, 1.6)


def finest_detail(voxels: Tensor) -> float:
    """Return the median absolute finest diagonal detail in tissue as a standard deviation: an upper bound of noise."""
    pair = torch.tensor([1.0, -1.0]) / 2**0.5
    kernel = torch.einsum("i,j,k->ijk", pair, pair, pair)[None, None]
    detail = functional.conv3d(voxels[None, None], kernel)[0, 0]
    mean = functional.avg_pool3d(voxels[None, None], 2, stride=1)[0, 0]
    return float(detail[mean > 0.15].abs().median() / 0.6745)
