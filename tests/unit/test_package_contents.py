"""What the built packages hold: everything that an installed medinterp opens at run time, and nothing it must not."""

from pathlib import Path

import pytest

hatchling = pytest.importorskip("hatchling", reason="hatchling, the build backend, is not installed")

from hatchling.builders.sdist import SdistBuilder  # noqa: E402 - only where it is installed
from hatchling.builders.wheel import WheelBuilder  # noqa: E402

ROOT = Path(__file__).parents[2]
BUNDLE = "mri_denoise"


@pytest.fixture(scope="module")
def wheel() -> set[str]:
    return {Path(file.distribution_path).as_posix() for file in WheelBuilder(str(ROOT)).recurse_included_files()}


@pytest.fixture(scope="module")
def sdist() -> set[str]:
    return {Path(file.distribution_path).as_posix() for file in SdistBuilder(str(ROOT)).recurse_included_files()}


def _below(folder: str) -> set[str]:
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT / folder).as_posix() for path in found}


def test_the_wheel_carries_the_report_templates_and_the_type_marker(wheel: set[str]) -> None:
    assert {f"medinterp/export/templates/{name}" for name in _below("medinterp/export/templates")} <= wheel
    assert "medinterp/py.typed" in wheel


def test_the_wheel_carries_every_bundle_whole(wheel: set[str]) -> None:
    assert {f"medinterp/_bundles/{name}" for name in _below("pipelines")} <= wheel
    for needed in ("configs/inference.json", "configs/metadata.json", "models/model.pt", "LICENSE", "docs/README.md"):
        assert f"medinterp/_bundles/{BUNDLE}/{needed}" in wheel


def test_the_wheel_carries_the_demo_and_its_truth(wheel: set[str]) -> None:
    needed = {"head/truth.json"} | {
        f"head/truth/{m}_{what}.nii.gz" for m in ("t1", "t2") for what in ("truth", "lesion")
    }
    needed |= {f"head/dicom/{name}" for name in _below("sample_data/head/dicom")}
    assert {f"medinterp/_sample_data/{name}" for name in needed} <= wheel


def test_the_wheel_puts_nothing_beside_the_package(wheel: set[str]) -> None:
    assert {name.partition("/")[0] for name in wheel} == {"medinterp"}


def test_the_source_package_holds_what_make_needs(sdist: set[str]) -> None:
    needed = {"Makefile", "constraints.txt", "README.md", "LICENSE", ".ci/run", "tests/__init__.py"}
    assert needed <= sdist
    assert {f"tests/unit/{Path(__file__).name}", "benchmarks/__main__.py", "docs/methods.md"} <= sdist
    assert not [name for name in sdist if "__pycache__" in name or name.startswith((".venv", ".training"))]
