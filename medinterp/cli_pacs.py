"""The commands that talk to image archives: send and fetch."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medinterp.cli_errors import readable_errors
from medinterp.cli_options import Showing
from medinterp.cli_process import heavy_import
from medinterp.cli_progress import shown_progress
from medinterp.errors import ConfigError, InputError

INTERRUPTED = "medinterp: interrupted; the same command goes on where it stopped"

ServerName = Annotated[
    str,
    typer.Option(
        "--server", help="https://HOST/PATH (DICOMweb), dicom://AET@HOST:PORT or dicoms://... (DIMSE), or a name."
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="File of servers and credentials. [default: medinterp/pacs.ini in ~/.config]"),
]
Attempts = Annotated[int, typer.Option(help="How often a request without an answer is made, ever more slowly.")]


@contextmanager
def _network() -> Iterator[None]:
    """Import the network packages, or say which extra brings them."""
    try:
        with heavy_import():
            yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the package {error.name} is not installed; archives need: pip install 'medinterp[pacs]'"
        ) from None


def send(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A finished study folder.")],
    server: ServerName,
    showing: Showing,
    config: ConfigFile = None,
    attempts: Attempts = 6,
) -> None:
    """Send the DICOM objects of a finished study folder to an archive (PACS); goes on after an interruption."""
    with readable_errors(debug=showing.debug, interrupted=INTERRUPTED):
        with _network():
            from medinterp.pacs.backoff import Backoff
            from medinterp.pacs.sending import send_study
            from medinterp.pacs.servers import find_server

            found = find_server(server, config)
        with shown_progress(showing.progress) as on_step:
            report = send_study(study, found, backoff=Backoff(attempts), on_step=on_step)
        typer.echo(report.summary())
        report.raise_unless_complete()


def fetch(
    server: ServerName,
    showing: Showing,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to make; must not exist or be empty.")] = "",
    match: Annotated[
        list[str] | None,
        typer.Option(help="KEYWORD=VALUE, such as StudyInstanceUID=1.2.3 or Modality=MR; repeatable."),
    ] = None,
    match_file: Annotated[
        Path | None,
        typer.Option(help="A file of KEYWORD=VALUE lines: what names a patient does not belong on a command line."),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Print the series that match, as JSON, and stop.")] = False,
    config: ConfigFile = None,
    attempts: Attempts = 6,
) -> None:
    """Fetch the series that match from an archive (PACS) into a folder; goes on after an interruption."""
    with readable_errors(debug=showing.debug, interrupted=INTERRUPTED):
        if bool(output) == show:
            raise ConfigError("expected either --output FOLDER or --list")
        with _network():
            from medinterp.pacs.attributes import parse_filters
            from medinterp.pacs.backoff import Backoff
            from medinterp.pacs.fetching import fetch as fetch_objects
            from medinterp.pacs.finding import list_series
            from medinterp.pacs.servers import find_server

            found, filters = find_server(server, config), parse_filters([*(match or ()), *_lines(match_file)])
        if show:
            series = list_series(found, filters, backoff=Backoff(attempts))
            typer.echo(json.dumps([asdict(one) for one in series], indent=2))
            return
        with shown_progress(showing.progress) as on_step:
            report = fetch_objects(found, filters, Path(output), backoff=Backoff(attempts), on_step=on_step)
        typer.echo(report.summary())
        report.raise_unless_complete()


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the file of --match-file cannot be read ({type(error).__name__})") from None
