"""The folder of the Slicer module, where its own imports begin."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "slicer" / "MedInterp"


def importable() -> None:
    """Let ``import MedInterpLib`` find the module's library, as Slicer does."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
