"""The command line's options, in groups that several commands share; each is declared here once."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from medinterp.cli_progress import ProgressKind
from medinterp.feature_options import FeatureOptions
from medinterp.options import RunOptions


class FeatureKind(str, Enum):
    """The kinds of looks inside the network."""

    activations = "activations"
    pca = "pca"
    nmf = "nmf"
    concepts = "concepts"
    stimulus = "stimulus"


class OrientationForm(str, Enum):
    """The two orientations of a NIfTI file."""

    qform = "qform"
    sform = "sform"


@dataclass(frozen=True)
class Measuring:
    """What is measured."""

    targets: Annotated[
        list[str] | None,
        typer.Option("--target", help="sphere:X,Y,Z,R or voxel:X,Y,Z in RAS mm, a mask file, or auto; repeatable."),
    ] = None
    measure: Annotated[
        str,
        typer.Option(help="What to measure there: mean, contrast (to the ring around), edge_sharpness, ..."),
    ] = RunOptions.measure


@dataclass(frozen=True)
class Explaining(Measuring):
    """What is explained."""

    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Attribution method ('medinterp info' lists them), name or name:option=value; repeatable.",
        ),
    ] = None
    baseline: Annotated[
        str | None,
        typer.Option(
            help="What stands for absence: noise_resampled, blurred, local_mean, inpainted, zero or ray. "
            "[default: the method's own]"
        ),
    ] = RunOptions.baseline
    supervoxels: Annotated[
        str, typer.Option(help="Regions of occlusion-like methods: slic:size_mm=10, blocks, shells, or an atlas file.")
    ] = RunOptions.supervoxels
    halo: Annotated[
        int | None, typer.Option(help="Voxels of context instead of all that matter; the error is measured.")
    ] = None
    certificate: Annotated[
        str,
        typer.Option(help="basic, or full: repeats over new noise, deletion curves, predictions, random layers too."),
    ] = RunOptions.certificate


@dataclass(frozen=True)
class Sampling:
    """How the scan is denoised."""

    sampler: Annotated[
        str | None,
        typer.Option(
            help="mean (posterior mean), ode (natural texture) or sde (a posterior sample). [default: the bundle's]"
        ),
    ] = None
    steps: Annotated[
        int | None, typer.Option(help="Steps of the reverse diffusion. [default: 1 for mean, 10 for ode and sde]")
    ] = None
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Keep the states from scan to image, for viewers to step through.")
    ] = False


class RegistrationKind(str, Enum):
    """What a registration may do to a scan."""

    rigid = "rigid"
    affine = "affine"


@dataclass(frozen=True)
class Fusing:
    """How several scans are joined."""

    resample: Annotated[
        bool, typer.Option("--resample", help="Allow inputs on different grids of one patient space to be fused.")
    ] = False
    register: Annotated[
        RegistrationKind | None,
        typer.Option(help="Find where the other inputs lie in the first one's space, by mutual information."),
    ] = None
    transforms: Annotated[
        list[str] | None,
        typer.Option("--transform", help="Where an input lies, if known: NAME=FILE (.tfm, .h5, 4x4 text); repeatable."),
    ] = None
    register_masks: Annotated[
        list[str] | None,
        typer.Option("--register-mask", help="Where registration looks: NAME=FILE, a mask; repeatable."),
    ] = None
    fuser: Annotated[
        str | None,
        typer.Option(help="variance_weighted or gradient_domain, with options. [default: the bundle's]"),
    ] = None
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Share the fused image among the inputs exactly, voxel by voxel.")
    ] = False


@dataclass(frozen=True)
class Reading:
    """Which part of the input is read."""

    series: Annotated[int | None, typer.Option(help="Which series of a DICOM folder, from 1.")] = None
    frame: Annotated[int | None, typer.Option(help="Which time point of a 4D scan, from 0.")] = None
    use_form: Annotated[
        OrientationForm | None,
        typer.Option("--use", help="Which of a NIfTI file's two orientations, where they disagree."),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Also read DICOM files that lack the preamble.")] = False


@dataclass(frozen=True)
class Modelling:
    """What it is computed with."""

    bundle: Annotated[
        str | None,
        typer.Option(help="Bundle name or folder ('medinterp info' lists them). [default: by modality]"),
    ] = RunOptions.bundle
    seed: Annotated[int, typer.Option(help="Seed of every random number.")] = RunOptions.seed
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or mps; absent is an error.")] = RunOptions.device
    max_memory_gb: Annotated[
        float | None,
        typer.Option("--max-memory", help="Memory the computation may take, in GB; larger scans are tiled, exactly."),
    ] = None


@dataclass(frozen=True)
class Computing(Modelling):
    """How it is computed."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan (tiles, memory, time) and stop.")] = False


@dataclass(frozen=True)
class Featuring:
    """What is looked at inside the network."""

    kind: Annotated[
        FeatureKind, typer.Option(help="Activations, their components (pca, nmf), concepts, or a stimulus.")
    ] = FeatureKind.activations
    block: Annotated[
        str | None, typer.Option(help="Name of a block, see --list-blocks. [default: the last of the coarsest level]")
    ] = FeatureOptions.block
    call: Annotated[int, typer.Option(help="Which run of a block that runs several times, -1 for the last.")] = (
        FeatureOptions.call
    )
    channels: Annotated[
        list[int] | None,
        typer.Option("--channel", help="Channel of the block, from 0; repeatable. [default: those that stand out]"),
    ] = None
    count: Annotated[int, typer.Option(help="How many channels or components.")] = FeatureOptions.count
    concepts: Annotated[
        list[str] | None, typer.Option("--concept", help="NAME=FILE, a mask on the scan's grid; repeatable.")
    ] = None
    within: Annotated[
        str | None, typer.Option(help="Mask of what concepts are compared with, such as the head without air.")
    ] = FeatureOptions.within
    margin_mm: Annotated[
        float, typer.Option(help="With a target: how far around it activations and components are made.")
    ] = FeatureOptions.margin_mm
    permutations: Annotated[int, typer.Option(help="Random places of each concept.")] = FeatureOptions.permutations
    size: Annotated[int, typer.Option(help="Edge of a stimulus in voxels.")] = FeatureOptions.size
    ascent_steps: Annotated[int, typer.Option(help="Steps towards a stimulus.")] = FeatureOptions.ascent_steps


@dataclass(frozen=True)
class Replacing:
    """What may be replaced."""

    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing study folder.")] = False


@dataclass(frozen=True)
class Writing(Replacing):
    """What is written."""

    export: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="nifti, slicer, dicom, report, ... ('medinterp info' lists all), a comma between. [default: usual]",
        ),
    ] = None
    deidentify: Annotated[
        bool,
        typer.Option("--deidentify", help="Remove patient identifiers (DICOM Basic Profile); faces stay, see docs."),
    ] = False


@dataclass(frozen=True)
class Showing:
    """What is shown."""

    progress: Annotated[ProgressKind, typer.Option(help="bar, json (one line an event) or none.")] = ProgressKind.bar
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Turn every parameter that is an option group into one option per field, under a heading in the help.

    typer reads the options from a function's signature; the groups let commands share them without repeating them.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint) and isinstance(hint, type)}
    shared = [parameter for group in groups.values() for parameter in _parameters(group)]
    own = [p for name, p in inspect.signature(command).parameters.items() if name not in groups]

    @wraps(command)
    def flat(**values: Any) -> None:
        built = {name: group(**{f.name: values.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        command(**values, **built)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    return flat


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    heading = inspect.cleandoc(group.__doc__ or "").rstrip(".")
    found = []
    for field in fields(group):
        hint = hints[field.name]
        hint.__metadata__[0].rich_help_panel = heading
        found.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hint)
        )
    return found


def chosen_options(*groups: object, **fixed: Any) -> Mapping[str, Any]:
    """Return the fields of an options class that a command line sets; what was not given keeps its default."""
    given = {f.name: getattr(group, f.name) for group in groups for f in fields(group)}  # type: ignore[arg-type]
    set_by_user = {name: _plain(value) for name, value in given.items() if value is not None and value != []}
    return set_by_user | fixed


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return tuple(value) if isinstance(value, list) else value
