"""Fetching from an archive that drops connections, is slow, busy or refuses: the folder appears whole or not at all."""

import json
import logging
import signal
import socket
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

from medinterp import io
from medinterp.errors import InputError, OutputError, TransferError
from medinterp.pacs.attributes import parse_filters
from medinterp.pacs.backoff import Backoff
from medinterp.pacs.fetching import FetchReport, fetch
from medinterp.pacs.finding import list_series
from medinterp.pacs.servers import Server, find_server
from tests.integration.archive_doors import TOO_SLOW_S, dicomweb_door, dimse_door
from tests.integration.archive_double import ArchiveDouble
from tests.integration.archive_studies import (
    OTHER_STUDY,
    PATIENT,
    PATIENT_ID,
    STUDY,
    make_object,
    objects_of,
    write_object,
)

DOORS = {"dicomweb": dicomweb_door, "dimse": dimse_door}
QUICK = Backoff(attempts=4, first_wait_s=0.01)
WHOLE_STUDY = {"StudyInstanceUID": STUDY}
both_doors = pytest.mark.parametrize("door", DOORS)


@contextmanager
def server_of(archive: ArchiveDouble, door: str) -> Iterator[Server]:
    with DOORS[door](archive) as address:
        yield replace(find_server(address), timeout_s=TOO_SLOW_S if "slow" in archive.faults else 20.0)


def filled(folder: Path, *, compressed: bool = False, **faults: object) -> ArchiveDouble:
    """Return an archive with two series of three objects in one study and a third series in another."""
    archive = ArchiveDouble(**faults)
    for study, series, number in [(STUDY, 1, 1), (STUDY, 1, 2), (STUDY, 1, 3), (STUDY, 2, 1), (STUDY, 2, 2),
                                  (STUDY, 2, 3), (OTHER_STUDY, 1, 1)]:  # fmt: skip
        item = make_object(number, series=series, study=study, compressed=compressed)
        archive.add(write_object(item, folder / "archive" / "one.dcm").read_bytes())
    return archive


def pull(archive: ArchiveDouble, door: str, out: Path, filters: dict[str, str] = WHOLE_STUDY) -> FetchReport:
    with server_of(archive, door) as server:
        return fetch(server, filters, out, backoff=QUICK)


def assert_same(out: Path, archive: ArchiveDouble, uids: set[str]) -> None:
    expected = {uid: pydicom.dcmread(pydicom.filebase.DicomBytesIO(archive.objects[uid])) for uid in uids}
    found = objects_of(out)
    assert found == expected
    assert all(item.file_meta.TransferSyntaxUID == expected[uid].file_meta.TransferSyntaxUID
               for uid, item in found.items())  # fmt: skip


def uids_of(*series: int, study: str = STUDY) -> set[str]:
    return {f"{study}.{s}.{n}" for s in series for n in (1, 2, 3)}


@both_doors
@pytest.mark.parametrize("compressed", [False, True])
def test_every_object_of_a_study_comes_identical(tmp_path: Path, door: str, compressed: bool) -> None:
    archive, out = filled(tmp_path, compressed=compressed), tmp_path / "out"
    report = pull(archive, door, out)
    assert report.complete, report.summary()
    assert_same(out, archive, uids_of(1, 2))


@both_doors
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"PatientID": PATIENT_ID, "SeriesDescription": "T1", "StudyID": "1"}, uids_of(1) | {f"{OTHER_STUDY}.1.1"}),
        ({**WHOLE_STUDY, "SeriesInstanceUID": f"{STUDY}.2"}, uids_of(2)),
        ({**WHOLE_STUDY, "InstanceNumber": "2"}, {f"{STUDY}.1.2", f"{STUDY}.2.2"}),
        ({"StudyDate": "20240101-20240131", "PatientName": "secret*", "SOPInstanceUID": f"{STUDY}.1.1"},
         {f"{STUDY}.1.1"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ignores_filters", [False, True])
def test_filters_hold_at_every_level_even_where_the_archive_ignores_them(
    tmp_path: Path, door: str, filters: dict[str, str], expected: set[str], ignores_filters: bool
) -> None:
    archive, out = filled(tmp_path, ignores_filters=ignores_filters), tmp_path / "out"
    if ignores_filters and "StudyInstanceUID" not in filters:
        archive.objects = {uid: data for uid, data in archive.objects.items() if uid.startswith(STUDY)}
        expected = expected & set(archive.objects)
    pull(archive, door, out, filters).raise_unless_complete()
    assert set(objects_of(out)) == expected


@both_doors
@pytest.mark.parametrize("fault", ["drop", "drop_after", "busy", "slow"])
def test_a_fault_costs_an_attempt_and_no_object(tmp_path: Path, door: str, fault: str) -> None:
    archive, out = filled(tmp_path, faults=["", fault, "", fault]), tmp_path / "out"
    report = pull(archive, door, out)
    assert report.complete, report.summary()
    assert_same(out, archive, uids_of(1, 2))
    assert not list(out.rglob("*.coming"))


@both_doors
def test_a_refused_object_keeps_the_folder_away_until_it_comes(tmp_path: Path, door: str) -> None:
    archive, out = filled(tmp_path, refused={f"{STUDY}.1.2"}), tmp_path / "out"
    with server_of(archive, door) as server:
        report = fetch(server, WHOLE_STUDY, out, backoff=QUICK)
        assert (report.fetched, len(report.refused)) == (5, 1)
        assert not out.exists()
        with pytest.raises(TransferError, match="1 objects did not come"):
            report.raise_unless_complete()
        archive.refused.clear()
        later = fetch(server, WHOLE_STUDY, out, backoff=QUICK)
    assert (later.already_there, later.fetched) == (5, 1)
    assert set(archive.retrieved.values()) == {1}, "an object came twice"
    assert_same(out, archive, uids_of(1, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "out"]


@both_doors
@pytest.mark.parametrize(("objects", "outcome"), [(1, (5, 1, 0)), (3, (2, 2, 2))])
def test_objects_that_break_every_connection_end_it_when_they_are_three_in_a_row(
    tmp_path: Path, door: str, objects: int, outcome: tuple[int, int, int]
) -> None:
    archive, out = filled(tmp_path, faults=["", ""] + ["drop"] * QUICK.attempts * objects), tmp_path / "out"
    with server_of(archive, door) as server:
        report = fetch(server, WHOLE_STUDY, out, backoff=QUICK)
        assert (report.fetched, len(report.refused), report.missing) == outcome
        assert not out.exists()
        with pytest.raises(TransferError):
            report.raise_unless_complete()
        fetch(server, WHOLE_STUDY, out, backoff=QUICK).raise_unless_complete()
    assert set(archive.retrieved.values()) == {1}, "an object came twice"
    assert_same(out, archive, uids_of(1, 2))


def test_a_file_that_a_power_cut_damaged_comes_again(tmp_path: Path) -> None:
    archive, out = filled(tmp_path, refused={f"{STUDY}.1.2"}), tmp_path / "out"
    with server_of(archive, "dicomweb") as server:
        fetch(server, WHOLE_STUDY, out, backoff=QUICK)
        next((tmp_path / ".out.fetching").rglob("*.dcm")).write_bytes(b"")
        archive.refused.clear()
        report = fetch(server, WHOLE_STUDY, out, backoff=QUICK)
    assert (report.already_there, report.fetched) == (4, 2)
    assert_same(out, archive, uids_of(1, 2))


def test_an_unfinished_fetch_is_not_mixed_with_another_query(tmp_path: Path) -> None:
    archive, out = filled(tmp_path, refused={f"{STUDY}.1.2"}), tmp_path / "out"
    with server_of(archive, "dicomweb") as server:
        fetch(server, WHOLE_STUDY, out, backoff=QUICK)
        with pytest.raises(OutputError, match="other filters"):
            fetch(server, {"StudyInstanceUID": OTHER_STUDY}, out, backoff=QUICK)


def test_a_taken_output_and_an_empty_answer_are_refused(tmp_path: Path) -> None:
    archive = filled(tmp_path)
    with pytest.raises(OutputError, match="not an empty folder"):
        pull(archive, "dicomweb", tmp_path)
    with pytest.raises(InputError, match="no object that matches"):
        pull(archive, "dicomweb", tmp_path / "out", {"StudyInstanceUID": "1.2.3"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive"]


@both_doors
def test_no_name_record_or_log_holds_patient_data_or_uids(
    tmp_path: Path, door: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    archive, out = filled(tmp_path, faults=["drop", "busy"]), tmp_path / "out"
    report = pull(archive, door, out, {"PatientID": PATIENT_ID, "StudyInstanceUID": STUDY})
    names = "\n".join(str(path) for path in out.rglob("*"))
    said = names + caplog.text + report.summary() + (out / "fetch.json").read_text()
    assert "attempt 2" in said, "control: something was logged"
    for secret in (PATIENT, PATIENT_ID, STUDY, "acc-9"):
        assert secret not in said


def test_fetch_json_lists_every_file_and_readers_do_not_mind_it(tmp_path: Path) -> None:
    archive, out = filled(tmp_path), tmp_path / "out"
    pull(archive, "dicomweb", out)
    record = json.loads((out / "fetch.json").read_text())
    assert {one["path"] for one in record["files"]} == {p.relative_to(out).as_posix() for p in out.rglob("*.dcm")}
    assert record["objects"] == 6
    assert "series" in io.inspect(out).describe()


@both_doors
def test_an_archive_that_sends_another_object_is_caught(tmp_path: Path, door: str) -> None:
    archive, out = filled(tmp_path, sends_instead={f"{STUDY}.1.1": f"{STUDY}.1.2"}), tmp_path / "out"
    report = pull(archive, door, out)
    assert (report.fetched, len(report.refused)) == (5, 1)
    assert "another object" in report.summary()
    assert not out.exists()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_c_move_brings_objects_to_the_address_we_listen_at(tmp_path: Path) -> None:
    archive, out, port = filled(tmp_path), tmp_path / "out", free_port()
    with dimse_door(archive, move_to=("127.0.0.1", port)) as address:
        server = replace(find_server(address), retrieve="move", listen=("127.0.0.1", port), timeout_s=20.0)
        fetch(server, WHOLE_STUDY, out, backoff=QUICK).raise_unless_complete()
    assert_same(out, archive, uids_of(1, 2))


def test_listing_counts_the_objects_of_each_series(tmp_path: Path) -> None:
    with server_of(filled(tmp_path), "dicomweb") as server:
        found = list_series(server, parse_filters([f"StudyInstanceUID={STUDY}"]), backoff=QUICK)
    assert [(one.series_uid, one.modality, one.objects) for one in found] == [
        (f"{STUDY}.1", "MR", 3),
        (f"{STUDY}.2", "MR", 3),
    ]


@both_doors
def test_a_fetch_killed_in_the_middle_is_completed_by_the_next(tmp_path: Path, door: str) -> None:
    archive, out = filled(tmp_path, hold_at=2, faults=["", "", "drop"]), tmp_path / "out"
    filters = tmp_path / "filters.txt"
    filters.write_text(f"StudyInstanceUID={STUDY}\nPatientID={PATIENT_ID}\n")
    with server_of(archive, door) as server:
        address = server.url if door == "dicomweb" else f"dicom://{server.called_aet}@{server.host}:{server.port}"
        command = [sys.executable, "-m", "medinterp", "fetch", "--server", address, "--match-file", str(filters)]
        command += ["-o", str(out), "--progress", "none"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
            assert archive.holding.wait(60), "the client never came to the third object"
            running.send_signal(signal.SIGKILL)
            assert running.wait(30) == -signal.SIGKILL
        assert not out.exists()
        archive.released.set()
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "fetched 4, already there 2, refused 0" in done.stdout
    assert_same(out, archive, uids_of(1, 2))


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path: Path) -> None:
    archive = filled(tmp_path, hold_at=1)
    with server_of(archive, "dicomweb") as server:
        command = [sys.executable, "-m", "medinterp", "fetch", "--server", server.url, "--progress", "none"]
        command += ["--match", f"StudyInstanceUID={STUDY}", "-o", str(tmp_path / "out")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
            assert archive.holding.wait(60), "the client never came to the second object"
            running.send_signal(signal.SIGINT)
            said, _ = running.communicate(timeout=30)
        archive.released.set()
    assert running.returncode == 130
    assert "goes on where it stopped" in said
