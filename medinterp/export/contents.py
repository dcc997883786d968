"""What a writer of the study folder is given, and the role it plays; plug-ins register theirs as medinterp.writers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydicom.dataset import Dataset

from medinterp.errors import InputError
from medinterp.export.drawn import Drawn
from medinterp.export.run_record import RunFacts, run_record
from medinterp.io.dicom_template import template_headers
from medinterp.results import InputResult, Result
from medinterp.volume import Volume

_FIRST_MAP, _PER_MAP = 9100, 10


@dataclass(frozen=True, eq=False)
class StudyContents:
    """Everything a run found, for its writers.

    Args:
        result: volumes, numbers and certificates.
        facts: what else the run record says.
        drawn: every map, ready to be shown.
        images: which volume lies in which NIfTI file by now; a writer that comes later may copy it.
        notes: what was not written and why, in words, by now.
    """

    result: Result
    facts: RunFacts
    drawn: tuple[Drawn, ...]
    images: dict[Volume, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _headers: dict[str, tuple[Dataset, ...] | InputError] = field(default_factory=dict)

    def drawn_on(self, name: str) -> list[Drawn]:
        """Return the maps that lie on one input."""
        return [d for d in self.drawn if d.input_name == name]

    def numbered(self, name: str) -> Iterator[tuple[int, Drawn]]:
        """Yield the maps on one input, each with the first of ten DICOM series numbers that are its own."""
        for number, drawn in enumerate(self.drawn_on(name)):
            yield _FIRST_MAP + _PER_MAP * number, drawn

    def headers(self, name: str) -> tuple[Dataset, ...]:
        """Return the headers that DICOM objects on one input take their context from; made once.

        Raises:
            InputError: DICOM cannot tell this scan; see ``io.dicom_template.template_headers``.
        """
        if name not in self._headers:
            try:
                self._headers[name] = template_headers(self.result.inputs[name].scan)
            except InputError as refusal:
                self._headers[name] = refusal
        found = self._headers[name]
        if isinstance(found, InputError):
            raise found
        return found

    def in_dicom(self, notes: list[str]) -> Iterator[tuple[str, InputResult, Sequence[Dataset]]]:
        """Yield the inputs that DICOM can tell, with their headers; for any other a note says why not."""
        for name, one in self.result.inputs.items():
            try:
                headers = self.headers(name)
            except InputError as refusal:
                notes.append(f"{name}: no DICOM was written: {refusal}")
                continue
            yield name, one, headers

    def record(self) -> Mapping[str, Any]:
        """Return what ``run.json`` holds, but for the list of files."""
        return run_record(self.result, self.facts, self.notes)


@runtime_checkable
class Writer(Protocol):
    """What writes one kind of files into a study folder."""

    def __call__(self, contents: StudyContents, folder: Path) -> Sequence[str]:
        """Write into the folder, or a folder of its own in it, and return what was not written and why, in words.

        File names are built from ``export.names`` and never from the paths of inputs, which may name a patient. A
        result that the format cannot hold is a note, not an error.
        """
