"""Where a volume came from and what was done to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Source:
    """The files a volume was read from.

    Args:
        kind: "nifti", "nrrd", "dicom" or "memory".
        sha256: hash of the bytes of all files, in slice order.
        paths: the files; never shown or logged by default, since names may hold patient data.
        headers: for DICOM, one header without pixel data per slice along K (or the one enhanced header), used as
            the template of derived objects; never shown or logged.
        notes: what a reader had to say about the files ("a localizer was left out"), free of patient data.
    """

    kind: str
    sha256: str = ""
    paths: tuple[Path, ...] = field(default=(), repr=False)
    headers: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One thing done to a volume: its name and every parameter that matters for repeating it."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))


@dataclass(frozen=True)
class Provenance:
    """The source and the steps since."""

    source: Source
    steps: tuple[Step, ...] = ()

    def then(self, step: Step) -> "Provenance":
        """Return the provenance after one more step."""
        return replace(self, steps=(*self.steps, step))
