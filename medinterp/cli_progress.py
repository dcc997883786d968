"""How the command line shows progress: a bar with the time left, one line of JSON an event, or nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum

import typer

from medinterp.progress import OnStep, StepInfo, ignore


class ProgressKind(str, Enum):
    """How progress is shown."""

    bar = "bar"
    json = "json"
    none = "none"


@contextmanager
def shown_progress(kind: ProgressKind) -> Iterator[OnStep]:
    """Give a callback that shows each step on standard error, so that standard output stays free for results."""
    if kind is ProgressKind.none:
        yield ignore
    elif kind is ProgressKind.json:
        yield lambda info: typer.echo(json.dumps(asdict(info)), err=True)
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
