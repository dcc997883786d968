"""Taking what identifies a patient out of DICOM headers: PS3.15, Basic Application Level Confidentiality Profile.

The table of attributes and actions is that of the ``dicom-anonymizer`` package (extra ``deidentify``). Only the table:
its own walker leaves attributes inside sequences as they are, and turns dates that must go into dates that stay.
"""

import copy
import hashlib
import hmac
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from pydicom.datadict import dictionary_has_tag, repeater_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID

from medinterp.errors import InputError, PluginError
from medinterp.io.dicom_headers import damage
from medinterp.io.dicom_quiet import unquoted
from medinterp.io.dicom_words import code_item
from medinterp.volume import Volume

EDITION: Final = "2026c"
DUMMY_DATE: Final = "19000101"
PROFILE: Final = ("113100", "DCM", "Basic Application Confidentiality Profile")
METHOD: Final = "medinterp: DICOM PS3.15 Basic Profile"
_DEEPEST: Final = 64  # sequences within sequences; no scanner comes near it
_GRAPHICS: Final = (0x5000, 0x6000)  # curves and overlays: their bits go, and without them the rest says nothing
_REFERENCED_STUDIES: Final = (0x0008, 0x1110)  # optional in every image, and then never empty: it goes as a whole
_NAMING: Final = ("AE", "PN", "UR")  # name people, machines and places of files whatever the attribute is
_TEXT: Final = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT")
_DUMMIES: Final[Mapping[str, Any]] = {
    **dict.fromkeys(_TEXT, "REMOVED"),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW", "UN"), b"\0\0\0\0\0\0\0\0"),
    "AS": "000Y",
    "DA": DUMMY_DATE,
    "DT": f"{DUMMY_DATE}000000",
    "TM": "000000",
    "UR": "http://removed.invalid",
}


@lru_cache(maxsize=1)
def profile_actions() -> Mapping[tuple[int, int], str]:
    """Return what the profile does with each attribute that it lists.

    "U" is another UID, "X" remove, "Z" empty, "D" a dummy. Where the standard leaves a choice that depends on the kind
    of object ("X/Z/D"), the last is taken: every kind allows it.

    Raises:
        PluginError: the package with the table is not installed.

    Source:
        DICOM PS3.15, table E.1-1.
    """
    try:
        from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
    except ImportError as error:
        raise PluginError(
            "--deidentify needs the package dicom-anonymizer: pip install 'medinterp[deidentify]'"
        ) from error
    table = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")
    last = {"X_TAGS": "X", "X_Z_TAGS": "Z", "Z_TAGS": "Z", "X_D_TAGS": "D", "X_Z_D_TAGS": "D", "Z_D_TAGS": "D",
            "D_TAGS": "D", "X_Z_U_STAR_TAGS": "U", "U_TAGS": "U"}  # fmt: skip
    actions = {(tag[0], tag[1]): action for part, action in last.items() for tag in table[part] if len(tag) == 2}
    return {**actions, _REFERENCED_STUDIES: "X"}


class Deidentifier:
    """Takes patients out of scans; what belonged together before still does after.

    UIDs are replaced by a hash under a key that is drawn once and never stored: the same UID gets the same new one
    within a run, and nobody can compute it from the old one or follow it from run to run. Dates and times go;
    attributes that must have one say 1900-01-01.

    Raises:
        PluginError: the extra ``deidentify`` is not installed.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._actions = profile_actions()
        self.patient_id = f"ANON-{secrets.token_hex(6).upper()}"

    def uid(self, old: str) -> UID:
        """Return the UID that stands for another one throughout a run; DICOM's own words stay."""
        if not old or old.startswith("1.2.840.10008."):
            return UID(old)
        digest = hmac.new(self._key, old.encode(), hashlib.sha256).digest()[:16]
        return UID(f"2.25.{uuid.UUID(bytes=digest, version=4).int}")

    @unquoted()
    def scan(self, scan: Volume) -> Volume:
        """Return a scan whose headers, frame of reference and hash name nobody; its voxels are the same.

        Raises:
            InputError: its headers say that text is burned into the pixels, which stays there.
        """
        source = scan.provenance.source
        if any(str(h.get("BurnedInAnnotation", "")).upper() == "YES" for h in source.headers):
            raise InputError(
                "the scan's headers say that text is burned into its pixels (Burned In Annotation YES), and "
                "--deidentify does not change pixels; blank the text first"
            )
        headers = tuple(self._completed(self.header(h), source.sha256) for h in source.headers)
        frame = None if scan.grid.frame_uid is None else str(self.uid(scan.grid.frame_uid))
        bare = replace(source, headers=headers, sha256="")
        return replace(scan, grid=replace(scan.grid, frame_uid=frame), provenance=replace(scan.provenance, source=bare))

    def header(self, header: Dataset) -> Dataset:
        """Return a copy of a header, or of a whole object, that follows the profile and says so."""
        made = self._cleaned(header, 0)
        made.PatientName, made.PatientID = "Anonymous^", self.patient_id
        mark(made)
        return made

    def _completed(self, header: Dataset, digest: str) -> Dataset:
        """Give a header the UIDs that it lacks; derived objects would make them from the hash of the files."""
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            if not header.get(keyword):
                setattr(header, keyword, self.uid(f"{digest}{keyword}"))
        return header

    def _cleaned(self, dataset: Dataset, depth: int) -> Dataset:
        made = Dataset()
        for tag in sorted(dataset.keys()) if depth < _DEEPEST else ():
            if not _is_known(tag):
                continue
            try:
                element = self._element(dataset[tag], depth)
            except damage():  # what cannot be read cannot be checked, and goes
                continue
            if element is not None:
                made.add(element)
        return made

    def _element(self, element: DataElement, depth: int) -> DataElement | None:
        """Return what becomes of one element; None when it goes."""
        action = self._actions.get((element.tag.group, element.tag.element), "K")
        if action == "X" or (action == "D" and element.VR == "SQ"):
            return None
        if element.VR == "SQ":
            items = [] if action == "Z" else [self._cleaned(item, depth + 1) for item in element.value]
            return DataElement(element.tag, "SQ", items)
        if action == "Z" or (action == "K" and element.VR in _NAMING):
            return DataElement(element.tag, element.VR, None)
        if element.VR == "UI":  # also those that the table does not list: a UID may be anybody's
            return DataElement(element.tag, "UI", self._uids(element.value))
        if action == "D":
            return DataElement(element.tag, element.VR, _DUMMIES[element.VR])
        if element.VR in ("DA", "DT", "TM"):
            return DataElement(element.tag, element.VR, _DUMMIES[element.VR] if element.value else None)
        return copy.copy(element)

    def _uids(self, value: Any) -> Any:
        if isinstance(value, (MultiValue, list, tuple)):
            return [self.uid(str(one)) for one in value]
        return None if value is None else self.uid(str(value))


def mark(dataset: Dataset) -> None:
    """Say in an object that its patient's identity was removed, and how."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    dataset.DeidentificationMethodCodeSequence = [code_item(*PROFILE)]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def without_dates(dataset: Dataset) -> None:
    """Replace every date and time of an object, in place: the day of a run may be the day of the scan."""
    for element in dataset.iterall():
        if element.VR in ("DA", "DT", "TM") and element.value:
            element.value = _DUMMIES[element.VR]


def deidentified(scans: Mapping[str, Volume], remover: Deidentifier) -> dict[str, Volume]:
    """Return scans that name nobody, by the same names."""
    return {name: remover.scan(scan) for name, scan in scans.items()}


def _is_known(tag: BaseTag) -> bool:
    """Whether the standard knows an attribute, and it is neither private nor of a drawing over the image."""
    if tag.is_private or tag.group in (0x0002, 0xFFFC) or tag.group & 0xFF00 in _GRAPHICS:
        return False
    return dictionary_has_tag(tag) or repeater_has_tag(int(tag))
