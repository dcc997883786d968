"""The study folder appears whole or not at all; its names and records are what BIDS tools and people expect."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medinterp.errors import ConfigError, OutputError
from medinterp.export import study as study_module
from medinterp.export.names import bids_name, input_name, stem_and_suffix
from medinterp.export.record import manifest, write_dataset_description, write_run_json
from medinterp.export.room import expected_bytes
from medinterp.export.study import StudyFolder

PARTIAL = "PARTIAL"
NO_PROCESS = 2**22 + 1  # above the largest process number Linux gives


def finish(folder: Path, text: str = "voxels") -> None:
    """Write what makes a folder a study of medinterp."""
    (folder / "map.nii").write_text(text)
    write_dataset_description(folder, version="0.1.0")
    write_run_json(folder, {"seed": 1})


def make(destination: Path, text: str = "voxels", *, overwrite: bool = False) -> None:
    with StudyFolder(destination, overwrite=overwrite) as study:
        finish(study.path, text)


def fail(destination: Path, error: BaseException, *, overwrite: bool = False) -> None:
    """Write half a study and then raise, with the hidden folder's name in place of PARTIAL in the error."""
    with StudyFolder(destination, overwrite=overwrite) as study:
        (study.path / "half.nii").write_text("half")
        if isinstance(error, OSError) and error.filename == PARTIAL:
            error.filename = str(study.path / "half.nii")
        raise error


def make_while_another_run_finishes(destination: Path) -> None:
    with StudyFolder(destination) as late:
        finish(late.path, "late")
        make(destination, "first")


def everything(folder: Path) -> list[str]:
    """Name all that lies in a folder, hidden entries too."""
    return sorted(os.listdir(folder))


def test_nothing_is_seen_at_the_destination_until_the_block_is_left(tmp_path):
    with StudyFolder(tmp_path / "out") as study:
        (study.path / "a.txt").write_text("a")
        assert not (tmp_path / "out").exists()
        assert study.path.parent == tmp_path  # same file system: the rename cannot become a copy
        assert study.path.name.startswith(".")
    assert everything(tmp_path) == ["out"]
    assert everything(tmp_path / "out") == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError, SystemExit])
def test_any_exception_leaves_nothing_and_passes_through(tmp_path, error):
    with pytest.raises(error):
        fail(tmp_path / "new" / "out", error())
    assert everything(tmp_path) == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="is full") as caught:
        fail(tmp_path / "out", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 7
    assert everything(tmp_path) == []


def test_a_full_disk_while_flushing_leaves_nothing(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(study_module.os, "fsync", full)
    with pytest.raises(OutputError, match="is full"):
        make(tmp_path / "out")
    assert everything(tmp_path) == []


def test_a_file_that_may_not_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="may not be written"):
        fail(tmp_path / "out", PermissionError(errno.EACCES, "Permission denied", PARTIAL))
    assert everything(tmp_path) == []


def test_an_input_that_may_not_be_read_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(PermissionError):
        fail(tmp_path / "out", PermissionError(errno.EACCES, "Permission denied", "/somewhere/else.nii"))
    assert everything(tmp_path) == []


def test_too_little_space_is_refused_before_anything_is_written(tmp_path):
    with (
        pytest.raises(OutputError, match=r"needs about \d+ MB"),
        StudyFolder(tmp_path / "a" / "out", expected_bytes=10**18),
    ):
        pytest.fail("the run must not start")
    assert everything(tmp_path) == []


def test_a_destination_that_is_taken_is_refused_and_kept(tmp_path):
    make(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="not empty"):
        make(tmp_path / "out", "new")
    assert (tmp_path / "out" / "map.nii").read_text() == "old"
    assert everything(tmp_path) == ["out"]


def test_an_empty_folder_may_be_the_destination(tmp_path):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out")
    assert (tmp_path / "out" / "run.json").is_file()
    assert everything(tmp_path) == ["out"]


def test_overwriting_replaces_an_older_study_whole(tmp_path):
    make(tmp_path / "out", "old")
    (tmp_path / "out" / "stray.txt").write_text("stray")
    make(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "map.nii").read_text() == "new"
    assert not (tmp_path / "out" / "stray.txt").exists()
    assert everything(tmp_path) == ["out"]


def test_overwriting_never_touches_a_folder_that_medinterp_did_not_write(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not written by medinterp"):
        make(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"


def test_a_failed_run_leaves_the_study_it_would_have_replaced(tmp_path):
    make(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="is full"):
        fail(tmp_path / "out", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), overwrite=True)
    assert (tmp_path / "out" / "map.nii").read_text() == "old"
    assert everything(tmp_path) == ["out"]


def test_the_old_study_comes_back_when_the_last_rename_fails(tmp_path, monkeypatch):
    make(tmp_path / "out", "old")
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OutputError, match="Input/output error"):
        make(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "map.nii").read_text() == "old"
    assert everything(tmp_path) == ["out"]


def test_a_study_that_finished_meanwhile_at_the_same_place_is_kept(tmp_path):
    with pytest.raises(OutputError, match="not empty"):
        make_while_another_run_finishes(tmp_path / "out")
    assert (tmp_path / "out" / "map.nii").read_text() == "first"
    assert everything(tmp_path) == ["out"]


def test_a_file_and_a_mount_point_are_no_destinations(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="is a file"):
        make(tmp_path / "out")
    with pytest.raises(OutputError, match="mount point"):
        make(Path("/"), overwrite=True)


def test_a_link_to_a_folder_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "study")
    make(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "study" / "run.json").is_file()


def start_and_wait(destination: Path) -> "subprocess.Popen[str]":
    """Start a process that is in the middle of writing a study."""
    program = (
        "import sys, time; from pathlib import Path; from medinterp.export.study import StudyFolder\n"
        "with StudyFolder(Path(sys.argv[1]), overwrite=True) as study:\n"
        "    (study.path / 'map.nii').write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(destination)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_kill_9_leaves_nothing_that_looks_finished_and_the_next_run_clears_it(tmp_path):
    with start_and_wait(tmp_path / "out") as process:
        with pytest.raises(RuntimeError):
            fail(tmp_path / "out", RuntimeError())
        assert len(everything(tmp_path)) == 1  # what a running process writes is left alone
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = everything(tmp_path)
    assert len(left) == 1
    assert left[0].startswith(".out.partial-")
    assert not list(tmp_path.rglob("run.json"))
    make(tmp_path / "out")
    assert everything(tmp_path) == ["out"]


def test_a_study_set_aside_by_a_killed_run_is_put_back(tmp_path):
    make(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / f".out.replaced-{NO_PROCESS}-0123456789ab")
    with pytest.raises(OutputError, match="not empty"):
        make(tmp_path / "out", "new")
    assert (tmp_path / "out" / "map.nii").read_text() == "old"


def test_leftovers_of_other_destinations_are_left_alone(tmp_path):
    others = [
        f".other.partial-{NO_PROCESS}-0123456789ab",
        f".out2.partial-{NO_PROCESS}-0123456789ab",
        ".out.partial-mine",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    make(tmp_path / "out")
    assert everything(tmp_path) == sorted([*others, "out"])


def test_without_locks_the_process_number_tells_what_is_abandoned(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "take_lock", lambda path: None)
    here, elsewhere = study_module._machine() + "0" * 8, "zzzz" + "0" * 8
    elsewhere = elsewhere.replace("z", "f" if not here.startswith("ffff") else "e")
    dead, alive = tmp_path / f".out.partial-{NO_PROCESS}-{here}", tmp_path / f".out.partial-{os.getpid()}-{here}"
    foreign = tmp_path / f".out.partial-{NO_PROCESS}-{elsewhere}"
    for folder in (dead, alive, foreign):
        folder.mkdir()
    make(tmp_path / "out")
    assert [folder.exists() for folder in (dead, alive, foreign)] == [False, True, True]


def test_the_folder_has_the_permissions_the_user_asked_for(tmp_path):
    (tmp_path / "plain").mkdir()
    make(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_size_of_a_study_is_estimated_from_above():
    # Six float32 volumes per scan and map are more than is ever written of one.
    assert 4 * 4 * 1000 < expected_bytes(1000, 0) < 6 * 4 * 1000
    assert expected_bytes(1000, 1000) > expected_bytes(1000, 0)


def test_the_run_record_lists_every_file_with_its_hash(tmp_path):
    (tmp_path / "nifti").mkdir()
    (tmp_path / "nifti" / "a.nii").write_bytes(b"abc")
    path = write_run_json(tmp_path, {"seed": 7})
    assert json.loads(path.read_text()) == {
        "seed": 7,
        "files": [{"path": "nifti/a.nii", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}],
    }
    assert [entry.path for entry in manifest(tmp_path)] == ["nifti/a.nii"]


def test_the_run_record_holds_arrays_and_numbers_that_json_lacks(tmp_path):
    run = {"affine": np.eye(2), "sigma": np.float32(0.5), "psnr_db": float("inf"), "gap": float("nan"), "ok": np.True_}
    record = json.loads(write_run_json(tmp_path, run).read_text())
    assert (record["affine"], record["sigma"], record["ok"]) == ([[1.0, 0.0], [0.0, 1.0]], 0.5, True)
    assert (record["psnr_db"], record["gap"]) == ("Infinity", "NaN")


def test_the_run_record_refuses_paths(tmp_path):
    with pytest.raises(TypeError, match="path"):
        write_run_json(tmp_path, {"inputs": [{"file": Path("/data/NAME^SURNAME.dcm")}]})


def test_the_folder_declares_itself_as_bids_derivatives(tmp_path):
    description = json.loads(write_dataset_description(tmp_path, version="1.2.3").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"] == [{"Name": "medinterp", "Version": "1.2.3"}]


def test_derivatives_are_named_as_bids_asks():
    assert bids_name("sub-x", desc="denoised", suffix="T1w") == "sub-x_desc-denoised_T1w.nii.gz"
    assert bids_name("t1", desc="denoised", suffix="MR") == "t1_desc-denoised_MR.nii.gz"
    assert bids_name("t1", desc="x", suffix="MR", space="t2", extension=".json") == "t1_space-t2_desc-x_MR.json"
    assert stem_and_suffix("sub-01_ses-2_run-1_FLAIR", "MR") == ("sub-01_ses-2_run-1", "FLAIR")
    assert stem_and_suffix("flair", "MR") == ("flair", "MR")


@pytest.mark.parametrize("wrong", [{"desc": "de-noised"}, {"suffix": "T1 w"}, {"space": ""}, {"stem": "../x"}])
def test_names_that_bids_forbids_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected letters and digits"):
        bids_name(wrong.pop("stem", "t1"), **{"desc": "denoised", "suffix": "MR", **wrong})


def test_inputs_without_a_key_are_called_scan_and_counted():
    assert input_name(None) == "scan"
    assert input_name("", taken=["scan"]) == "scan2"
    assert input_name("T1", taken=["t1"]) == "T12"  # one file on a disk that ignores case
    assert input_name("sub-01_T1w") == "sub-01_T1w"
    assert input_name("../müller t1") == "mllert1"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=90), st.lists(st.text(max_size=5), max_size=3))
def test_any_key_gives_a_name_that_is_free_safe_and_no_label_map(key, taken):
    name = input_name(key, taken=taken)
    assert bids_name(name, desc="denoised", suffix="MR")
    assert name.lower() not in {t.lower() for t in taken}
    assert not any(part in name.lower() for part in ("_seg", "-seg", "_label", "-label"))
    assert len(name) <= 70
