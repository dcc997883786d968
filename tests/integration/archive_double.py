"""A small image archive for tests: objects in memory, faults on demand; its two doors are in archive_doors.py."""

import io
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pydicom
from pydicom.dataset import Dataset

from medinterp.pacs.attributes import KEYWORDS, matches


@dataclass
class ArchiveDouble:
    """What an archive holds and how it misbehaves.

    Args:
        faults: one for each object that is stored or retrieved, in turn: "drop" the connection instead,
            "drop_after" the work is done and before it is told, be "busy", answer too "slow"-ly, or "" for none.
        refused: SOP Instance UIDs that it neither takes nor gives.
        answers_queries: whether it can be searched.
        ignores_filters: whether it returns everything, whatever was asked.
        denies: whether it wants other credentials.
        redirects_to: address to which it sends every request on.
        lists: whether it lists what it has stored.
        sends_instead: SOP Instance UIDs for which it gives another object.
    """

    faults: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    answers_queries: bool = True
    ignores_filters: bool = False
    denies: bool = False
    redirects_to: str = ""
    lists: bool = True
    sends_instead: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    stored: Counter[str] = field(default_factory=Counter)
    retrieved: Counter[str] = field(default_factory=Counter)
    headers_seen: list[str] = field(default_factory=list)
    work: int = 0
    hold_at: int | None = None
    holding: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self) -> str:
        """Return what goes wrong with the next object; at ``hold_at`` wait until the test says so."""
        with self.lock:
            number, self.work = self.work, self.work + 1
        if number == self.hold_at:
            self.holding.set()
            self.released.wait(60)
        return self.faults[number] if number < len(self.faults) else ""

    def add(self, data: bytes) -> str:
        """Store an object as an archive does: once more if it is sent once more."""
        uid = str(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).SOPInstanceUID)
        with self.lock:
            self.objects[uid] = data
            self.stored[uid] += 1
        return uid

    def give(self, uid: str) -> bytes:
        """Return what it sends for an object."""
        self.retrieved[uid] += 1
        return self.objects[self.sends_instead.get(uid, uid)]

    def find(self, level: str, keys: dict[str, str]) -> Iterator[Dataset]:
        """Yield, once each, what matches at a level: STUDY, SERIES or IMAGE."""
        names = {"STUDY": 1, "SERIES": 2, "IMAGE": 3}
        wanted = [k for levels in list(KEYWORDS.values())[: names[level]] for k in levels]
        seen = set()
        for data in list(self.objects.values()) if self.lists else []:
            whole = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            whole.ModalitiesInStudy = whole.Modality
            found = Dataset()
            found.update({element.tag: element for element in whole if element.keyword in wanted})
            own = {k: v for k, v in keys.items() if k in wanted}
            fits = all(matches(k, v, str(found.get(k, ""))) for k, v in own.items() if v)
            unique = str(found[list(KEYWORDS.values())[names[level] - 1][0]].value)
            if (fits or self.ignores_filters) and unique not in seen:
                seen.add(unique)
                yield found
