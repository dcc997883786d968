"""Progress as a callback: long computations report steps to whoever asked, and know nothing of bars or streams."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StepInfo:
    """How far a stage has come.

    Args:
        stage: what is being done, one word for machines and people ("sample", "tile").
        done: steps finished in this stage.
        total: steps this stage has.
        detail: what a person may want to read beside the bar; never patient data.
    """

    stage: str
    done: int
    total: int
    detail: str = ""


OnStep = Callable[[StepInfo], None]


def ignore(info: StepInfo) -> None:
    """Take a report and do nothing with it."""
