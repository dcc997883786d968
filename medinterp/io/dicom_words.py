"""The words of the DICOM objects we write: codes, units, descriptions, references, new UIDs."""

import hashlib
import importlib.metadata
import uuid

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import format_number_as_ds

MANUFACTURER = "medinterp"
CREATOR = "Medinterp^Software"
RESEARCH = "research use only"
SCHEME = "99MEDINTERP"
_UNITS = {
    "HU": ("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "a.u.": ("[arb'U]", "UCUM", "arbitrary unit"),
    "1": ("1", "UCUM", "no units"),
    "%": ("%", "UCUM", "Percent"),
    "mm": ("mm", "UCUM", "mm"),
    "mm3": ("mm3", "UCUM", "cubic millimeter"),
}


def new_uid(*entropy: str) -> UID:
    """Return a UID that depends on ``entropy`` alone; without entropy, one that never was."""
    seed = hashlib.sha256("\x1f".join(entropy).encode()).digest()[:16]
    return UID(f"2.25.{uuid.UUID(bytes=seed, version=4).int if entropy else uuid.uuid4().int}")


def software_version() -> str:
    """Return the version of medinterp for equipment modules; a checkout that was never installed says so."""
    try:
        return importlib.metadata.version("medinterp")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def research_description(description: str, scale: str = "") -> str:
    """Return a series description that ends in the scale and 'research use only'.

    DICOM allows 64 characters; 64 bytes of UTF-8 is what validators and databases that count bytes allow, too.
    """
    suffix = f"{scale} ({RESEARCH})"
    return description.encode()[: 64 - len(suffix.encode())].decode(errors="ignore").rstrip() + suffix


def unit_code(unit: str) -> tuple[str, str, str]:
    """Return value, scheme and meaning of the code for a unit; what UCUM lacks gets our private scheme."""
    return _UNITS[unit] if unit in _UNITS else private_code(unit)


def private_code(meaning: str) -> tuple[str, str, str]:
    """Return a code of our private scheme with a plain meaning; the same meaning always gets the same value."""
    value = hashlib.sha256(meaning.encode()).hexdigest()[:12].upper()
    return value, SCHEME, meaning[:64]


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a code sequence item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def scheme_item() -> Dataset:
    """Return the identification of our private coding scheme, which every object that uses it must carry."""
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeName = "medinterp private codes"
    item.CodingSchemeResponsibleOrganization = "medinterp"
    return item


def reference_item(header: Dataset) -> Dataset:
    """Return the reference to the source image of one slice, with its frame when the source is multi-frame."""
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if "ReferencedFrameNumber" in header:
        item.ReferencedFrameNumber = header.ReferencedFrameNumber
    item.SpatialLocationsPreserved = "YES"
    item.PurposeOfReferenceCodeSequence = [code_item("121322", "DCM", "Source image for image processing operation")]
    return item


def ds_text(value: float) -> str:
    """Return a number as a DICOM decimal string: at most 16 characters, with the most digits that fit."""
    return format_number_as_ds(float(value) + 0.0)  # -0.0 becomes 0.0
