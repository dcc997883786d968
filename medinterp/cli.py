"""The command line: typer commands that parse, call app, and print; the only file that prints."""

import json
import logging
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Optional

import typer

from medinterp import __version__
from medinterp.errors import ConfigError, InputError, MedinterpError
from medinterp.progress import OnStep, StepInfo, ignore

DISCLAIMER = "For research use only. Not for diagnosis."
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="medinterp",
    help=f"Denoise MRI and CT volumes with 3D diffusion models and explain every measurement on them. {DISCLAIMER}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Progress(str, Enum):
    """How progress is shown."""

    bar = "bar"
    json = "json"
    none = "none"


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT...", help="A NIfTI file or DICOM folder; several as t1=PATH t2=PATH.")
]
OnePath = Annotated[str, typer.Argument(metavar="PATH", help="A NIfTI file or a DICOM folder.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Study folder to make; must not exist or be empty.")]
Bundle = Annotated[str, typer.Option(help="Bundle name or folder ('medinterp info' lists them).")]
Targets = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer on Python 3.10
    typer.Option("--target", help="sphere:X,Y,Z,R or voxel:X,Y,Z in RAS mm, a mask file, or auto. May be repeated."),
]
Methods = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--method", help="Attribution method ('medinterp info' lists them). May be repeated."),
]
Measure = Annotated[str, typer.Option(help="What to measure in the region: mean, or contrast to the ring around it.")]
Halo = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Explain with this many voxels of context instead of all that matter; its error is measured."),
]
Steps = Annotated[int, typer.Option(min=1, help="Steps of the reverse diffusion; 1 is the posterior mean.")]
Sampler = Annotated[str, typer.Option(help="mean (posterior mean), ode (natural texture) or sde (a posterior sample).")]
Series = Annotated[Optional[int], typer.Option(help="Which series of a DICOM folder, from 1.")]  # noqa: UP045
Frame = Annotated[Optional[int], typer.Option(help="Which time point of a 4D scan, from 0.")]  # noqa: UP045
UseForm = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--use", help="qform or sform, where a NIfTI file's two orientations disagree."),
]
Force = Annotated[bool, typer.Option("--force", help="Also read DICOM files that lack the preamble.")]
Resample = Annotated[bool, typer.Option("--resample", help="Allow inputs on different grids to be fused.")]
Seed = Annotated[int, typer.Option(help="Seed of every random number.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N or mps; absent is an error.")]
MaxMemory = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Memory the computation may take, in GB; larger scans are tiled, exactly."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan (tiles, memory, time) and stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing study folder.")]
ProgressOption = Annotated[Progress, typer.Option(help="bar, json (one line an event) or none.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def _errors(*, debug: bool) -> Iterator[None]:
    """Turn the error tree into one readable line and an exit code."""
    try:
        yield
    except MedinterpError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"medinterp: error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("medinterp: interrupted; nothing was left in the output folder", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


@contextmanager
def _progress(kind: Progress) -> Iterator[OnStep]:
    if kind is Progress.none:
        yield ignore
    elif kind is Progress.json:
        yield lambda info: typer.echo(
            json.dumps({"stage": info.stage, "done": info.done, "total": info.total, "detail": info.detail}), err=True
        )
    else:
        with _bar() as on_step:
            yield on_step


@contextmanager
def _bar() -> Iterator[OnStep]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<28}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        tasks: dict[str, TaskID] = {}

        def on_step(info: StepInfo) -> None:
            if info.stage not in tasks:
                tasks[info.stage] = bar.add_task(info.stage, total=max(1, info.total))
            label = f"{info.stage} {info.detail}".strip()
            bar.update(tasks[info.stage], completed=info.done, total=max(1, info.total), description=label)

        yield on_step


def _parse_inputs(inputs: list[str]) -> dict[str, Path]:
    parsed: dict[str, Path] = {}
    for number, text in enumerate(inputs, start=1):
        name, equals, path = text.partition("=")
        if not equals or not name.isidentifier():
            name, path = ("scan" if len(inputs) == 1 else f"scan{number}"), text
        if name in parsed:
            raise InputError(f"two inputs are named '{name}'; give each its own name, such as t1=PATH t2=PATH")
        parsed[name] = Path(path)
    return parsed


def _run(inputs: dict[str, Path], output: Path, *, progress: Progress, debug: bool, **options: Any) -> None:
    with _errors(debug=debug):
        from medinterp import app as application  # torch is loaded here, not for --help

        chosen = application.RunOptions(**options)
        if chosen.dry_run:
            typer.echo(application.plan(inputs, chosen).describe())
            return
        with _progress(progress) as on_step:
            study = application.run(inputs, output, options=chosen, on_step=on_step)
        typer.echo(study.summary())


@app.command()
def run(
    inputs: Inputs,
    output: Output,
    bundle: Bundle = "mri_denoise",
    target: Targets = None,
    method: Methods = None,
    measure: Measure = "mean",
    halo: Halo = None,
    sampler: Sampler = "mean",
    steps: Steps = 1,
    series: Series = None,
    frame: Frame = None,
    use_form: UseForm = None,
    force: Force = False,
    resample: Resample = False,
    seed: Seed = 0,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    progress: ProgressOption = Progress.bar,
    debug: Debug = False,
) -> None:  # one parameter per option is how typer declares them
    """Denoise scans, fuse several, explain a measurement, and write the study folder."""
    with _errors(debug=debug):
        named = _parse_inputs(inputs)
    _run(
        named, output, progress=progress, debug=debug, bundle=bundle, targets=tuple(target or ("auto",)),
        methods=tuple(method or ("input_x_gradient",)), measure=measure, halo=halo, sampler=sampler, steps=steps,
        series=series, frame=frame, use_form=use_form, force=force, resample=resample, seed=seed, device=device,
        max_memory_gb=max_memory, dry_run=dry_run, overwrite=overwrite,
    )  # fmt: skip


@app.command()
def denoise(
    path: OnePath,
    output: Output,
    bundle: Bundle = "mri_denoise",
    sampler: Sampler = "mean",
    steps: Steps = 1,
    series: Series = None,
    frame: Frame = None,
    use_form: UseForm = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    progress: ProgressOption = Progress.bar,
    debug: Debug = False,
) -> None:
    """Denoise one scan and write the study folder, without an explanation."""
    _run(
        {"scan": Path(path)}, output, progress=progress, debug=debug, bundle=bundle, targets=(), methods=(),
        sampler=sampler, steps=steps, series=series, frame=frame, use_form=use_form, force=force, seed=seed,
        device=device, max_memory_gb=max_memory, dry_run=dry_run, overwrite=overwrite,
    )  # fmt: skip


@app.command()
def explain(
    path: OnePath,
    output: Output,
    target: Targets = None,
    method: Methods = None,
    bundle: Bundle = "mri_denoise",
    measure: Measure = "mean",
    halo: Halo = None,
    series: Series = None,
    frame: Frame = None,
    use_form: UseForm = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    progress: ProgressOption = Progress.bar,
    debug: Debug = False,
) -> None:
    """Explain measurements on the denoised image, computing only the part of it that matters to each target."""
    with _errors(debug=debug):
        if not target:
            raise ConfigError("explain needs at least one --target, such as sphere:10,-20,35,5 or a mask file")
    _run(
        {"scan": Path(path)}, output, progress=progress, debug=debug, bundle=bundle, targets=tuple(target or ()),
        methods=tuple(method or ("input_x_gradient",)), measure=measure, halo=halo, series=series, frame=frame,
        use_form=use_form, force=force, seed=seed, device=device, max_memory_gb=max_memory, dry_run=dry_run,
        overwrite=overwrite, whole=False,
    )  # fmt: skip


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or a folder.")],
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    debug: Debug = False,
) -> None:
    """Say what a file or folder holds, and what is wrong with it. Needs no model and is fast."""
    with _errors(debug=debug):
        from medinterp import io

        found = io.inspect(path, force=force)
        typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else found.describe())


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False) -> None:
    """List bundles, methods, targets, writers and versions."""
    with _errors(debug=False):
        from medinterp.catalogue import catalogue, describe

        found = catalogue()
        typer.echo(json.dumps(found, indent=2) if as_json else describe(found))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Study folder to make.")] = Path("medinterp-demo"),
    overwrite: Overwrite = False,
    progress: ProgressOption = Progress.bar,
    debug: Debug = False,
) -> None:
    """Run the main path on the synthetic head in sample_data and compare the result with the known truth."""
    with _errors(debug=debug):
        from medinterp.demo import run_demo

        with _progress(progress) as on_step:
            lines = run_demo(output, overwrite=overwrite, on_step=on_step)
        typer.echo(lines)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"medinterp {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; a polite kill is treated as Ctrl-C, so that nothing half-written is left."""
    signal.signal(signal.SIGTERM, _stop)
    app(prog_name="medinterp")


if __name__ == "__main__":
    main()
