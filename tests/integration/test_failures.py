"""What goes wrong for users: one clear line, a non-zero exit, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from medinterp.cli import app
from tests.integration.scans import write_scan

_CLI = [sys.executable, "-m", "medinterp"]


def _cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def _assert_one_clear_line(done: Result, code: int, words: str, output: Path) -> None:
    assert done.exit_code == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("medinterp: error:")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in done.stderr
    assert not output.exists()
    assert not list(output.parent.glob(f".{output.name}*"))


def test_nan_in_the_scan_is_counted_and_refused(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "scan.nii.gz", nan_voxels=3)
    _assert_one_clear_line(_cli("denoise", path, "-o", tmp_path / "out"), 3, "3 of", tmp_path / "out")


def test_a_mask_on_another_grid_is_refused_in_millimetres(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    mask = write_scan(tmp_path / "mask.nii.gz", shift_mm=5.0)
    done = _cli("explain", scan, "-o", tmp_path / "out", "--target", mask)
    _assert_one_clear_line(done, 3, "mm apart", tmp_path / "out")


@pytest.mark.skipif(os.environ.get("CUDA_VISIBLE_DEVICES") is not None, reason="a GPU may be present")
def test_an_absent_gpu_is_an_error_not_a_fallback(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    done = _cli("denoise", scan, "-o", tmp_path / "out", "--device", "cuda:7")
    _assert_one_clear_line(done, 6, "absent", tmp_path / "out")


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    done = _cli("denoise", tmp_path / "nowhere.nii.gz", "-o", tmp_path / "out")
    _assert_one_clear_line(done, 3, "", tmp_path / "out")


def test_a_truncated_file_is_one_clear_line(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    scan.write_bytes(scan.read_bytes()[:2000])
    _assert_one_clear_line(_cli("denoise", scan, "-o", tmp_path / "out"), 3, "", tmp_path / "out")


def test_an_existing_study_is_not_overwritten(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("keep me")
    done = _cli("denoise", scan, "-o", tmp_path / "out")
    assert done.exit_code == 7
    assert (tmp_path / "out" / "precious.txt").read_text() == "keep me"


def test_too_little_memory_is_refused_before_work(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    done = _cli("denoise", scan, "-o", tmp_path / "out", "--max-memory", "0.1")
    _assert_one_clear_line(done, 6, "raise --max-memory", tmp_path / "out")


@pytest.mark.parametrize("target", ["sphere:1,2", "sphere:a,b,c,d", "voxel:1,2,3,4", "no-such-mask.nii.gz"])
def test_a_malformed_target_is_explained(tmp_path: Path, target: str) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    done = _cli("explain", scan, "-o", tmp_path / "out", "--target", target)
    _assert_one_clear_line(done, 4, "sphere:X,Y,Z,R", tmp_path / "out")


def test_a_target_outside_the_scan_is_refused(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    done = _cli("explain", scan, "-o", tmp_path / "out", "--target", "voxel:9000,0,0")
    _assert_one_clear_line(done, 3, "outside the scan", tmp_path / "out")


def test_kill_in_the_middle_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", shape=(96, 96, 64))
    process = subprocess.Popen(
        [*_CLI, "denoise", str(scan), "-o", str(tmp_path / "out"), "--progress", "json"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:  # wait until work has begun
        if '"denoise"' in line or '"noise"' in line or '"export"' in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    process.stderr.close()
    assert not (tmp_path / "out").exists()
    done = _cli("denoise", write_scan(tmp_path / "small.nii.gz"), "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out" / "run.json").exists()
    assert not list(tmp_path.glob(".out*"))


def test_ctrl_c_in_the_middle_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", shape=(96, 96, 64))
    process = subprocess.Popen(
        [*_CLI, "denoise", str(scan), "-o", str(tmp_path / "out"), "--progress", "json"],
        stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:  # wait until work has begun
        if '"noise"' in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 130
    assert [line for line in rest.splitlines() if not line.startswith("{")] == [
        "medinterp: interrupted; nothing was left in the output folder"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((8, 8, 8)), "0 voxels of tissue"),
        (np.full((8, 8, 8), 1e30), "rescale the scan"),
        (np.full((8, 8, 8), 1e-30), "rescale the scan"),
        (np.full((8, 8), 1.0), "three axes"),
        (np.random.default_rng(0).normal(100, 5, (3, 3, 3)), "27 voxels"),
        (np.random.default_rng(0).normal(100, 5, (12, 12, 1)), "voxels of tissue"),
        (np.ones((8, 8, 8, 3)), "--frame 0 to 2"),
        (np.ones((4, 4, 4), dtype=np.complex64), "complex"),
    ],
    ids=["zero", "huge", "minute", "2D", "3x3x3", "one slice", "4D", "complex"],
)
def test_values_that_cannot_be_used_are_refused(tmp_path: Path, values: np.ndarray, words: str) -> None:
    kept = values if np.iscomplexobj(values) else values.astype(np.float32)
    image = nibabel.Nifti1Image(kept, np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.to_filename(tmp_path / "scan.nii.gz")
    done = _cli("denoise", tmp_path / "scan.nii.gz", "-o", tmp_path / "out", "--progress", "none")
    _assert_one_clear_line(done, 3, words, tmp_path / "out")


def test_a_sheared_grid_is_refused_before_work(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.2
    image = nibabel.Nifti1Image(np.ones((8, 8, 8), dtype=np.float32), affine)
    image.set_qform(None, 0)
    image.set_sform(affine, 1)
    image.to_filename(tmp_path / "scan.nii.gz")
    done = _cli("denoise", tmp_path / "scan.nii.gz", "-o", tmp_path / "out")
    _assert_one_clear_line(done, 3, "dcm2niix", tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        (("--seed", "-1"), 4, "seed -1"),
        (("--max-memory", "0"), 4, "max-memory 0"),
        (("--max-memory", "1e9"), 6, "ask for less"),
        (("--steps", "3"), 4, "posterior mean"),
        (("--sampler", "ode", "--steps", "1"), 4, "posterior mean"),
        (("--sampler", "magic"), 4, "choose mean, ode or sde"),
        (("--bundle", "crystal"), 4, "mri_denoise"),
        (("--device", "cpu:3"), 6, "absent"),
        (("--series", "2"), 3, "series 2"),
        (("--frame", "3"), 3, "frame 3"),
    ],
)
def test_an_option_that_cannot_be_is_refused(tmp_path: Path, option: tuple[str, ...], code: int, words: str) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    done = _cli("denoise", scan, "-o", tmp_path / "out", "--progress", "none", *option)
    _assert_one_clear_line(done, code, words, tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        (("--halo", "-1"), 4, "halo -1"),
        (("--method", "crystal"), 4, "known are"),
        (("--measure", "crystal"), 4, "known are"),
        (("--target", "sphere:900,0,0,5"), 3, "nearest one is"),
        (("--target", "sphere:0,0,0,-1"), 3, "positive radius"),
        (("--target", ""), 4, "sphere:X,Y,Z,R"),
    ],
)
def test_an_explanation_that_cannot_be_is_refused(
    tmp_path: Path, option: tuple[str, ...], code: int, words: str
) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    target = () if "--target" in option else ("--target", "sphere:0,0,0,5")
    done = _cli("explain", scan, "-o", tmp_path / "out", "--progress", "none", *target, *option)
    _assert_one_clear_line(done, code, words, tmp_path / "out")


def test_an_empty_output_or_input_is_refused(tmp_path: Path) -> None:
    assert "--output is empty" in _cli("denoise", tmp_path / "x.nii", "-o", "").stderr
    assert "empty path" in _cli("denoise", "", "-o", tmp_path / "out").stderr
    assert "empty path" in _cli("run", "t1=", "-o", tmp_path / "out").stderr


def test_an_output_that_is_taken_is_refused_before_the_scan_is_even_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").touch()
    done = _cli("denoise", tmp_path / "not-there.nii.gz", "-o", tmp_path / "out")
    assert done.exit_code == 7
    assert "not empty" in done.stderr


def test_the_same_scan_is_not_fused_with_itself(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    done = _cli("run", f"t1={scan}", f"t2={scan}", "-o", tmp_path / "out", "--progress", "none")
    _assert_one_clear_line(done, 3, "same scan", tmp_path / "out")


@pytest.mark.parametrize("name", ["-s p=a\nc [red]e", "ünï \udcff"])
def test_odd_file_names_are_no_obstacle(tmp_path: Path, name: str) -> None:
    path = write_scan(tmp_path / "scan.nii.gz").rename(tmp_path / f"{name}.nii.gz")
    done = _cli("denoise", path, "-o", tmp_path / f"out {name}", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "32 x 30 x 24" in done.stdout


def test_patient_data_in_a_path_never_reaches_an_error_message(tmp_path: Path) -> None:
    path = tmp_path / "DOE_JANE_19700101.nii.gz"
    nibabel.Nifti1Image(np.zeros((4, 4), dtype=np.float32), np.eye(4)).to_filename(path)
    done = _cli("denoise", path, "-o", tmp_path / "out")
    assert done.exit_code != 0
    assert "DOE_JANE" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "occlusion:window=8"), "'window=8' is not an option"),
        (("--method", "saliency", "--baseline", "blurred"), "compares with no baseline"),
        (("--measure", "contrast:gap_mm=-1"), "expected a gap"),
        (("--measure", "class_score"), "needs network"),
    ],
)
def test_a_wrong_setting_of_a_method_or_measure_is_refused_before_any_work(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    found = _cli("explain", scan, "-o", tmp_path / "out", "--target", "voxel:0,0,0", *options)
    assert found.exit_code == 4
    assert words in found.stderr
    assert not (tmp_path / "out").exists()
