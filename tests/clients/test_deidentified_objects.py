"""A program that was not written by us finds no fault with the objects of a de-identified study."""

from collections.abc import Callable
from pathlib import Path

import medinterp
from medinterp.testing import dicom_files as files
from tests.integration.test_deidentify import marked_series


def test_dciodvfy_reports_no_error_in_any_deidentified_object(tmp_path: Path, run_client: Callable[..., str]) -> None:
    source = files.save(marked_series(), tmp_path / "scan")
    out = medinterp.run(source, tmp_path / "out", targets=("sphere:0,0,0,4",), export="pacs", deidentify=True).folder
    every = sorted(path for path in (out / "dicom").rglob("*.dcm") if path.name in ("0001.dcm", "0022.dcm") or
                   path.parent.name == "dicom")  # fmt: skip
    assert len(every) > 10
    for path in every:
        said = run_client("dciodvfy", path)
        assert not [line for line in said.splitlines() if line.startswith("Error")], path.name
