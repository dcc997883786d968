"""Several scans of one head by one command: registered, fused, shared out, and written so that it can be done again."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

import medinterp
from medinterp import io
from medinterp.errors import ConfigError, GridMismatch, InputError
from medinterp.io.nifti import write_nifti
from medinterp.io.transform_files import read_transform
from medinterp.testing.motion import move, random_motion
from medinterp.testing.phantoms import small_scan
from medinterp.volume import Transform

_TARGET = "sphere:0,0,10,6"


@pytest.fixture(scope="module")
def motion() -> Transform:
    return random_motion(8.0, 10.0, np.array([0.0, 0.0, 10.0]), np.random.default_rng(5))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, motion: Transform) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scans")
    t1 = small_scan((36, 42, 28), modality="T1", sigma=20.0, generator=np.random.default_rng(0))
    t2 = small_scan((34, 40, 26), modality="T2", sigma=20.0, generator=np.random.default_rng(1))
    write_nifti(t1, folder / "t1.nii.gz", description="phantom", sidecar={})
    write_nifti(move(t2, motion), folder / "t2.nii.gz", description="phantom", sidecar={})
    return {m: folder / f"{m}.nii.gz" for m in ("t1", "t2")}


@pytest.fixture(scope="module")
def study(paths: dict[str, Path]) -> Path:
    out = paths["t1"].parent / "study"
    command = [sys.executable, "-m", "medinterp", "run", f"t1={paths['t1']}", f"t2={paths['t2']}", "-o", str(out),
               "--register", "rigid", "--ledger", "--target", _TARGET, "--progress", "none"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "inverse consistency median" in done.stdout
    assert "of the decision, mean over the tissue" in done.stdout
    return out


def voxels(path: Path) -> np.ndarray:
    return nibabel.load(path).get_fdata()


def test_the_written_contributions_and_credits_sum_to_the_written_fused_image(study: Path) -> None:
    nifti = study / "nifti"
    fused = voxels(nifti / "t1_desc-fused_MR.nii.gz")
    for what in ("contribution", "credit"):
        parts = voxels(nifti / f"t1_desc-{what}_MR.nii.gz") + voxels(nifti / f"t2_space-t1_desc-{what}_MR.nii.gz")
        np.testing.assert_allclose(parts, fused, atol=1e-6)  # float32 files, values up to about 1


def test_the_fused_image_says_how_it_came_about_and_claims_no_noise_of_one_scan(study: Path) -> None:
    sidecar = json.loads((study / "nifti" / "t1_desc-fused_MR.json").read_text())
    assert "Sigma" not in sidecar
    assert "NoiseModel" not in sidecar
    assert set(sidecar["Fusion"]["intensity_mapping"]) == {"t1", "t2"}
    assert sum(sidecar["Fusion"]["mean_weight"].values()) == pytest.approx(1.0, abs=1e-3)
    record = json.loads((study / "run.json").read_text())["fusion"]
    assert record["registration"]["t2"]["inverse_consistency_mm"]["median"] < 2.0
    assert record["ledger"]["efficiency_gap"] <= 1e-6
    assert record["ledger"]["evaluations"] == 4
    assert ".nii" not in json.dumps(record)


def test_the_found_transform_is_the_known_motion_and_can_be_given_again(
    study: Path, paths: dict[str, Path], motion: Transform, tmp_path: Path
) -> None:
    written = study / "transforms" / "t2_to-t1.tfm"
    points = np.random.default_rng(0).uniform(-60, 60, size=(200, 3))
    # voxels are about 4.5 mm: a third of one
    assert float(np.median(read_transform(written).distance_mm(motion, points))) < 1.5
    again = medinterp.run(paths, tmp_path / "again", transforms=(f"t2={written}",), targets=(_TARGET,))
    fused = voxels(again.folder / "nifti" / "t1_desc-fused_MR.nii.gz")
    np.testing.assert_allclose(fused, voxels(study / "nifti" / "t1_desc-fused_MR.nii.gz"), atol=1e-5)
    assert again.facts.parameters["transforms"] == ["t2"]  # no path in the record


def test_results_lie_on_every_input_s_own_grid_and_in_a_dicom_series(study: Path, paths: dict[str, Path]) -> None:
    own = io.read(study / "nifti" / "t2_desc-fused_MR.nii.gz")
    assert own.grid.mismatch(io.read(paths["t2"]).grid) is None
    series = io.read(study / "dicom" / "fused")
    fused = voxels(study / "nifti" / "t1_desc-fused_MR.nii.gz")
    assert series.grid.shape == fused.shape
    assert (study / "slicer" / "fused.mrb").is_file()


def test_the_report_shows_the_fused_image_its_weights_the_registration_and_the_ledger(study: Path) -> None:
    page = (study / "report.html").read_text(encoding="utf-8")
    for words in ('id="fusion"', "Weights", "Checkerboards of the reference", "Mutual information", "Modality ledger",
                  "Inverse consistency", "Intensity mapping of t2", "placed by rigid registration"):  # fmt: skip
        assert words in page, words


def test_without_a_word_on_where_they_lie_scans_apart_are_refused_in_millimetres(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(GridMismatch, match=r"mm .*--register rigid"):
        medinterp.run(paths, tmp_path / "out")


def test_options_about_several_scans_are_refused_where_they_would_do_nothing(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--register is about several inputs"):
        medinterp.run(paths["t1"], tmp_path / "out", register="rigid")
    with pytest.raises(ConfigError, match="no registration 'elastic'"):
        medinterp.run(paths, tmp_path / "out", register="elastic")
    with pytest.raises(ConfigError, match="NAME=FILE"):
        medinterp.run(paths, tmp_path / "out", transforms=("t2",))
    with pytest.raises(ConfigError, match="register-mask without"):
        medinterp.run(paths, tmp_path / "out", register_masks=(f"t2={paths['t2']}",))
    transform = tmp_path / "m.txt"
    np.savetxt(transform, np.eye(4))
    with pytest.raises(InputError, match="none of the inputs t1, t2"):
        medinterp.run(paths, tmp_path / "out", transforms=(f"flair={transform}",), resample=True)
