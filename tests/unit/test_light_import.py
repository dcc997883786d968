"""Describing scans must not cost the import of torch."""

import json
import subprocess
import sys

import pytest

import medinterp

_HEAVY = ("torch", "monai", "captum", "highdicom", "matplotlib", "SimpleITK")


@pytest.mark.parametrize(
    "statement",
    [
        "import medinterp",
        "import medinterp.io",
        "import medinterp.cli",
        "from medinterp.catalogue import catalogue; catalogue()",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    code = f"{statement}; import sys, json; print(json.dumps([m for m in {_HEAVY!r} if m in sys.modules]))"
    # the runtime type checker of the test run is not handed down: it would import everything
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


def test_every_public_name_is_there() -> None:
    assert [name for name in medinterp.__all__ if not hasattr(medinterp, name)] == []
