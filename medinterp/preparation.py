"""Before a run: output place checked, scans read and named, pipeline built, explanations assembled from the options."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from medinterp import io
from medinterp.attribution.by_name import NamedMethod, parse_measure
from medinterp.bundle import load_pipeline
from medinterp.catalogue import bundle_for, find_bundle
from medinterp.errors import ConfigError, GridMismatch, InputError, OutputError, UnsupportedSeries
from medinterp.explanation import Explanation
from medinterp.export.names import input_name
from medinterp.export.study import StudyFolder
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
    """Read every input; several must share one grid unless resampling is allowed.

    Raises:
        GridMismatch: grids differ and ``resample`` is off.
        UnsupportedSeries: a grid is sheared, so that viewers would show the results out of place.
        InputError: one scan is given twice, which would count its noise as two independent measurements.
    """
    scans = {
        m: io.read(path, series=options.series, frame=options.frame, use_form=options.use_form, force=options.force)
        for m, path in paths.items()
    }
    for name, scan in scans.items():
        _require_perpendicular(name, scan)
    first, *others = scans
    hashes = {m: scan.provenance.source.sha256 for m, scan in scans.items()}
    for number, other in enumerate(others, start=1):
        twin = next((m for m in list(scans)[:number] if hashes[m] == hashes[other]), None)
        if twin is not None:
            raise InputError(f"'{other}' is the same scan as '{twin}'; give each scan once")
        if options.resample:
            continue
        why = scans[first].grid.mismatch(scans[other].grid)
        frames = {scans[first].grid.frame_uid, scans[other].grid.frame_uid}
        if why is None and None not in frames and len(frames) == 2:
            why = "the scanner says that it measured them in different frames of reference"
        if why is not None:
            raise GridMismatch(
                f"'{other}' is on another grid than '{first}': {why}; if both are in the same patient space, allow "
                "interpolation with --resample, else register them first"
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
        ConfigError: sampler and steps do not fit each other.
    """
    pipeline = load_pipeline(folder)
    if hasattr(pipeline.denoiser, "to"):
        pipeline.denoiser.to(device)
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
    return tuple(Explanation(method, locate, measure, options.halo) for locate in located for method in methods)
