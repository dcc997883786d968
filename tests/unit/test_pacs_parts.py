"""The small parts of archive transfers: back-off, journal, filters, status codes."""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from medinterp.errors import AccessDenied, ConfigError, InputError, ObjectRefused, OutputError, Unreachable
from medinterp.io.dicom_headers import DEFLATED
from medinterp.pacs.archive import StoredObject
from medinterp.pacs.attributes import matches, parse_filters
from medinterp.pacs.backoff import Backoff
from medinterp.pacs.dimse_status import raise_unless_success, store_outcome
from medinterp.pacs.fetching import _require_asked_for
from medinterp.pacs.journal import Journal
from medinterp.pacs.study_objects import complete_objects


def waits_of(outcomes: list[Exception | str], **settings: float) -> tuple[list[float], object]:
    """Return the waits between attempts of which each has an outcome, and what comes out in the end."""
    waits: list[float] = []
    left = list(outcomes)

    def request(attempt: int) -> str:
        assert attempt == len(outcomes) - len(left) + 1
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    try:
        return waits, Backoff(sleep=waits.append, **settings).run(request)
    except (Unreachable, ObjectRefused) as error:
        return waits, error


def test_each_wait_is_twice_the_one_before_up_to_the_longest() -> None:
    away = [Unreachable("away") for _ in range(5)]
    assert waits_of([*away, "here"], first_wait_s=1.0, longest_wait_s=5.0) == ([1.0, 2.0, 4.0, 5.0, 5.0], "here")


def test_the_server_may_ask_for_a_longer_wait_but_not_for_any() -> None:
    busy = [Unreachable("busy", 7.0), Unreachable("busy", 1e9)]
    assert waits_of([*busy, "here"], longest_wait_s=60.0) == ([7.0, 60.0], "here")


def test_a_refusal_is_not_tried_again_and_the_last_attempt_speaks() -> None:
    refusal, last = ObjectRefused("no"), Unreachable("last")
    assert waits_of([refusal, "never"]) == ([], refusal)
    assert waits_of([Unreachable("first"), last], attempts=2) == ([1.0], last)
    with pytest.raises(ConfigError, match="at least 1"):
        Backoff(attempts=0)


def test_a_journal_remembers_and_forgets_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.write("a", state="sent")
        journal.write("a", state="refused")
    path.write_bytes(path.read_bytes() + b'{"key": "b", "sta')
    with Journal(path) as journal:
        assert journal.get("a") == {"state": "refused"}
        assert journal.get("b") == {}
        journal.write("b", state="sent")
    with Journal(path) as journal:
        assert journal.get("b") == {"state": "sent"}
    assert path.stat().st_mode & 0o077 == 0


def test_a_journal_is_held_by_one_and_is_not_overwritten_when_it_is_none(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "journal"),
        pytest.raises(OutputError, match="another medinterp"),
        Journal(tmp_path / "journal"),
    ):
        pass
    (tmp_path / "other").write_text("a shopping list\n")
    with pytest.raises(OutputError, match="no journal"), Journal(tmp_path / "other"):
        pass
    assert (tmp_path / "other").read_text() == "a shopping list\n"


@pytest.mark.parametrize(
    ("keyword", "wanted", "found", "fits"),
    [
        ("Modality", "MR", "MR", True),
        ("Modality", "MR", "CT", False),
        ("ModalitiesInStudy", "MR", "CT\\MR", True),
        ("PatientID", "17", "170", False),
        ("PatientID", "17*", "170", True),
        ("PatientID", "1?0", "170", True),
        ("PatientID", "1.0", "170", False),
        ("PatientID", "[17]", "1", False),
        ("PatientName", "doe^jane", "DOE^JANE^^", True),
        ("SeriesDescription", "t1", "T1", False),
        ("StudyInstanceUID", "1.2\\1.3", "1.3", True),
        ("StudyInstanceUID", "1.2", "1.20", False),
        ("StudyDate", "20240101-", "20250101", True),
        ("StudyDate", "-20240101", "20250101", False),
        ("StudyDate", "20240101-20241231", "", False),
        ("StudyDescription", "x", "", False),
    ],
)
def test_answers_are_matched_as_the_standard_says(keyword: str, wanted: str, found: str, fits: bool) -> None:
    assert matches(keyword, wanted, found) is fits


def test_filters_are_read_and_wrong_ones_refused_without_their_values() -> None:
    assert parse_filters(["StudyInstanceUID = 1.2", "Modality=MR"]) == {"StudyInstanceUID": "1.2", "Modality": "MR"}
    for wrong in (["PatientNam=Doe"], ["Doe"], ["PatientID="], ["PatientID=Doe", "PatientID=Doe"], ["Modality=Doe"]):
        with pytest.raises(ConfigError) as raised:
            parse_filters(wrong)
        assert "Doe" not in str(raised.value)


def test_statuses_of_dimse_say_done_try_again_or_refused() -> None:
    def status(code: int) -> Dataset:
        answer = Dataset()
        answer.Status = code
        return answer

    assert store_outcome(status(0x0000), "host") == ""
    assert "B007" in store_outcome(status(0xB007), "host")
    for code, error in {
        0xA700: Unreachable,
        0x0124: AccessDenied,
        0xA900: ObjectRefused,
        0xC000: ObjectRefused,
    }.items():
        with pytest.raises(error, match=f"{code:04X}"):
            store_outcome(status(code), "host")
    with pytest.raises(Unreachable):
        raise_unless_success(Dataset(), "query", "host")
    raise_unless_success(status(0xFF00), "query", "host")


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run\.json"):
        complete_objects(tmp_path)


def test_an_object_that_an_archive_sent_deflated_or_damaged_is_refused_without_inflating_it(tmp_path: Path) -> None:
    meta = b"\x02\x00\x10\x00UI" + len(DEFLATED).to_bytes(2, "little") + DEFLATED.encode()
    asked = StoredObject("1.2", "1.2.3", "1.2.3.4", "1.2.840.10008.5.1.4.1.1.4")
    for number, content in enumerate((meta + b"\x4b" * 50, b"\xff" * 50, b"")):
        path = tmp_path / str(number)
        path.write_bytes(bytes(128) + b"DICM" + content)
        with pytest.raises(ObjectRefused, match="no DICOM object"):
            _require_asked_for(asked, path)
