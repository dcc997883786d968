"""Training recipes by name, and what each device can do in its time."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medinterp.errors import BundleError, ConfigError
from medinterp.training.growth import Size
from medinterp.training.scans import Corpus
from medinterp.training.simulate import BatchSource

RECIPES: Mapping[str, str] = MappingProxyType(
    {"mri": "medinterp.training.scans:mri_source", "ct": "medinterp.training.ct:ct_source"}
)
"""Where each recipe's batches come from: a function of (folder, corpus, seed) that returns a ``BatchSource``."""

LEARNING_RATE = 6e-4
"""Muon's, and Adam's, at the start. At 4e-4 in both, 100 steps of Muon beat Adam by 0.03 to 0.05 of the loss."""


@dataclass(frozen=True)
class Preset:
    """What a kind of device can do.

    Args:
        minutes: wall-clock budget.
        batch: samples a step.
        patch_sizes: edges in voxels, growing over the budget.
        size: the network, None for the bundle's own.
        workers: processes that draw batches.
    """

    minutes: float
    batch: int
    patch_sizes: tuple[int, ...]
    size: Size | None
    workers: int


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "cpu": Preset(120.0, 2, (40, 48, 48, 48), None, 1),
        "cuda": Preset(28.0, 16, (48, 48, 64, 64), Size((96, 96, 128), (3, 2, 2)), 12),
    }
)
"""Two CPU cores in two hours; one large GPU in half an hour, with the largest network of 15 MB in float16."""


def preset(device: str) -> Preset:
    """Return the preset of a device's kind; other accelerators than CUDA take the CPU's."""
    return PRESETS.get(device.split(":")[0], PRESETS["cpu"])


def corpus_of(bundle: Path, corpus: str | None) -> Corpus:
    """Read a corpus file, by default the bundle's own ``configs/corpus.json``."""
    return Corpus.load(Path(corpus) if corpus else bundle / "configs" / "corpus.json")


def make_source(
    folder: str, bundle_root: str, recipe: str = "mri", corpus: str | None = None, seed: int = 0
) -> BatchSource:
    """Return a recipe's batches.

    Args:
        folder: what the corpus's file names are relative to.
        bundle_root: the bundle, for its corpus.
        recipe: one of ``RECIPES``.
        corpus: another corpus file.
        seed: of the synthetic anatomy.

    Raises:
        ConfigError: no such recipe, or one whose module is not installed.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"no recipe '{recipe}'; known are {', '.join(RECIPES)}")
    module, _, name = RECIPES[recipe].partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(f"the recipe '{recipe}' needs {module}.{name}, which is not installed: {error}") from error
    source: BatchSource = make(Path(folder), corpus_of(Path(bundle_root), corpus), seed)
    return source


def network_size(bundle: Path) -> Size:
    """Return the size of a bundle's ``BiasFreeUNet``.

    Raises:
        BundleError: its network is another kind.
    """
    try:
        described = read_config(bundle / "configs" / "inference.json")["network_def"]
        target = described["_target_"]
        size = Size(tuple(described["widths"]), tuple(described["blocks"]))
    except (KeyError, TypeError) as error:
        raise BundleError(f"bundle '{bundle.name}' describes no BiasFreeUNet: {error} is missing") from error
    if not target.endswith(".BiasFreeUNet"):
        raise BundleError(
            f"bundle '{bundle.name}' trains a {target}; use 'python -m monai.bundle run' with its configs/train.json"
        )
    return size


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON configuration.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path.parent.name}/{path.name} of the bundle cannot be read: {error}") from error
    return found
