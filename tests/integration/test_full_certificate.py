"""The full certificate from every door: record, report and volumes of the repeats; the same numbers everywhere."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import medinterp
from medinterp.catalogue import find_bundle
from medinterp.errors import ConfigError
from tests.integration.scans import write_scan

_TARGET = "sphere:0,0,0,4"


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.nii.gz", shape=(24, 24, 20))


@pytest.fixture(scope="module")
def study(scan: Path) -> Path:
    return medinterp.run(scan, scan.parent / "python", targets=(_TARGET,), certificate="full").folder


def _certificate(study: Path) -> dict[str, Any]:
    record = json.loads((study / "run.json").read_text())
    found: dict[str, Any] = record["explanations"][0]["maps"]["scan"]["certificate"]
    return found


def test_the_record_holds_every_check(study: Path) -> None:
    full = _certificate(study)["full"]
    checks = ("stability", "significance", "faithfulness", "infidelity", "max_sensitivity", "cascade")
    assert all(full[check] for check in checks)
    assert full["not_made"] == {}
    assert json.loads((study / "run.json").read_text())["parameters"]["certificate"] == "full"
    assert json.loads((study / "nifti" / "scan_desc-inputxgradientmean_map.json").read_text())["certificate"]["full"]


def test_the_report_says_what_was_found_and_shows_the_curves(study: Path) -> None:
    text = (study / "report.html").read_text()
    for words in ("Would the map come back", "never &#39;important&#39;", "Deletion", "Random layers"):
        assert words in text
    assert "When blocks are replaced, the number moves" in text  # what the picture shows, for those who cannot see it


def test_mean_and_spread_of_the_repeats_lie_beside_the_map(study: Path) -> None:
    mean, sd, found = (
        nibabel.load(study / "nifti" / f"scan_desc-inputxgradientmean{name}_map.nii.gz")
        for name in ("repeatmean", "repeatsd", "")
    )
    assert np.allclose(sd.affine, found.affine)
    ratio = np.linalg.norm(sd.get_fdata()) / np.linalg.norm(mean.get_fdata())
    assert ratio == pytest.approx(_certificate(study)["full"]["stability"]["relative_sd"], rel=1e-5)  # float32 storage


def test_monai_bundle_run_gives_the_same_certificate(scan: Path, study: Path) -> None:
    bundle = find_bundle("mri_denoise")
    arguments = {
        "config_file": str(bundle / "configs" / "inference.json"), "bundle_root": str(bundle),
        "dataset_dir": str(scan), "output_dir": str(scan.parent / "monai"), "targets": f"['{_TARGET}']",
        "certificate": "full",
    }  # fmt: skip
    command = [sys.executable, "-m", "monai.bundle", "run"]
    for key, value in arguments.items():
        command += [f"--{key}", value]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)  # hundreds of evaluations
    assert done.returncode == 0, done.stderr
    assert _certificate(scan.parent / "monai") == _certificate(study)


def test_a_basic_certificate_makes_none_of_it_and_other_words_are_refused(scan: Path) -> None:
    plain = medinterp.run(scan, scan.parent / "basic", targets=(_TARGET,), whole=False, halo=0).folder
    assert _certificate(plain)["full"] is None
    assert not list((plain / "nifti").glob("*repeat*"))
    with pytest.raises(ConfigError, match="choose basic or full"):
        medinterp.run(scan, scan.parent / "other", certificate="thorough")
