"""The application: read inputs, run the pipeline, write the study; every door (CLI, Python, MONAI) ends here."""

import logging
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from medinterp import io
from medinterp.assessment.structure import most_structured_removal
from medinterp.bundle import load_pipeline
from medinterp.catalogue import find_bundle, versions
from medinterp.denoisers.tiled import BYTES_PER_VOXEL
from medinterp.errors import ConfigError, DeviceError, GridMismatch
from medinterp.explanation import Explanation
from medinterp.export.names import input_name
from medinterp.export.results import RunFacts, write_study
from medinterp.io.nifti_header import Form
from medinterp.pipeline import Pipeline
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.registry import load as load_plugin
from medinterp.results import Result
from medinterp.sampling.samplers import Heun, PosteriorMean, ReverseSDE, Sampler
from medinterp.volume import Region, Volume, region_from_mask, sphere, voxel

logger = logging.getLogger(__name__)

SAMPLERS: Mapping[str, type[Sampler]] = {"mean": PosteriorMean, "ode": Heun, "sde": ReverseSDE}
AUTO_RADIUS_MM = 5.0
_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"


@dataclass(frozen=True)
class RunOptions:
    """What a user can choose; the command line's options are these.

    Args:
        bundle: name or folder.
        targets: "sphere:X,Y,Z,R", "voxel:X,Y,Z" (RAS mm), a mask file, or "auto" (where the model took most away).
        methods: attribution methods, each applied to every target.
        measure: "mean" or "contrast".
        halo: voxels of context in an explanation instead of all that matter.
        sampler: "mean", "ode" or "sde".
        steps: steps of the reverse diffusion.
        series: which series of a DICOM folder, from 1.
        frame: which time point of a 4D scan, from 0.
        use_form: "qform" or "sform" where a NIfTI file's disagree.
        force: also read DICOM files that lack the preamble.
        resample: allow inputs on different grids to be fused on the first one's.
        seed: of every random number.
        device: torch device.
        max_memory_gb: memory the computation may take; the default is three quarters of what is free.
        overwrite: replace an existing study folder.
        dry_run: only plan (the command line's; ``run`` ignores it).
        whole: denoise the whole volume; without it only the targets are explained, each on the crop that matters.
    """

    bundle: str = "mri_denoise"
    targets: tuple[str, ...] = ("auto",)
    methods: tuple[str, ...] = ("input_x_gradient",)
    measure: str = "mean"
    halo: int | None = None
    sampler: str = "mean"
    steps: int = 1
    series: int | None = None
    frame: int | None = None
    use_form: Form | None = None
    force: bool = False
    resample: bool = False
    seed: int = 0
    device: str = "cpu"
    max_memory_gb: float | None = None
    overwrite: bool = False
    dry_run: bool = False
    whole: bool = True


@dataclass(frozen=True)
class Study:
    """A finished study folder and the result it was written from."""

    folder: Path
    result: Result
    facts: RunFacts

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        lines = []
        for name, one in self.result.inputs.items():
            noise = one.noise
            lines.append(
                f"{name}: noise {noise.sigma:.4g} {one.scan.unit} ({noise.model}, 95 % interval {noise.low:.4g} to "
                f"{noise.high:.4g})"
            )
            if one.scan.modality not in self.facts.trained_on:
                lines.append(f"{name}: this prior was not trained on {one.scan.modality}; treat the result as a trial")
        for explained in self.result.explanations:
            residual = max(a.residual for a in explained.attributions.values())
            lines.append(
                f"{explained.measure} of {explained.region.name}: {explained.value_before:.5g} before, "
                f"{explained.value_after:.5g} after denoising ({explained.unit}); {explained.method}, "
                f"completeness residual {residual:.1e}"
            )
        seconds, peak = self.facts.seconds["total"], self.facts.peak_memory_gb
        lines.append(f"{seconds:.1f} s, peak memory {peak:.2f} GB. For research use only, not for diagnosis.")
        places = [("report", "report.html"), ("3D Slicer", "slicer"), ("volumes", "nifti"), ("DICOM", "dicom")]
        lines += [f"{label:<10}{self.folder / place}" for label, place in places if (self.folder / place).exists()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Plan:
    """What a run would do: tiles, memory and denoiser evaluations, before any of it is done."""

    shapes: Mapping[str, tuple[int, int, int]]
    tiles: Mapping[str, tuple[int, int, int] | None]
    peak_gb: float
    seconds: float

    def describe(self) -> str:
        """Return the plan as text."""
        lines = [
            f"{m}: {' x '.join(map(str, shape))} voxels, "
            + ("in one piece" if self.tiles[m] is None else f"in tiles of {' x '.join(map(str, self.tiles[m] or ()))}")
            for m, shape in self.shapes.items()
        ]
        return "\n".join([*lines, f"peak memory about {self.peak_gb:.1f} GB, denoising about {self.seconds:.0f} s"])


def run(
    inputs: Mapping[str, str | Path] | str | Path,
    output: str | Path,
    *,
    options: RunOptions | None = None,
    on_step: OnStep = ignore,
    **changes: Any,
) -> Study:
    """Denoise, fuse and explain scans, and write the study folder.

    Args:
        inputs: a path, or paths by modality name ({"t1": ..., "t2": ...}); NIfTI files or DICOM folders.
        output: folder to make.
        options: everything that can be chosen; single fields may be given as keywords instead.
        on_step: progress callback.
        **changes: fields of RunOptions.

    Raises:
        MedinterpError: see ``medinterp.errors``; nothing half-written is left in ``output``.
    """
    chosen = replace(options or RunOptions(), **changes)
    begun = time.perf_counter()
    named = name_inputs(inputs)
    device = check_device(chosen.device)
    folder = find_bundle(chosen.bundle)
    on_step(StepInfo("read", 0, len(named)))
    scans = read_inputs(named, chosen)
    on_step(StepInfo("read", len(named), len(named)))
    pipeline = build_pipeline(folder, chosen, device)
    explanations = build_explanations(pipeline, chosen, next(iter(scans.values())))
    loaded = time.perf_counter() - begun
    result = pipeline.run(
        scans,
        explanations,
        seed=chosen.seed,
        device=str(device),
        max_voxels=voxel_budget(chosen),
        whole=chosen.whole,
        on_step=on_step,
    )
    facts = RunFacts(
        bundle=folder.name,
        weights_sha256=str(getattr(pipeline.denoiser, "weights_sha256", "")),
        trained_on=tuple(pipeline.modalities),
        parameters={k: v for k, v in asdict(chosen).items() if k not in ("targets", "overwrite", "dry_run")}
        | {"targets": [_without_path(t) for t in chosen.targets]},
        versions=versions(),
        seconds={"load": loaded, **result.seconds, "total": time.perf_counter() - begun},
        peak_memory_gb=peak_memory_gb(),
    )
    on_step(StepInfo("export", 0, 1))
    written = write_study(result, facts, Path(output), overwrite=chosen.overwrite, on_step=on_step)
    on_step(StepInfo("export", 1, 1))
    return Study(written, result, facts)


def name_inputs(inputs: Mapping[str, str | Path] | str | Path) -> dict[str, Path]:
    """Return paths by names that are safe in file names; a single path is called "scan"."""
    if isinstance(inputs, (str, Path)):
        return {input_name(None): Path(inputs)}
    named: dict[str, Path] = {}
    for key, path in inputs.items():
        named[input_name(key, taken=named)] = Path(path)
    return named


def run_bundle(bundle_root: str, scan: str, output: str, **options: Any) -> Study:
    """Run a bundle from ``python -m monai.bundle run``: the same path with the bundle's own configuration."""
    listed = {name: tuple(value) for name, value in options.items() if name in ("targets", "methods")}
    return run(scan, output, bundle=bundle_root, **(options | listed))


def plan(inputs: Mapping[str, str | Path] | str | Path, options: RunOptions) -> Plan:
    """Say what a run would do and cost, from the inputs' headers and one small probe of the network."""
    device = check_device(options.device)
    scans = read_inputs(name_inputs(inputs), options)
    pipeline = build_pipeline(find_bundle(options.bundle), options, device)
    budget = voxel_budget(options)
    tiles = {m: pipeline.tile(scan.grid.shape, budget) for m, scan in scans.items()}
    probe = torch.zeros(1, 1, 64, 64, 64, device=device)
    begun = time.perf_counter()
    with torch.no_grad():
        pipeline.denoise(probe, torch.ones(1, 1, 1, 1, 1, device=device), seed=0)
    per_voxel = (time.perf_counter() - begun) / probe.numel()
    voxels = {m: scan.voxels.size for m, scan in scans.items()}
    at_once = max(min(n, budget or n) for n in voxels.values())
    return Plan(
        {m: scan.grid.shape for m, scan in scans.items()},
        tiles,
        peak_memory_gb() + at_once * BYTES_PER_VOXEL / 1e9,
        per_voxel * sum(voxels.values()),
    )


def read_inputs(paths: Mapping[str, Path], options: RunOptions) -> dict[str, Volume]:
    """Read every input; several must share one grid unless resampling is allowed.

    Raises:
        GridMismatch: grids differ and ``resample`` is off.
    """
    scans = {
        m: io.read(path, series=options.series, frame=options.frame, use_form=options.use_form, force=options.force)
        for m, path in paths.items()
    }
    first, *others = scans
    for other in others:
        why = scans[first].grid.mismatch(scans[other].grid)
        if why is not None and not options.resample:
            raise GridMismatch(
                f"'{other}' is on another grid than '{first}': {why}; if both are in the same patient space, allow "
                "interpolation with --resample, else register them first"
            )
    return scans


def build_pipeline(folder: Path, options: RunOptions, device: torch.device) -> Pipeline:
    """Load a bundle's pipeline and apply the options that change it.

    Raises:
        ConfigError: the sampler is unknown.
    """
    if options.sampler not in SAMPLERS:
        raise ConfigError(f"no sampler '{options.sampler}': choose {', '.join(SAMPLERS)}")
    pipeline = load_pipeline(folder)
    if hasattr(pipeline.denoiser, "to"):
        pipeline.denoiser.to(device)
    if options.sampler != "mean" or options.steps != 1:
        pipeline = replace(pipeline, sampler=SAMPLERS[options.sampler](), steps=options.steps)
    return pipeline


def build_explanations(pipeline: Pipeline, options: RunOptions, reference: Volume) -> tuple[Explanation, ...]:
    """Combine every target with every method."""
    found = []
    for target in options.targets:
        locate = parse_target(target, pipeline, options)
        for method in options.methods:
            attributor = load_plugin("attributors", method)
            spaced = {"spacing_mm": reference.grid.spacing_mm} if method == "equivalent_filter" else {}
            found.append(Explanation(attributor(**spaced), locate, options.measure, options.halo))
    return tuple(found)


def parse_target(text: str, pipeline: Pipeline, options: RunOptions) -> Callable[..., Region]:
    """Turn the text of a target into a function that finds its region on a scan.

    Raises:
        ConfigError: the text is none of the known forms.
    """
    kind, _, rest = text.partition(":")
    numbers = [float(n) for n in rest.split(",")] if re.fullmatch(rf"{_NUMBER}(,{_NUMBER})*", rest) else []
    if kind == "sphere" and len(numbers) == 4:
        return partial(_locate_sphere, (numbers[0], numbers[1], numbers[2]), numbers[3])
    if kind == "voxel" and len(numbers) == 3:
        return partial(_locate_voxel, (numbers[0], numbers[1], numbers[2]))
    if text == "auto":
        return most_structured_removal(radius_mm=AUTO_RADIUS_MM)
    if kind in ("sphere", "voxel"):
        raise ConfigError(f"target '{text}': expected sphere:X,Y,Z,R or voxel:X,Y,Z with numbers in RAS mm")
    if not Path(text).exists():
        raise ConfigError("the target is neither sphere:X,Y,Z,R, voxel:X,Y,Z, auto nor an existing mask file")
    return partial(_locate_mask, io.read(Path(text)))


def _locate_sphere(
    centre_mm: tuple[float, float, float], radius_mm: float, scan: Volume, _removed: Volume | None
) -> Region:
    return sphere(scan.grid, centre_mm, radius_mm)


def _locate_voxel(point_mm: tuple[float, float, float], scan: Volume, _removed: Volume | None) -> Region:
    return voxel(scan.grid, point_mm)


def _locate_mask(mask: Volume, scan: Volume, _removed: Volume | None) -> Region:
    return region_from_mask(mask, scan)


def _without_path(target: str) -> str:
    return target if target.startswith(("sphere:", "voxel:")) or target == "auto" else "mask file"


def check_device(name: str) -> torch.device:
    """Return the device that was asked for; there is no silent fallback.

    Raises:
        DeviceError: it is unknown or absent.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"no device '{name}': choose cpu, cuda, cuda:N or mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise DeviceError(f"device '{name}' was asked for and is absent on this machine; use --device cpu")
    return device


def voxel_budget(options: RunOptions) -> int:
    """Return how many voxels the network may see at once within the memory limit.

    Raises:
        DeviceError: the limit is below what one tile needs.
    """
    if options.max_memory_gb is None:
        usable = 0.75 * psutil.virtual_memory().available
    else:
        usable = options.max_memory_gb * 1e9 - psutil.Process().memory_info().rss
    budget = int(usable / BYTES_PER_VOXEL)
    if budget < 64**3:
        raise DeviceError(
            f"{usable / 1e9:.2f} GB are left for the computation, which is less than one 64x64x64 tile needs "
            f"({64**3 * BYTES_PER_VOXEL / 1e9:.2f} GB); raise --max-memory or free memory"
        )
    return budget


def peak_memory_gb() -> float:
    """Return the largest resident memory of this process so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
