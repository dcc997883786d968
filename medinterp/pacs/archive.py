"""What both protocols offer: search a level, store one file, retrieve one object, ask which objects are held."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

from medinterp.errors import ObjectRefused, Unreachable
from medinterp.pacs.servers import Server

GIVE_UP_AFTER = 3  # objects in a row without an answer: then it is not the objects


class Level(str, Enum):
    """A level of the DICOM query model."""

    study = "STUDY"
    series = "SERIES"
    image = "IMAGE"


@dataclass(frozen=True)
class StoredObject:
    """One object in an archive, by its identifiers.

    Args:
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        sop_uid: SOP Instance UID.
        sop_class: SOP Class UID; empty if the archive does not say.
        modality: of the series; empty if the archive does not say.
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str = ""
    modality: str = ""


@runtime_checkable
class Archive(Protocol):
    """An open connection to an archive; the methods raise ``Unreachable``, ``AccessDenied`` or ``ObjectRefused``."""

    def __enter__(self) -> "Archive": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def search(
        self, level: Level, keys: Mapping[str, str], returned: tuple[str, ...] = ()
    ) -> Iterator[Mapping[str, str]]:
        """Yield the attributes, by keyword, of everything at a level that has the given ones."""

    def store(self, path: Path) -> str:
        """Store one DICOM file; return what the archive remarked, or nothing."""

    def retrieve(self, wanted: StoredObject, path: Path) -> None:
        """Write one object of the archive to a file."""


@contextmanager
def connect(server: Server) -> Iterator[Archive]:
    """Open a server with the protocol of its address, and close it at the end."""
    if server.scheme.startswith("http"):
        from medinterp.pacs.dicomweb import DicomWeb

        with DicomWeb(server) as web:
            yield web
    else:
        from medinterp.pacs.dimse import Dimse

        with Dimse(server) as dimse:
            yield dimse


def held(archive: Archive, study_uid: str, series_uid: str) -> frozenset[str] | None:
    """Return the SOP Instance UIDs of the objects of a series that an archive holds; None if it answers no queries."""
    keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    return _sop_uids(archive, keys)


def holds(archive: Archive, wanted: StoredObject) -> bool:
    """Whether an archive has an object; False if it answers no queries, for then sending again is the safe choice."""
    keys = {"StudyInstanceUID": wanted.study_uid, "SeriesInstanceUID": wanted.series_uid}
    return wanted.sop_uid in (_sop_uids(archive, {**keys, "SOPInstanceUID": wanted.sop_uid}) or ())


def answers(archive: Archive, wanted: StoredObject) -> bool:
    """Whether an archive is there at all: an object that breaks every connection must not keep back the others."""
    try:
        holds(archive, wanted)
    except Unreachable:
        return False
    return True


def _sop_uids(archive: Archive, keys: Mapping[str, str]) -> frozenset[str] | None:
    try:
        found = tuple(archive.search(Level.image, keys))
    except ObjectRefused:
        return None
    return frozenset(one["SOPInstanceUID"] for one in found if one.get("SOPInstanceUID"))
