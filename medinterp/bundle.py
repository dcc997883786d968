"""Bundles: MONAI bundle folders found, checked and turned into a Pipeline; and what MONAI's own tools call."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medinterp import io
from medinterp.errors import BundleError, MedinterpError
from medinterp.noise.masked import silent_where_masked
from medinterp.pipeline import Pipeline, sigma_tensor
from medinterp.registry import provider_packages
from medinterp.volume import Grid, Provenance, Source, Volume

# MONAI is imported where its own tools call: to load it takes longer than to explain a region.


def load_pipeline(folder: Path) -> Pipeline:
    """Build the Pipeline that a bundle's ``pipeline`` key describes, running nothing that is not allowed.

    Unlike ``python -m monai.bundle``, which runs any importable callable and evaluates any ``$`` string, this door
    takes only ``_target_``s that are classes of medinterp, ``monai.networks`` or a package that declares a medinterp
    entry point, ``@`` references and literals.

    Raises:
        BundleError: the configuration is missing, unreadable, or asks for something that is not allowed.
    """
    try:
        config = json.loads((folder / "configs" / "inference.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BundleError(f"configs/inference.json of bundle '{folder.name}' cannot be read: {error}") from error
    if not isinstance(config, dict) or "pipeline" not in config:
        raise BundleError(f"configs/inference.json of bundle '{folder.name}' has no 'pipeline' key")
    config["bundle_root"] = str(folder)
    _check_allowed(config, "pipeline", set(), provider_packages() | {"monai"})
    pipeline = _build(config, "@pipeline", folder, {})
    if not isinstance(pipeline, Pipeline):
        raise BundleError(f"the 'pipeline' key of bundle '{folder.name}' makes a {type(pipeline).__name__}")
    return pipeline


def _build(config: Mapping[str, Any], node: Any, folder: Path, made: dict[str, Any]) -> Any:
    """Return what a checked node describes; what several references name is made once.

    Raises:
        BundleError: a constructor refused its arguments.
    """
    if isinstance(node, str) and node.startswith("@"):
        if node not in made:
            made[node] = _build(config, _node(config, node[1:]), folder, made)
        return made[node]
    if isinstance(node, Mapping):
        parts = {str(k): _build(config, v, folder, made) for k, v in node.items() if k not in ("_target_", "_desc_")}
        return _construct(str(node["_target_"]), parts, folder) if "_target_" in node else parts
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_build(config, part, folder, made) for part in node]
    return node


def _construct(target: str, arguments: Mapping[str, Any], folder: Path) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)(**arguments)
    except MedinterpError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OSError) as error:
        raise BundleError(f"the pipeline of bundle '{folder.name}' cannot be built: {name}: {error}") from error


def _check_allowed(config: Mapping[str, Any], key: str, seen: set[str], allowed: frozenset[str]) -> None:
    """Walk what ``key`` refers to; reject expressions and targets that are not allowed before anything is built."""
    if key in seen:
        return
    seen.add(key)
    node = _node(config, key)
    for text, is_target in _strings(node):
        if is_target:
            _check_target(text, allowed)
        elif "$" in text:
            raise BundleError(f"the bundle holds the expression '{text[:60]}': medinterp does not evaluate '$' strings")
        elif "@" in text:
            if not text.startswith("@"):
                raise BundleError(f"the bundle mixes a reference into text, '{text[:60]}': use a whole '@name'")
            _check_allowed(config, text[1:], seen, allowed)
        elif text.startswith("%"):
            raise BundleError(f"the bundle includes another file, '{text[:60]}': medinterp does not follow '%' macros")


def _node(config: Mapping[str, Any], key: str) -> Any:
    """Return what a reference such as "network_def::widths::0" points to."""
    node: Any = config
    for part in key.split("::"):
        try:
            node = node[int(part)] if isinstance(node, Sequence) else node[part]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise BundleError(f"the bundle refers to '@{key}', which its configuration does not define") from error
    return node


def _strings(node: Any) -> Iterator[tuple[str, bool]]:
    if isinstance(node, str):
        yield node, False
    elif isinstance(node, Mapping):
        for name, value in node.items():
            if name == "_target_":
                yield str(value), True
            elif name in ("_mode_", "_wrapper_", "_requires_", "_disabled_"):
                raise BundleError(f"the bundle uses '{name}', which this door does not allow")
            else:
                yield from _strings(value)
    elif isinstance(node, Sequence):
        for value in node:
            yield from _strings(value)


def _check_target(target: str, allowed: frozenset[str]) -> None:
    module, _, name = target.rpartition(".")
    # look at the package before importing: importing is already running code
    if module.split(".")[0] not in allowed or (module.startswith("monai") and "networks" not in module):
        known = ", ".join(sorted(allowed - {"monai"}))
        raise BundleError(f"the bundle asks for '{target}'; allowed are classes of {known} and monai.networks")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BundleError(f"the bundle asks for '{target}', which cannot be imported: {error}") from error
    home = found.__module__ if isinstance(found, type) else ""
    # the class's own module, not the string: 'medinterp.x.os.system' must not pass
    if not (home.split(".")[0] in allowed - {"monai"} or home.startswith("monai.networks.")):
        raise BundleError(
            f"the bundle asks for '{target}', which is not a class of medinterp, a plugin or monai.networks"
        )


class LoadVolume:
    """MONAI transform: read a scan with medinterp's readers into a MetaTensor (C, I, J, K) with its RAS affine."""

    def __init__(self, key: str = "image") -> None:
        self.key = key

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the path under the key by the image; the Volume's modality and unit go into its meta."""
        from monai.data import MetaTensor

        volume = io.read(Path(item[self.key]))
        meta = {"modality": volume.modality, "unit": volume.unit}
        image = MetaTensor(
            torch.from_numpy(volume.voxels.copy()), affine=torch.from_numpy(volume.grid.affine.copy()), meta=meta
        )
        return {**item, self.key: image}


def list_scans(folder: str) -> list[dict[str, str]]:
    """Return MONAI's data list for a dataset folder: NIfTI files, and sub-folders as DICOM series."""
    root = Path(folder)
    entries = sorted(root.iterdir()) if root.is_dir() else [root]
    scans = [p for p in entries if p.is_dir() or p.name.endswith((".nii", ".nii.gz"))]
    return [{"image": str(path)} for path in (scans or [root])]


class PipelineInferer:
    """MONAI inferer that calls the Pipeline: estimates the noise of each scan, then denoises it.

    Args:
        pipeline: what to run.
        seed: seed of the sampler.
    """

    def __init__(self, pipeline: Pipeline, seed: int = 0) -> None:
        self.pipeline = pipeline
        self.seed = seed

    def __call__(self, inputs: Tensor, network: nn.Module | None = None, *_: Any, **__: Any) -> Tensor:
        """Return the denoised images (B, C, I, J, K), with the geometry of ``inputs`` kept."""
        from monai.utils import convert_to_dst_type

        outputs = [self._one(sample) for sample in inputs]
        return convert_to_dst_type(torch.stack(outputs), dst=inputs)[0]

    def _one(self, sample: Tensor) -> Tensor:
        from monai.data import MetaTensor

        affine = sample.affine.numpy() if isinstance(sample, MetaTensor) else torch.eye(4, dtype=torch.float64).numpy()
        meta = sample.meta if isinstance(sample, MetaTensor) else {}
        shape = (int(sample.shape[1]), int(sample.shape[2]), int(sample.shape[3]))
        values = torch.as_tensor(sample).detach().cpu().numpy()
        modality, unit = str(meta.get("modality", "MR")), str(meta.get("unit", "a.u."))
        volume = Volume(values, Grid(shape, affine), unit, modality, Provenance(Source("memory")))
        image = torch.as_tensor(volume.voxels.copy(), device=sample.device)[None]
        noise = silent_where_masked(self.pipeline.estimator(volume), volume)
        level = sigma_tensor(noise, image)
        return self.pipeline.told(noise).denoise(image, level, seed=self.seed, graph=torch.is_grad_enabled())[0]
