"""How a command ends when something goes wrong: one readable line and an exit code."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from medinterp.cli_process import EXIT_INTERRUPTED, INTERRUPTED
from medinterp.errors import MedinterpError


@contextmanager
def readable_errors(*, debug: bool, interrupted: str = INTERRUPTED) -> Iterator[None]:
    """Turn the error tree into one readable line and an exit code.

    Args:
        debug: show the traceback, too.
        interrupted: what Ctrl-C leaves behind, in words.
    """
    try:
        yield
    except MedinterpError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"medinterp: error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo(interrupted, err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
