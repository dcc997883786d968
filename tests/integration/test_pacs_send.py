"""Sending a study to an archive that drops connections, is slow, busy or refuses: nothing lost, nothing twice."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("dicomweb_client", reason="the extra 'pacs' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")

from medinterp.errors import AccessDenied, InputError, OutputError, TransferError, Unreachable
from medinterp.export.study import take_lock
from medinterp.pacs.backoff import Backoff
from medinterp.pacs.sending import SendReport, send_study
from medinterp.pacs.servers import Server, find_server
from tests.integration.archive_doors import TOO_SLOW_S, dicomweb_door, dimse_door
from tests.integration.archive_double import ArchiveDouble
from tests.integration.archive_studies import PATIENT, PATIENT_ID, STUDY, make_study, objects_of

DOORS = {"dicomweb": dicomweb_door, "dimse": dimse_door}
QUICK = Backoff(attempts=4, first_wait_s=0.01)
both_doors = pytest.mark.parametrize("door", DOORS)


@contextmanager
def server_of(archive: ArchiveDouble, door: str) -> Iterator[Server]:
    with DOORS[door](archive) as address:
        yield replace(find_server(address), timeout_s=TOO_SLOW_S if "slow" in archive.faults else 20.0)


def send(study: Path, archive: ArchiveDouble, door: str) -> SendReport:
    with server_of(archive, door) as server:
        return send_study(study, server, backoff=QUICK)


def assert_holds_exactly(archive: ArchiveDouble, study: Path) -> None:
    sent = objects_of(study)
    assert {uid: pydicom.dcmread(io.BytesIO(data)) for uid, data in archive.objects.items()} == sent
    assert set(archive.stored.values()) == {1}, "an object was stored twice"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study")


@both_doors
def test_every_object_arrives_once_and_identical(study: Path, door: str) -> None:
    archive = ArchiveDouble()
    report = send(study, archive, door)
    assert report.complete
    assert len(report.sent) == 6
    assert_holds_exactly(archive, study)


@both_doors
def test_compressed_objects_stay_compressed(tmp_path: Path, door: str) -> None:
    archive = ArchiveDouble()
    study = make_study(tmp_path / "study", compressed=True)
    send(study, archive, door).raise_unless_complete()
    assert_holds_exactly(archive, study)
    stored = pydicom.dcmread(io.BytesIO(next(iter(archive.objects.values()))))
    assert stored.file_meta.TransferSyntaxUID.is_compressed


@both_doors
def test_a_second_send_sends_nothing(study: Path, door: str) -> None:
    archive = ArchiveDouble()
    send(study, archive, door)
    report = send(study, archive, door)
    assert (report.sent, len(report.already_there)) == ([], 6)
    assert_holds_exactly(archive, study)


@both_doors
@pytest.mark.parametrize("fault", ["drop", "drop_after", "busy", "slow"])
def test_a_fault_costs_an_attempt_and_no_object_and_makes_no_duplicate(study: Path, door: str, fault: str) -> None:
    archive = ArchiveDouble(faults=["", fault, "", fault])
    report = send(study, archive, door)
    assert report.complete, report.summary()
    assert_holds_exactly(archive, study)


@both_doors
def test_one_refused_object_is_named_and_the_others_arrive(study: Path, door: str) -> None:
    archive = ArchiveDouble(refused={f"{STUDY}.1.2"})
    report = send(study, archive, door)
    assert (len(report.sent), list(report.refused)) == (5, ["dicom/002.dcm"])
    assert "C123" in report.summary()
    with pytest.raises(TransferError, match="1 objects are not in the archive"):
        report.raise_unless_complete()
    archive.refused.clear()
    assert send(study, archive, door).sent == ["dicom/002.dcm"]
    assert_holds_exactly(archive, study)


@both_doors
def test_an_object_that_breaks_every_connection_does_not_keep_back_the_others(study: Path, door: str) -> None:
    archive = ArchiveDouble(faults=["", ""] + ["drop"] * QUICK.attempts)
    report = send(study, archive, door)
    assert (len(report.sent), list(report.refused)) == (5, ["dicom/004.dcm"])
    assert send(study, archive, door).sent == ["dicom/004.dcm"]
    assert_holds_exactly(archive, study)


@both_doors
def test_an_archive_that_breaks_off_again_and_again_ends_it_and_a_later_run_completes_it(
    study: Path, door: str
) -> None:
    archive = ArchiveDouble(faults=["", ""] + ["drop"] * QUICK.attempts * 3)
    report = send(study, archive, door)
    assert (len(report.sent), len(report.refused), len(report.waiting)) == (2, 2, 2)
    with pytest.raises(Unreachable):
        report.raise_unless_complete()
    later = send(study, archive, door)
    assert (len(later.already_there), len(later.sent)) == (2, 4)
    assert_holds_exactly(archive, study)


# pynetdicom leaves the socket of a refused connection to the garbage collector
@pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning")
@both_doors
def test_an_archive_that_is_away_ends_it_before_anything_is_sent(study: Path, door: str) -> None:
    with server_of(ArchiveDouble(), door) as server:
        pass
    report = send_study(study, server, backoff=QUICK)
    assert len(report.waiting) == 6
    with pytest.raises(Unreachable):
        report.raise_unless_complete()


@both_doors
def test_without_queries_the_journal_keeps_objects_from_going_twice(study: Path, door: str) -> None:
    archive = ArchiveDouble(answers_queries=False, refused={f"{STUDY}.2.3"})
    with server_of(archive, door) as server:
        assert len(send_study(study, server, backoff=QUICK).sent) == 5
        archive.refused.clear()
        report = send_study(study, server, backoff=QUICK)
    assert (len(report.already_there), len(report.sent)) == (5, 1)
    assert "answers no queries" in report.summary()
    assert_holds_exactly(archive, study)


@both_doors
def test_an_archive_that_takes_objects_and_loses_them_is_not_success(study: Path, door: str) -> None:
    report = send(study, ArchiveDouble(lists=False), door)
    assert len(report.unconfirmed) == 6
    with pytest.raises(TransferError, match="6 objects"):
        report.raise_unless_complete()


def test_wrong_credentials_end_it_at_once_and_nothing_is_sent(study: Path) -> None:
    archive = ArchiveDouble(denies=True)
    report = send(study, archive, "dicomweb")
    assert (len(archive.headers_seen), len(report.waiting)) == (1, 6)
    with pytest.raises(AccessDenied, match="HTTP 401"):
        report.raise_unless_complete()


def test_a_wrong_title_is_said_and_not_tried_again(study: Path) -> None:
    with server_of(ArchiveDouble(), "dimse") as server:
        report = send_study(study, replace(server, called_aet="WRONG"), backoff=QUICK)
    with pytest.raises(AccessDenied, match="the archive's application entity title"):
        report.raise_unless_complete()


@both_doors
def test_a_study_that_is_not_whole_does_not_go_out(study: Path, door: str) -> None:
    archive = ArchiveDouble()
    record = json.loads((study / "run.json").read_text())
    damages = {
        "no run.json": lambda: (study / "run.json").unlink(),
        "not finished": lambda: (study / "run.json").write_text(json.dumps(record | {"finished": False})),
        "no list of files": lambda: (study / "run.json").write_text("{}"),
        "cannot be read as JSON": lambda: (study / "run.json").write_text('{"files": ['),
        "differs from run.json": lambda: (study / "clusters.tsv").write_text("kaep\n"),
        "cannot be read": lambda: (study / "clusters.tsv").unlink(),
    }
    for reason, damage in damages.items():
        damage()
        with pytest.raises(InputError, match=reason):
            send(study, archive, door)
        (study / "run.json").write_text(json.dumps(record))
        if reason != "cannot be read":
            (study / "clusters.tsv").write_text("peak\n")
    assert not archive.stored


def test_a_list_of_files_that_leaves_the_folder_is_refused(study: Path) -> None:
    record = json.loads((study / "run.json").read_text())
    record["files"][0]["path"] = "../elsewhere.dcm"
    (study / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="outside"):
        send(study, ArchiveDouble(), "dicomweb")


def test_two_sends_of_one_study_at_once_are_refused(study: Path) -> None:
    archive = ArchiveDouble()
    with server_of(archive, "dicomweb") as server:
        send_study(study, server, backoff=QUICK)
        (journal,) = study.glob(".send-*.jsonl")
        lock = take_lock(journal)
        assert lock is not None
        with pytest.raises(OutputError, match="another medinterp"):
            send_study(study, server, backoff=QUICK)
        os.close(lock)


@both_doors
def test_neither_logs_nor_journal_nor_summary_hold_patient_data_or_uids(
    study: Path, door: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    archive = ArchiveDouble(faults=["drop", "busy", "slow"], refused={f"{STUDY}.1.2"})
    report = send(study, archive, door)
    (journal,) = study.glob(".send-*.jsonl")
    said = caplog.text + report.summary() + journal.read_text()
    assert "attempt 2" in said, "control: something was logged"
    for secret in (PATIENT, PATIENT_ID, STUDY, "acc-9"):
        assert secret not in said


@both_doors
@pytest.mark.parametrize("fault", ["drop", "drop_after"])
def test_a_send_killed_in_the_middle_is_completed_by_the_next_without_duplicates(
    study: Path, door: str, fault: str
) -> None:
    archive = ArchiveDouble(hold_at=2, faults=["", "", fault])
    with server_of(archive, door) as server:
        address = server.url if door == "dicomweb" else f"dicom://{server.called_aet}@{server.host}:{server.port}"
        command = [sys.executable, "-m", "medinterp", "send", str(study), "--server", address, "--progress", "none"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
            assert archive.holding.wait(60), "the client never came to the third object"
            running.send_signal(signal.SIGKILL)
            assert running.wait(30) == -signal.SIGKILL
        archive.released.set()
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "refused 0" in done.stdout
    assert_holds_exactly(archive, study)
