"""Sending a finished study folder to an archive: each object once, confirmed by the archive, resumable."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

from medinterp.errors import AccessDenied, ConfigError, ObjectRefused, TransferError, Unreachable
from medinterp.pacs.archive import GIVE_UP_AFTER, Archive, answers, connect, held, holds
from medinterp.pacs.backoff import Backoff
from medinterp.pacs.journal import Journal
from medinterp.pacs.quiet import quiet
from medinterp.pacs.servers import Server
from medinterp.pacs.study_objects import LocalObject, complete_objects
from medinterp.pacs.uid_hash import hashed
from medinterp.progress import OnStep, StepInfo, ignore

logger = logging.getLogger(__name__)


@dataclass
class SendReport:
    """What became of the objects of a study folder; each name is in one of the lists.

    Args:
        sent: names of files that the archive took now.
        already_there: names of files whose objects it had.
        refused: names of files it would not take, each with the reason.
        unconfirmed: names of files it took and then did not list.
        waiting: names of files that were not tried, or found no answer.
        notes: what else the user should know.
        stopped: why it ended early; None if it did not.
    """

    sent: list[str] = field(default_factory=list)
    already_there: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    unconfirmed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped: TransferError | ConfigError | None = None

    @property
    def complete(self) -> bool:
        """Whether the archive has every object."""
        return self.stopped is None and not (self.refused or self.unconfirmed or self.waiting)

    def summary(self) -> str:
        """Return a few lines for people."""
        lines = [f"sent {len(self.sent)}, already there {len(self.already_there)}, refused {len(self.refused)}"]
        if self.unconfirmed:
            lines[0] += f", not confirmed {len(self.unconfirmed)}"
        if self.waiting:
            lines[0] += f", not sent {len(self.waiting)}"
        lines += [f"  refused {name}: {reason}" for name, reason in self.refused.items()]
        lines += [f"  not confirmed {name}: the archive took it and does not list it" for name in self.unconfirmed]
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def raise_unless_complete(self) -> None:
        """Raise unless the archive has every object.

        Raises:
            TransferError: it has not; the message counts what is missing.
            ConfigError: an option or certificate ended it early.
        """
        if self.stopped is not None:
            raise self.stopped
        missing = len(self.refused) + len(self.unconfirmed) + len(self.waiting)
        if missing:
            raise TransferError(f"{missing} objects are not in the archive; the same command tries them again")


def send_study(folder: Path, server: Server, *, backoff: Backoff | None = None, on_step: OnStep = ignore) -> SendReport:
    """Send every DICOM object of a finished study folder to an archive that does not have it.

    The archive is asked what it has before anything is sent, again before an object is sent a second time, and at the
    end. Where it answers no queries, the journal in the folder (``.send-*.jsonl``) says what was sent. A second run
    goes on where the first one stopped. An object that the archive has is not compared with ours voxel by voxel.

    Args:
        folder: that medinterp wrote.
        server: where to.
        backoff: how often to try again.
        on_step: progress callback.

    Raises:
        InputError: the folder is not whole; nothing was sent.
        OutputError: the journal cannot be written.
    """
    objects = complete_objects(folder)
    journal = folder / f".send-{hashed(server.identity)}.jsonl"
    with quiet(), Journal(journal) as done, connect(server) as archive:
        return _Sender(archive, done, backoff or Backoff(), on_step).send(objects)


@dataclass
class _Sender:
    archive: Archive
    journal: Journal
    backoff: Backoff
    on_step: OnStep
    report: SendReport = field(default_factory=SendReport)
    unanswered: int = 0

    def send(self, objects: tuple[LocalObject, ...]) -> SendReport:
        """Send what is missing; on an error that ends it, report what was done and what was not."""
        tried = 0
        try:
            for one, known in self._with_what_is_held(objects):
                self._send_unless_held(one, known)
                tried += 1
                self.on_step(StepInfo("send", tried, len(objects)))
            self._confirm([one for one in objects if one.name in self.report.sent])
        except (Unreachable, AccessDenied, ConfigError) as error:
            self.report.stopped = error
            self.report.waiting = [one.name for one in objects[tried:]]
        logger.info("sent %d objects, %d were there", len(self.report.sent), len(self.report.already_there))
        return self.report

    def _with_what_is_held(
        self, objects: tuple[LocalObject, ...]
    ) -> Iterator[tuple[LocalObject, frozenset[str] | None]]:
        for (study, series), group in groupby(objects, lambda o: (o.identifiers.study_uid, o.identifiers.series_uid)):
            known = self._held(study, series)
            yield from ((one, known) for one in group)

    def _held(self, study: str, series: str) -> frozenset[str] | None:
        return self.backoff.run(lambda _: held(self.archive, study, series))

    def _send_unless_held(self, one: LocalObject, known: frozenset[str] | None) -> None:
        key = hashed(one.identifiers.sop_uid)
        before = self.journal.get(key)
        by_journal = known is None and before.get("state") == "sent" and before.get("sha256") == one.sha256
        if by_journal or (known is not None and one.identifiers.sop_uid in known):
            self.report.already_there.append(one.name)
            return
        try:
            remark = self.backoff.run(lambda attempt: self._attempt(one, attempt))
        except (ObjectRefused, Unreachable) as error:
            self._require_answers(one, error)
            logger.warning("object %s is refused: %s", key, error)
            self.report.refused[one.name] = str(error)
            self.journal.write(key, state="refused", sha256=one.sha256)
            return
        self.unanswered = 0
        self.journal.write(key, state="sent", sha256=one.sha256)
        self.report.sent.append(one.name)
        if remark:
            self.report.notes.append(f"{one.name}: {remark}")

    def _require_answers(self, one: LocalObject, error: TransferError) -> None:
        """Raise the error again if it is the archive's trouble and not this object's."""
        self.unanswered = self.unanswered + 1 if isinstance(error, Unreachable) else 0
        if self.unanswered and (self.unanswered >= GIVE_UP_AFTER or not answers(self.archive, one.identifiers)):
            raise error

    def _attempt(self, one: LocalObject, attempt: int) -> str:
        if attempt > 1:
            logger.info("object %s: attempt %d", hashed(one.identifiers.sop_uid), attempt)
            if holds(self.archive, one.identifiers):  # it got through, only the answer was lost
                return ""
        return self.archive.store(one.path)

    def _confirm(self, sent: list[LocalObject]) -> None:
        """Ask the archive for every series of which something was sent; it may take a while to list new objects."""
        for (study, series), group in groupby(sent, lambda o: (o.identifiers.study_uid, o.identifiers.series_uid)):
            names = {one.identifiers.sop_uid: one.name for one in group}
            try:
                self.backoff.run(partial(self._require_listed, study, series, frozenset(names)))
            except _NotListed as error:
                self.report.unconfirmed += [names[uid] for uid in sorted(error.uids, key=names.__getitem__)]
        self.report.sent = [name for name in self.report.sent if name not in self.report.unconfirmed]

    def _require_listed(self, study: str, series: str, uids: frozenset[str], _attempt: int) -> None:
        known = held(self.archive, study, series)
        if known is None:
            note = "the archive answers no queries, so that it has the objects is only its own word"
            self.report.notes += [note] if note not in self.report.notes else []
        elif uids - known:
            raise _NotListed(uids - known)


class _NotListed(Unreachable):
    """Objects that were stored are not in the archive's answer, or not yet."""

    def __init__(self, uids: frozenset[str]) -> None:
        super().__init__(f"{len(uids)} objects are not listed")
        self.uids = uids
