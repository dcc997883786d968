"""Fetching objects from an archive into a folder that appears when it is complete; resumable, one object in memory."""

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

import medinterp
from medinterp.errors import (
    AccessDenied,
    ConfigError,
    InputError,
    ObjectRefused,
    OutputError,
    TransferError,
    Unreachable,
)
from medinterp.export.record import manifest, sha256, write_json
from medinterp.io.dicom_headers import DicomFile, UnreadableHeader, damage
from medinterp.pacs.archive import GIVE_UP_AFTER, Archive, StoredObject, answers, connect
from medinterp.pacs.backoff import Backoff
from medinterp.pacs.finding import find_objects
from medinterp.pacs.journal import Journal
from medinterp.pacs.quiet import quiet
from medinterp.pacs.servers import Server
from medinterp.pacs.uid_hash import hashed
from medinterp.progress import OnStep, StepInfo, ignore

logger = logging.getLogger(__name__)

RECORD = "fetch.json"
_JOURNAL = ".fetch.jsonl"
_QUERY = "query"


@dataclass
class FetchReport:
    """What became of the objects that were asked for.

    Args:
        folder: where they lie, or will lie.
        fetched: how many came now.
        already_there: how many an earlier run brought.
        refused: objects the archive would not give, by hashed UID, each with the reason.
        missing: how many were not tried, or found no answer.
        stopped: why it ended early; None if it did not.
    """

    folder: Path
    fetched: int = 0
    already_there: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    stopped: TransferError | ConfigError | None = None

    @property
    def complete(self) -> bool:
        """Whether every object is in the folder."""
        return self.stopped is None and not (self.refused or self.missing)

    def summary(self) -> str:
        """Return a few lines for people; objects are named by hashed UID."""
        counts = f"fetched {self.fetched}, already there {self.already_there}, refused {len(self.refused)}"
        lines = [counts + (f", not fetched {self.missing}" if self.missing else "")]
        lines += [f"  refused object {key}: {reason}" for key, reason in self.refused.items()]
        return "\n".join([*lines, f"wrote {self.folder}"] if self.complete else lines)

    def raise_unless_complete(self) -> None:
        """Raise unless every object is in the folder.

        Raises:
            TransferError: it is not; the message counts what is missing.
            ConfigError: an option or certificate ended it early.
        """
        if self.stopped is not None:
            raise self.stopped
        if self.refused:
            raise TransferError(
                f"{len(self.refused)} objects did not come, so {self.folder} was not made; the same command tries them "
                "again, narrower filters leave them out"
            )


def fetch(
    server: Server,
    filters: Mapping[str, str],
    destination: Path,
    *,
    backoff: Backoff | None = None,
    on_step: OnStep = ignore,
) -> FetchReport:
    """Fetch every object that matches into ``study-HASH/series-HASH/HASH.dcm`` below a new folder.

    Objects come one by one into a hidden folder beside the destination, which gets its name when it holds them all; a
    second run with the same filters goes on where the first one stopped. No name holds an attribute of a patient.
    ``fetch.json`` lists the files with their hashes.

    Args:
        server: where from.
        filters: from ``parse_filters``.
        destination: folder to make; must not exist or be empty.
        backoff: how often to try again.
        on_step: progress callback.

    Raises:
        InputError: nothing matches.
        OutputError: the destination is taken or cannot be written, or another fetch to it was left unfinished.
        TransferError: the archive could not be searched.
    """
    destination = destination.expanduser().resolve()
    _refuse_taken(destination)
    partial = destination.parent / f".{destination.name}.fetching"
    query = hashed(repr((server.identity, sorted(filters.items()))))
    with quiet(), connect(server) as archive:
        waits = backoff or Backoff()
        objects = waits.run(lambda _: find_objects(archive, filters))
        if not objects:
            raise InputError("the archive has no object that matches the filters; try --list with fewer of them")
        try:
            partial.mkdir(parents=True, exist_ok=True)
            with Journal(partial / _JOURNAL) as journal:
                _require_same_query(journal, query, partial)
                report = _Fetcher(archive, journal, waits, on_step, partial, FetchReport(destination)).fetch(objects)
            if report.complete:
                _commit(partial, destination, len(objects))
        except OSError as error:
            raise OutputError(f"{partial} cannot be written: {error.strerror}; the same command goes on") from None
    return report


@dataclass
class _Fetcher:
    archive: Archive
    journal: Journal
    backoff: Backoff
    on_step: OnStep
    folder: Path
    report: FetchReport
    unanswered: int = 0

    def fetch(self, objects: tuple[StoredObject, ...]) -> FetchReport:
        """Fetch what is missing; on an error that ends it, report what was done and what was not."""
        tried = 0
        try:
            for tried, one in enumerate(objects):
                self.on_step(StepInfo("fetch", tried, len(objects)))
                self._fetch_unless_there(one)
            self.on_step(StepInfo("fetch", len(objects), len(objects)))
        except (Unreachable, AccessDenied, ConfigError) as error:
            self.report.stopped, self.report.missing = error, len(objects) - tried
        logger.info("fetched %d objects, %d were there", self.report.fetched, self.report.already_there)
        return self.report

    def _fetch_unless_there(self, one: StoredObject) -> None:
        key = hashed(one.sop_uid)
        path = self.folder / f"study-{hashed(one.study_uid)}" / f"series-{hashed(one.series_uid)}" / f"{key}.dcm"
        known = self.journal.get(key).get("sha256")
        if known is not None and path.is_file() and sha256(path) == known:
            self.report.already_there += 1
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        coming = path.with_suffix(".coming")
        try:
            self.backoff.run(lambda attempt: self._attempt(one, coming, attempt))
        except (ObjectRefused, Unreachable) as error:
            coming.unlink(missing_ok=True)
            self._require_answers(one, error)
            logger.warning("object %s does not come: %s", key, error)
            self.report.refused[key] = str(error)
            return
        self.unanswered = 0
        os.replace(coming, path)
        self.journal.write(key, sha256=sha256(path))
        self.report.fetched += 1

    def _require_answers(self, one: StoredObject, error: TransferError) -> None:
        """Raise the error again if it is the archive's trouble and not this object's."""
        self.unanswered = self.unanswered + 1 if isinstance(error, Unreachable) else 0
        if self.unanswered and (self.unanswered >= GIVE_UP_AFTER or not answers(self.archive, one)):
            raise error

    def _attempt(self, one: StoredObject, coming: Path, attempt: int) -> None:
        if attempt > 1:
            logger.info("object %s: attempt %d", hashed(one.sop_uid), attempt)
        self.archive.retrieve(one, coming)
        _require_asked_for(one, coming)
        with coming.open("rb+") as stream:
            os.fsync(stream.fileno())  # else a power cut could leave the final name on an empty file


def _require_asked_for(one: StoredObject, path: Path) -> None:
    try:
        with DicomFile(path) as file:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        found = (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)
    except (InvalidDicomError, UnreadableHeader, *damage()) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ObjectRefused("what came is no DICOM object, or a damaged or deflated one") from None
    if found != (one.study_uid, one.series_uid, one.sop_uid):
        raise ObjectRefused("what came is another object")


def _refuse_taken(destination: Path) -> None:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise OutputError(f"{destination} exists and is not an empty folder; choose another one")


def _require_same_query(journal: Journal, query: str, partial: Path) -> None:
    before = journal.get(_QUERY).get("hash", query)
    if before != query:
        raise OutputError(
            f"{partial} holds an unfinished fetch with other filters or from another server; finish that one, remove "
            "that folder, or choose another output"
        )
    journal.write(_QUERY, hash=query)


def _commit(partial: Path, destination: Path, expected: int) -> None:
    """Write the record, give the folder its name, and drop the journal."""
    for left in partial.rglob("*.coming"):
        left.unlink()
    files = [asdict(entry) for entry in manifest(partial) if entry.path not in (_JOURNAL, RECORD)]
    if len(files) != expected:
        raise OutputError(f"{partial} holds {len(files)} files, expected {expected}; remove it and fetch again")
    write_json(partial / RECORD, {"medinterp": medinterp.__version__, "objects": expected, "files": files})
    _refuse_taken(destination)
    if destination.exists():
        destination.rmdir()
    partial.rename(destination)
    (destination / _JOURNAL).unlink()
