"""Keep file names out of what people pass on: paths may hold a patient's name."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from medinterp.volume import Volume

LEFT_OUT = "[path left out]"
_SHORTEST_NAME = 5  # a DICOM file may be called "1": that is a number in any other text, and no secret
_START = r"(?<![^\s=:\"'(\[{<,;])"  # a slash inside a word is a fraction ("a.u./mm"); a path begins a word
_PART = r"[^\s\"'<>|,;()\[\]{}]"
_ROOT = r"(?:[A-Za-z]:[\\/]|~[\\/]|\.{1,2}[\\/]|\\\\|/)"
_SCAN = r"\.(?:nii|dcm|ima|nrrd|nhdr|mha|mhd|mgz|mgh|img|hdr|zip)\b(?:\.gz)?"
_PATH = re.compile(
    rf"{_START}{_ROOT}{_PART}*[^\s\"'<>|,;()\[\]{{}}.:]|(?:(?!=){_PART})+[\\/]{_PART}+{_SCAN}", re.IGNORECASE
)


def source_names(volumes: Iterable[Volume]) -> tuple[str, ...]:
    """Return every spelling of the paths that volumes were read from, longest first."""
    names: set[str] = set()
    for path in (path for volume in volumes for path in volume.provenance.source.paths):
        names |= {str(path), path.as_posix(), str(path.parent), path.name}
    return tuple(sorted((n for n in names if len(n) >= _SHORTEST_NAME), key=len, reverse=True))


def without_paths(value: Any, names: tuple[str, ...] = ()) -> Any:
    """Return a text, or a nesting of mappings and lists, in which every path gives way to "[path left out]".

    Args:
        value: what is about to be shown; numbers and the like pass through.
        names: further texts to leave out, from ``source_names``.
    """
    if isinstance(value, PurePath):
        return LEFT_OUT
    if isinstance(value, str):
        for name in names:
            value = value.replace(name, LEFT_OUT)
        return _PATH.sub(LEFT_OUT, value)
    if isinstance(value, Mapping):
        return {without_paths(k, names): without_paths(v, names) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item, names) for item in value]
    return value
