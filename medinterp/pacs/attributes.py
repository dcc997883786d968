"""Attributes of a query: which keyword belongs to which level, their texts, and whether an answer matches."""

import re
from collections.abc import Mapping

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from medinterp.errors import ConfigError
from medinterp.pacs.archive import Level

KEYWORDS: Mapping[Level, tuple[str, ...]] = {
    Level.study: (
        "StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "StudyDate", "StudyID", "AccessionNumber",
        "StudyDescription", "ModalitiesInStudy",
    ),
    Level.series: (
        "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "ProtocolName", "BodyPartExamined",
    ),
    Level.image: ("SOPInstanceUID", "SOPClassUID", "InstanceNumber"),
}  # fmt: skip
UNIQUE: Mapping[Level, str] = {level: keywords[0] for level, keywords in KEYWORDS.items()}
_DATES = ("PatientBirthDate", "StudyDate")


def parse_filters(texts: list[str]) -> dict[str, str]:
    """Split KEYWORD=VALUE texts.

    Raises:
        ConfigError: a text of another form, an unknown or repeated keyword, or no attribute of the study. Values are
            not shown: they may name a patient.
    """
    known = [keyword for level in Level for keyword in KEYWORDS[level]]
    filters: dict[str, str] = {}
    for number, text in enumerate(texts, start=1):
        keyword, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not value or keyword not in known:
            raise ConfigError(
                f"filter {number} is not KEYWORD=VALUE with a known keyword; the keywords are {', '.join(known)}"
            )
        if keyword in filters:
            raise ConfigError(f"two filters are on {keyword}; expected one (UIDs may be several, a backslash between)")
        filters[keyword] = value
    if not filters.keys() & set(KEYWORDS[Level.study]):
        raise ConfigError(
            "no filter says which study, so the whole archive would be searched; give at least one of "
            f"{', '.join(KEYWORDS[Level.study])}"
        )
    return filters


def as_texts(found: Dataset) -> dict[str, str]:
    """Return the attributes of a data set as texts by keyword; several values have a backslash between them."""
    return {item.keyword: _text(item.value) for item in found if item.keyword and item.VR != "SQ"}


def _text(value: object) -> str:
    if value is None:
        return ""
    return "\\".join(str(one) for one in value) if isinstance(value, MultiValue | list) else str(value)


def matches(keyword: str, wanted: str, found: str) -> bool:
    r"""Whether a value an archive returned is one that was asked for, by the matching rules of DICOM PS3.4 C.2.2.2.

    Case does not count in names, and trailing spaces and empty parts of names do not either.

    >>> matches("StudyDate", "20240101-20240131", "20240117"), matches("SeriesDescription", "*T1*", "ax T2")
    (True, False)
    """
    values = [one.strip() for one in found.split("\\")]
    if keyword.endswith("UID"):
        return any(value in wanted.split("\\") for value in values)
    if keyword in _DATES and "-" in wanted:
        first, _, last = wanted.partition("-")
        return any(value and first <= value <= (last or "9") for value in values)
    if keyword == "PatientName":
        wanted, values = wanted.rstrip("^= ").casefold(), [value.rstrip("^= ").casefold() for value in values]
    pattern = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in wanted)
    return any(re.fullmatch(pattern, value, re.DOTALL) for value in values)
