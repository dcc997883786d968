"""Before a run: output place checked, scans read and named, pipeline built, explanations assembled from the options."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from medinterp import io
from medinterp.assessment.full import CheckOptions
from medinterp.attribution.by_name import NamedMethod, parse_fuser, parse_measure
from medinterp.bundle import load_pipeline
from medinterp.catalogue import bundle_for, find_bundle
from medinterp.errors import ConfigError, GridMismatch, InputError, OutputError, UnsupportedSeries
from medinterp.explanation import Explanation
from medinterp.export.names import input_name
from medinterp.export.study import StudyFolder
from medinterp.fusion.alignment import Kind
from medinterp.fusion.registration import Registrar
from medinterp.io.transform_files import read_transform
from medinterp.options import RunOptions
from medinterp.pipeline import Pipeline
from medinterp.sampling.samplers import Heun, PosteriorMean, ReverseSDE, Sampler
from medinterp.target_text import parse_target
from medinterp.volume import Volume

Inputs = Mapping[str, str | Path] | str | Path
USUAL_STEPS = 10  # 2 % from the converged image on the linear Gaussian oracle
_SAMPLERS: Mapping[str, type[Sampler]] = {"mean": PosteriorMean, "ode": Heun, "sde": ReverseSDE}


def name_inputs(inputs: Inputs) -> dict[str, Path]:
    """Return paths by names that are safe in file names; a single path is called "scan".

    Raises:
        InputError: there is none.
    """
    if isinstance(inputs, (str, Path)):
        return {input_name(None): Path(inputs)}
    named: dict[str, Path] = {}
    for key, path in inputs.items():
        named[input_name(key, taken=named)] = Path(path)
    if not named:
        raise InputError("no input: expected the path of a scan, or paths by modality name")
    return named


def check_output(output: str | Path, inputs: Mapping[str, Path], options: RunOptions) -> Path:
    """Return the place of the study without links; refuse a bad one before any work is done.

    Raises:
        OutputError: it is taken, cannot be made or written to, lies inside an input folder (the next run would read it
            as a scan), or holds an input that overwriting would delete.
    """
    try:
        place = _real(Path(output).expanduser())
        StudyFolder(place, overwrite=options.overwrite).refuse_bad_destination()
        parent = next(folder for folder in place.parents if folder.exists())
    except (OSError, RuntimeError) as error:  # RuntimeError: ~name of nobody
        why = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"no folder can be made at the output path: {why}; choose another") from error
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{parent} is no folder that may be written to; choose another place for the output")
    for name, path in inputs.items():
        if place.is_relative_to(_real(path)):
            raise OutputError(f"the output folder is, or lies inside, the input '{name}'; choose a folder outside it")
    named = (*options.targets, options.supervoxels, *([] if options.bundle is None else [options.bundle]))
    for path in (*inputs.values(), *map(Path, named)):
        if os.path.exists(path) and _real(path).is_relative_to(place):
            raise OutputError("the output folder holds an input of this run; choose another folder")
    return place


def _real(path: Path) -> Path:
    """Return the path without links; unlike ``Path.resolve`` it takes a circle of links as it is."""
    return Path(os.path.realpath(path))


def read_inputs(paths: Mapping[str, Path], options: RunOptions) -> dict[str, Volume]:
    """Read every input; several must share one grid unless resampling is allowed, or it is said where they lie.

    Raises:
        GridMismatch: grids differ, and neither resampling, registration nor a transform was asked for.
        UnsupportedSeries: a grid is sheared, so that viewers would show the results out of place.
        InputError: one scan is given twice, which would count its noise as two independent measurements.
        ConfigError: one scan, and an option that is about several.
    """
    about_several = {"register": options.register, "transform": options.transforms, "fuser": options.fuser,
                     "ledger": options.ledger}  # fmt: skip
    useless = [option for option, value in about_several.items() if value]
    if useless and len(paths) == 1:
        raise ConfigError(f"--{useless[0]} is about several inputs, and there is one; leave it out, or add t2=PATH")
    scans = {
        m: io.read(path, series=options.series, frame=options.frame, use_form=options.use_form, force=options.force)
        for m, path in paths.items()
    }
    for name, scan in scans.items():
        _require_perpendicular(name, scan)
    first, *others = scans
    hashes = {m: scan.provenance.source.sha256 for m, scan in scans.items()}
    placed = _named_files(options.transforms, "transform")
    for number, other in enumerate(others, start=1):
        twin = next((m for m in list(scans)[:number] if hashes[m] == hashes[other]), None)
        if twin is not None:
            raise InputError(f"'{other}' is the same scan as '{twin}'; give each scan once")
        if options.resample or options.register or other in placed:
            continue
        why = scans[first].grid.mismatch(scans[other].grid)
        frames = {scans[first].grid.frame_uid, scans[other].grid.frame_uid}
        if why is None and None not in frames and len(frames) == 2:
            why = "the scanner says that it measured them in different frames of reference"
        if why is not None:
            raise GridMismatch(
                f"'{other}' is on another grid than '{first}': {why}; if both are in the same patient space, allow "
                "interpolation with --resample, else find where they lie with --register rigid, or give a --transform"
            )
    return scans


def _require_perpendicular(name: str, scan: Volume) -> None:
    """Refuse a sheared grid before the work; the writers would refuse it after."""
    if not scan.grid.is_orthogonal:
        raise UnsupportedSeries(
            f"the voxel axes of '{name}' are not perpendicular (sheared, as from a tilted gantry), and viewers would "
            "show the results out of place; convert the series with dcm2niix, which corrects a tilt, or resample it "
            "onto an orthogonal grid first"
        )


def choose_bundle(options: RunOptions, scans: Mapping[str, Volume]) -> Path:
    """Return the folder of the bundle that was asked for, else of the one for what the scans are."""
    if options.bundle is not None:
        return find_bundle(options.bundle)
    return bundle_for({scan.modality for scan in scans.values()})


def build_pipeline(folder: Path, options: RunOptions, device: torch.device) -> Pipeline:
    """Load a bundle's pipeline and apply the options that change it.

    Raises:
        ConfigError: sampler and steps do not fit each other, or a fuser's option is wrong.
        PluginError: there is no such fuser.
        InputError: a transform or a registration mask cannot be read.
    """
    pipeline = replace(load_pipeline(folder), ledger=options.ledger, trajectory=options.trajectory)
    if hasattr(pipeline.denoiser, "to"):
        pipeline.denoiser.to(device)
    if options.fuser is not None:
        pipeline = replace(pipeline, fuser=parse_fuser(options.fuser))
    if options.register is not None or options.transforms:
        pipeline = replace(pipeline, registrar=build_registrar(options))
    if options.sampler is None and options.steps is None:
        return pipeline
    sampler = pipeline.sampler if options.sampler is None else _SAMPLERS[options.sampler]()
    word = sampler_word(sampler)
    usual = 1 if word == "mean" else USUAL_STEPS
    steps = usual if options.steps is None else options.steps
    if word == "mean" and steps > 1:
        raise ConfigError(f"{steps} steps of the posterior mean, which is one: ask for --sampler ode or sde, or 1 step")
    if word in ("ode", "sde") and steps == 1:
        raise ConfigError(f"1 step of '{word}' is the posterior mean: ask for --sampler mean, or for 2 steps or more")
    return replace(pipeline, sampler=sampler, steps=steps)


def build_registrar(options: RunOptions) -> Registrar:
    """Return what finds the inputs' places; transforms and masks are read here, before any work.

    Raises:
        ConfigError: a text is not NAME=FILE.
        InputError: a file cannot be read.
    """
    transforms = {m: read_transform(p) for m, p in _named_files(options.transforms, "transform").items()}
    masks = {m: io.read(p) for m, p in _named_files(options.register_masks, "register-mask").items()}
    kind: Kind | None = "affine" if options.register == "affine" else "rigid" if options.register else None
    return Registrar(kind, transforms, masks)


def _named_files(texts: Sequence[str], option: str) -> dict[str, Path]:
    """Split NAME=FILE texts; names become those of the inputs.

    Raises:
        ConfigError: a text has another form, or a name is given twice.
    """
    named: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        name = input_name(name)
        if not (equals and path) or name in named:
            raise ConfigError(f"--{option}: expected NAME=FILE with the name of an input, each name once")
        named[name] = Path(path)
    return named


def sampler_word(sampler: Sampler) -> str:
    """Return what users call a sampler; a plug-in's goes by the name of its class."""
    words = (word for word, kind in _SAMPLERS.items() if isinstance(sampler, kind))
    return next(words, type(sampler).__name__)


def build_explanations(options: RunOptions) -> tuple[Explanation, ...]:
    """Combine every target with every method; what is wrong with their texts is said before minutes of denoising.

    Raises:
        ConfigError: a target, a baseline or an option is unknown.
        PluginError: a method or the measure is.
    """
    measure = parse_measure(options.measure)
    methods = [NamedMethod(text, options.baseline, options.supervoxels) for text in dict.fromkeys(options.methods)]
    located = [parse_target(target) for target in dict.fromkeys(options.targets)]
    checks = CheckOptions() if options.certificate == "full" else None
    return tuple(Explanation(method, locate, measure, options.halo, checks) for locate in located for method in methods)


def check_explanations(
    pipeline: Pipeline,
    scans: Mapping[str, Volume],
    explanations: Sequence[Explanation],
    options: RunOptions,
    limit: int,
) -> None:
    """Refuse, before minutes of denoising, what the explanations would be refused for after it.

    A region that is found on the denoised scan, and the memory for a fused image's parts, are left to the run.

    Raises:
        MedinterpError: the explanations do not fit the scans, a region is not on the scan, a method does not apply,
            or a gradient takes more than ``limit`` bytes.
    """
    pipeline.check(scans, explanations, whole=options.whole)
    name, scan = next(iter(scans.items()))
    for explanation in explanations:
        if getattr(explanation.locate, "needs_removed", False):
            continue
        case, halo = pipeline.case(name, scan, explanation, seed=options.seed, whole=options.whole)
        refuse = getattr(case.attributor, "refuse", None)
        if refuse is not None:
            refuse(case.target, case.forward(case.denoiser))
        case.require_memory(halo, limit if len(scans) == 1 else None)
