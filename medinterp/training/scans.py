"""Training scans from a folder: the corpus that lists them, what must stay apart, and each scan's own noise."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medinterp import io
from medinterp.denoisers.weights import file_sha256
from medinterp.errors import ConfigError, InputError
from medinterp.training.anatomy import PhantomBank
from medinterp.training.simulate import PatchSource, TrainingScan
from medinterp.training.views import blurred

_SMALLEST = 32  # voxels along the shortest axis: thinner versions of a scan are left out
_MOST_OWN = 0.02  # texture counts as noise where a scan is sharp


@dataclass(frozen=True)
class Entry:
    """One training scan and the versions of it that are cut from.

    Args:
        file: name relative to the folder.
        weight: how often it is picked, shared by its versions.
        pools: averages over cubes of so many voxels: less noise, another resolution.
        blurs: standard deviations in voxels of a Gaussian blur: less noise, less detail.
        offset: value of nothing, taken off first: -1000 for CT in HU.
    """

    file: str
    weight: float = 1.0
    pools: tuple[int, ...] = (1, 2)
    blurs: tuple[float, ...] = (0.0,)
    offset: float = 0.0

    @classmethod
    def parse(cls, item: Any) -> "Entry":
        """Read a JSON object, or a short [file, weight]."""
        if isinstance(item, Mapping):
            numbers = {name: tuple(item[name]) for name in ("pools", "blurs") if name in item}
            return cls(**{**item, **numbers})
        name, weight = item
        return cls(str(name), float(weight))


@dataclass(frozen=True)
class Corpus:
    """Which scans to train on, and which never.

    Args:
        train: the training scans.
        tune: file name of the scan kept apart for watching progress.
        apart: file names of scans that results are reported on, with their SHA-256 where known: never trained on,
            under this name or another.
        phantoms: share of samples cut from synthetic anatomy.
    """

    train: tuple[Entry, ...]
    tune: str
    apart: Mapping[str, str | None]
    phantoms: float = 0.15

    @classmethod
    def load(cls, path: Path) -> "Corpus":
        """Read the lists from a JSON file.

        Raises:
            ConfigError: it cannot be read, or trains on a scan that it keeps apart.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            apart = {str(name): digest for name, digest in stored.get("apart", {}).items()}
            train = tuple(Entry.parse(item) for item in stored["train"])
            corpus = cls(train, str(stored["tune"]), apart, float(stored["phantoms"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"the corpus {path.name} cannot be read: {type(error).__name__}: {error}") from error
        corpus.check_names()
        return corpus

    def check_names(self) -> None:
        """Refuse training on a scan that is kept apart, by its file name without folder, suffix and case.

        Raises:
            ConfigError: such a scan is listed.
        """
        if _bare(self.tune) in {_bare(name) for name in self.apart}:
            raise ConfigError(f"the corpus tunes on {self.tune}, which it keeps apart for reporting; choose another")
        forbidden = {_bare(name) for name in (*self.apart, self.tune)}
        for entry in self.train:
            if _bare(entry.file) in forbidden:
                raise ConfigError(f"the corpus trains on {entry.file}, which it keeps apart; take it off one list")

    def check_bytes(self, path: Path) -> None:
        """Refuse a file whose bytes are those of a scan that is kept apart, whatever it is called.

        Raises:
            ConfigError: it is one.
        """
        known = {digest: name for name, digest in self.apart.items() if digest}
        if known and (name := known.get(file_sha256(path))):
            raise ConfigError(f"{path.name} is a copy of {name}, which the corpus keeps apart; do not train on it")


def _bare(name: str) -> str:
    return Path(name).name.lower().removesuffix(".gz").removesuffix(".nii")


def load_scans(folder: Path, corpus: Corpus) -> list[TrainingScan]:
    """Read every version of every training scan of a corpus.

    Raises:
        ConfigError: a scan is kept apart, or missing.
    """
    corpus.check_names()
    scans = []
    for entry in corpus.train:
        path = folder / entry.file
        if not path.exists():
            raise ConfigError(f"the corpus lists {entry.file}, which is not in the folder of scans; check --scans")
        if path.is_file():
            corpus.check_bytes(path)
        versions = list(_versions(entry, io.read(path).voxels[0] - entry.offset))
        scans += [TrainingScan(voxels, own, entry.weight / len(versions)) for voxels, own in versions]
    return scans


def _versions(entry: Entry, values: Any) -> Iterator[tuple[Tensor, float]]:
    """Yield a scan's voxels, scaled, pooled and blurred, each with the noise that is left in it."""
    full = bright_scaled(torch.from_numpy(values))
    noise = min(finest_detail(full), _MOST_OWN)
    full = without_floor(full, noise)
    for pool in entry.pools:
        pooled = functional.avg_pool3d(full[None, None], pool)[0, 0]
        if min(pooled.shape) < _SMALLEST:
            continue
        for width in entry.blurs:
            voxels = pooled
            for axis in range(3):
                voxels = blurred(voxels, width, axis)
            # white noise blurred by w voxels keeps (2 sqrt(pi) w)^-1.5 of its standard deviation
            kept = min(1.0, (2 * math.pi**0.5 * width) ** -1.5) if width > 0 else 1.0
            yield voxels.contiguous(), noise / pool**1.5 * kept


def mri_source(folder: Path, corpus: Corpus, seed: int) -> PatchSource:
    """Return the MRI recipe's batches: the corpus's scans and phantoms."""
    phantoms = PhantomBank(seed) if corpus.phantoms > 0 else None
    return PatchSource(load_scans(folder, corpus), phantoms, corpus.phantoms)


def bright_scaled(voxels: Float[Tensor, "I J K"]) -> Float[Tensor, "I J K"]:
    """Scale the 98th percentile of the voxels above a tenth of the maximum to 1; outliers are clipped at 1.6.

    Raises:
        InputError: no voxel is above zero.
    """
    bright = voxels[voxels > 0.1 * voxels.max()]
    if len(bright) == 0 or float(voxels.max()) <= 0:
        raise InputError("a training scan has no voxel above zero; check the file, or its 'offset' in the corpus")
    level = bright.kthvalue(max(1, int(0.98 * bright.numel()))).values
    return (voxels / level).clamp(0, 1.6)


def finest_detail(voxels: Float[Tensor, "I J K"]) -> float:
    """Return the median absolute finest diagonal detail in tissue as a standard deviation: an upper bound of noise."""
    pair = torch.tensor([1.0, -1.0]) / 2**0.5
    kernel = torch.einsum("i,j,k->ijk", pair, pair, pair)[None, None]
    detail = functional.conv3d(voxels[None, None], kernel)[0, 0]
    mean = functional.avg_pool3d(voxels[None, None], 2, stride=1)[0, 0]
    return float(detail[mean > 0.15].abs().median() / 0.6745)


def without_floor(voxels: Float[Tensor, "I J K"], noise: float) -> Float[Tensor, "I J K"]:
    """Return the scan with its noise floor taken out of the air, which a network would otherwise learn to keep.

    The mean magnitude of air is 1.25 ``noise``, not 0. Voxels fade to zero where the mean of 5 x 5 x 5 falls from 3
    to 1.5 times the noise; anatomy so dark is lost with it.
    """
    mean = functional.avg_pool3d(voxels[None, None], 5, stride=1, padding=2, count_include_pad=False)[0, 0]
    return voxels * (mean / (1.5 * max(noise, 1e-9)) - 1).clamp(0, 1)
