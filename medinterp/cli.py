"""The command line: typer commands that parse, call app, and print; only the cli files print."""

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from medinterp import __version__
from medinterp.cli_bench import bench
from medinterp.cli_errors import readable_errors
from medinterp.cli_options import (
    Computing,
    Explaining,
    Featuring,
    Fusing,
    Measuring,
    Modelling,
    Reading,
    Replacing,
    Sampling,
    Showing,
    Writing,
    chosen_options,
    with_option_groups,
)
from medinterp.cli_pacs import fetch, send
from medinterp.cli_process import heavy_import
from medinterp.cli_progress import shown_progress
from medinterp.errors import ConfigError, InputError
from medinterp.feature_options import FeatureOptions
from medinterp.options import RunOptions

DISCLAIMER = "For research use only. Not for diagnosis."
_NAMED_INPUT = re.compile(r"([A-Za-z0-9_-]+)=(.*)", re.DOTALL)

app = typer.Typer(
    name="medinterp",
    help=f"Denoise MRI and CT volumes with 3D diffusion models and explain every measurement on them. {DISCLAIMER}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT...", help="A NIfTI file or DICOM folder; several as t1=PATH t2=PATH.")
]
OnePath = Annotated[str, typer.Argument(metavar="PATH", help="A NIfTI file or a DICOM folder.")]
Output = Annotated[str, typer.Option("--output", "-o", help="Study folder to make; must not exist or be empty.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def _parse_inputs(inputs: list[str]) -> dict[str, Path]:
    """Split NAME=PATH arguments; a text that is itself an existing path needs no name."""
    parsed: dict[str, Path] = {}
    for number, text in enumerate(inputs, start=1):
        named = None if os.path.exists(text) else _NAMED_INPUT.fullmatch(text)
        name, path = named.groups() if named else ("scan" if len(inputs) == 1 else f"scan{number}", text)
        if not path:
            raise InputError(f"the input '{name}' has an empty path; expected a path, or {name}=PATH without spaces")
        if name in parsed:
            raise InputError(f"two inputs are named '{name}'; give each its own name, such as t1=PATH t2=PATH")
        parsed[name] = Path(path)
    return parsed


def _require_output(output: str) -> None:
    if not output:
        raise ConfigError("--output is empty; expected the path of a folder to make")


def _run(inputs: Mapping[str, Path], output: str, showing: Showing, options: Mapping[str, Any]) -> None:
    chosen = RunOptions(**options)
    _require_output(output)
    if chosen.dry_run:
        from medinterp.planning import plan  # torch is loaded here, not for --help

        typer.echo(plan(inputs, chosen).describe())
        return
    with heavy_import():
        from medinterp.app import run as run_study

    with shown_progress(showing.progress) as on_step:
        study = run_study(inputs, output, options=chosen, on_step=on_step)
    typer.echo(study.summary())


@app.command()
@with_option_groups
def run(
    inputs: Inputs,
    output: Output,
    explaining: Explaining,
    sampling: Sampling,
    reading: Reading,
    computing: Computing,
    writing: Writing,
    showing: Showing,
    fusing: Fusing,
) -> None:
    """Denoise scans, fuse several, explain a measurement, and write the study folder."""
    with readable_errors(debug=showing.debug):
        options = chosen_options(explaining, sampling, reading, computing, writing, fusing)
        _run(_parse_inputs(inputs), output, showing, options)


@app.command()
@with_option_groups
def denoise(
    path: OnePath,
    output: Output,
    sampling: Sampling,
    reading: Reading,
    computing: Computing,
    writing: Writing,
    showing: Showing,
) -> None:
    """Denoise one scan and write the study folder, without an explanation."""
    with readable_errors(debug=showing.debug):
        options = chosen_options(sampling, reading, computing, writing, targets=(), methods=())
        _run(_parse_inputs([path]), output, showing, options)


@app.command()
@with_option_groups
def explain(
    path: OnePath,
    output: Output,
    explaining: Explaining,
    reading: Reading,
    computing: Computing,
    writing: Writing,
    showing: Showing,
) -> None:
    """Explain measurements on the denoised image, computing only the part of it that matters to each target."""
    with readable_errors(debug=showing.debug):
        if not explaining.targets:
            raise ConfigError("explain needs at least one --target, such as sphere:10,-20,35,5 or a mask file")
        options = chosen_options(explaining, reading, computing, writing, whole=False)
        _run(_parse_inputs([path]), output, showing, options)


@app.command()
@with_option_groups
def features(
    path: OnePath,
    featuring: Featuring,
    measuring: Measuring,
    reading: Reading,
    modelling: Modelling,
    replacing: Replacing,
    showing: Showing,
    output: Output = "",
    blocks: Annotated[bool, typer.Option("--list-blocks", help="Print the network's blocks and stop.")] = False,
) -> None:
    """Look inside the network: a block's activations and their components, concepts, or what excites a channel."""
    with readable_errors(debug=showing.debug):
        options = RunOptions(
            **chosen_options(measuring, reading, modelling, replacing, targets=tuple(measuring.targets or ()))
        )
        asked = FeatureOptions(**chosen_options(featuring))
        if not blocks:
            _require_output(output)
        with heavy_import():
            from medinterp.feature_study import features as find_features
            from medinterp.feature_study import list_blocks

        if blocks:
            typer.echo(list_blocks(path, options=options))
            return
        with shown_progress(showing.progress) as on_step:
            study = find_features(path, output, options=options, asked=asked, on_step=on_step)
        typer.echo(study.summary())


@app.command()
@with_option_groups
def significance(
    maps: Annotated[
        list[str], typer.Argument(metavar="MAP...", help="At least 6 maps on one grid: of repeats, or of subjects.")
    ],
    output: Output,
    replacing: Replacing,
    alpha: Annotated[float, typer.Option(help="Level of the familywise error and of the false discovery rate.")] = 0.05,
    flips: Annotated[int, typer.Option(help="Sign patterns of the permutation test.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the sign patterns.")] = 0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Say where maps of repeats or subjects differ from zero, with errors counted over the whole map."""
    with readable_errors(debug=debug):
        _require_output(output)
        with heavy_import():
            from medinterp.map_significance import find_significance

        found = find_significance(maps, output, alpha=alpha, flips=flips, seed=seed, overwrite=replacing.overwrite)
        typer.echo(found.summary())


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or a folder.")],
    force: Annotated[bool, typer.Option("--force", help="Also read DICOM files that lack the preamble.")] = False,
    as_json: AsJson = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Say what a file or folder holds, and what is wrong with it. Needs no model and is fast."""
    with readable_errors(debug=debug):
        from medinterp import io

        found = io.inspect(path, force=force)
        typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else found.describe())


@app.command()
def info(as_json: AsJson = False) -> None:
    """List bundles, methods, targets, writers and versions."""
    with readable_errors(debug=False):
        from medinterp.catalogue import catalogue, describe

        found = catalogue()
        typer.echo(json.dumps(found, indent=2) if as_json else describe(found))


@app.command()
@with_option_groups
def demo(
    replacing: Replacing,
    showing: Showing,
    output: Output = "medinterp-demo",
) -> None:
    """Run the main path on the synthetic head in sample_data and compare the result with the known truth."""
    with readable_errors(debug=showing.debug):
        _require_output(output)
        with heavy_import():
            from medinterp.demo import run_demo

        with shown_progress(showing.progress) as on_step:
            lines = run_demo(output, overwrite=replacing.overwrite, on_step=on_step)
        typer.echo(lines)


app.command()(with_option_groups(send))
app.command()(with_option_groups(fetch))
app.add_typer(bench, name="bench")


class _EchoHandler(logging.Handler):
    """Write log records to whatever standard error is at the time, as everything else here does."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(self.format(record), err=True)


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
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", handlers=[_EchoHandler()])
