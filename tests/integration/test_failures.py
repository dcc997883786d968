"""What goes wrong for users: one clear line, a non-zero exit, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from medinterp.cli import app
from tests.integration.scans import write_scan

_CLI = [sys.executable, "-m", "medinterp.cli"]


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


def test_patient_data_in_a_path_never_reaches_an_error_message(tmp_path: Path) -> None:
    path = tmp_path / "DOE_JANE_19700101.nii.gz"
    nibabel.Nifti1Image(np.zeros((4, 4), dtype=np.float32), np.eye(4)).to_filename(path)
    done = _cli("denoise", path, "-o", tmp_path / "out")
    assert done.exit_code != 0
    assert "DOE_JANE" not in done.stderr
