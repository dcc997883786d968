"""One DICOM header becomes image planes: classic and enhanced multi-frame files described alike, in LPS mm."""

import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from medinterp.io.dicom_quiet import unquoted
from medinterp.io.source_files import MAX_VOXELS, BoundedReader

SCAN_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
}
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
PRIVATE_BYTES = 1 << 16
DEFLATED = "1.2.840.10008.1.2.1.99"
# What tells the volumes of one series apart (time points, echoes, b-values, ...), the surest first.
SPLITTERS = (
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("", "TemporalPositionIdentifier"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("", "EchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("", "InversionTime"),
    ("", "FlipAngle"),
    ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    ("", "TriggerTime"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    ("", "ImageType"),
    ("", "AcquisitionNumber"),
    ("", "AcquisitionTime"),
)
# What else of a header is used: read once, where damage is caught, as the type that is needed.
FACTS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "SeriesInstanceUID": ("", str),
    "SOPInstanceUID": ("", str),
    "FrameOfReferenceUID": ("", str),
    "SeriesNumber": ("", int),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", float),
    "ImagesInAcquisition": ("", int),
    "RescaleType": ("PixelValueTransformationSequence", str),
    "Units": ("", str),
    "PixelPaddingValue": ("", int),
    "PixelPaddingRangeLimit": ("", int),
}


def damage() -> tuple[type[Exception], ...]:
    """Return what pydicom raises on damaged files; found by cutting and corrupting real ones at random."""
    from pydicom.errors import BytesLengthException

    broken_value = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, BytesLengthException)
    broken_file = (EOFError, OSError, RuntimeError, struct.error, zlib.error)
    return (*broken_value, *broken_file)


class UnreadableHeader(Exception):
    """A DICOM file that cannot be used; the message says why, without its name."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One image plane: where it is in LPS mm, how its numbers become values, what tells it from its neighbours.

    ``spacing`` is in DICOM's order: distance between rows, then between columns. ``frame`` counts from 0 in the file.
    ``keys`` holds the values of SPLITTERS, ``facts`` those of FACTS, None where absent.
    """

    path: Path
    header: Any
    frame: int
    rows: int
    columns: int
    position: Float64[np.ndarray, "3"] | None
    orientation: Float64[np.ndarray, "6"] | None
    spacing: Float64[np.ndarray, "2"] | None
    slope: float
    intercept: float
    instance: int | None
    stack: str
    keys: Mapping[str, Any]
    facts: Mapping[str, Any]
    image_type: tuple[str, ...]
    modality: str


class DicomFile(BoundedReader):
    """A DICOM file to be parsed: no element is longer than the file, and nothing is inflated.

    pydicom asks for all of a file at once in one case alone, the deflated transfer syntax, to inflate it in memory.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, or those that are left.

        Raises:
            UnreadableHeader: the whole file is asked for.
        """
        if size is None or size < 0:
            refuse_deflated({"TransferSyntaxUID": DEFLATED})
        return super().read(size)


@unquoted()
def read_header(path: Path, *, force: bool) -> Any:
    """Read everything before the pixels; None when the file is no image (a directory, a document).

    Raises:
        UnreadableHeader: the file is damaged, or its encoding is not read here.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with DicomFile(path) as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=force)
        refuse_deflated(header.file_meta)
        _drop_large_private(header)
        kind = header.get("SOPClassUID")
        stored_as = getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID")
    except InvalidDicomError:
        return None
    except damage() as error:
        raise _damaged(error) from error
    if stored_as == DIRECTORY_CLASS or (kind is None and force):
        return None
    if kind is None:
        raise UnreadableHeader("the header is damaged or cut off (it names no SOP class)")
    return header


def _damaged(error: Exception) -> Exception:
    """Return the error to raise: the system's own when the file could not be read, else that the header is damaged."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return UnreadableHeader(f"the header is damaged, incomplete or cut off ({type(error).__name__})")


def _drop_large_private(header: Any) -> None:
    """Forget private elements that are long: nothing here reads them, and the headers of a whole series are kept."""
    long = [e.tag for e in header.elements() if e.tag.is_private and len(e.value or b"") > PRIVATE_BYTES]
    for tag in long:
        del header[tag]


def refuse_deflated(meta: Any) -> None:
    """Refuse the one transfer syntax that inflates the whole file in memory before anything can be checked."""
    if meta.get("TransferSyntaxUID") == DEFLATED:
        raise UnreadableHeader("deflated transfer syntax is not read: convert it with 'dcmconv +te' from dcmtk")


@unquoted()
def why_not_a_scan(header: Any) -> str | None:
    """Say why an object is not a scan that can be read, or None."""
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    try:
        if "Rows" in header and header.get("SamplesPerPixel", 1) != 1:
            return "colour image"
        kind = str(header.SOPClassUID)
    except damage() as error:
        raise _damaged(error) from error
    if kind in SCAN_CLASSES:
        return None
    name = UID(kind, validation_mode=IGNORE).name
    return "of an unknown kind" if name == kind else name  # in a damaged header the kind may be any text, a name even


@unquoted()
def planes_of(path: Path, header: Any) -> list[Plane]:
    """Describe every frame of a CT, MR or PET file.

    Raises:
        UnreadableHeader: a size is missing or impossible.
    """
    try:
        frames = int(header.get("NumberOfFrames") or 1)
        rows, columns = int(header.Rows), int(header.Columns)
        _check_sizes(path, header, rows, columns, frames)
        return [_plane(path, header, frame, rows, columns) for frame in range(frames)]
    except damage() as error:
        raise _damaged(error) from error


def _check_sizes(path: Path, header: Any, rows: int, columns: int, frames: int) -> None:
    voxels = rows * columns * frames
    if min(rows, columns, frames) < 1 or voxels > MAX_VOXELS:
        raise UnreadableHeader(f"the header claims {columns} x {rows} x {frames} voxels; at most {MAX_VOXELS} are read")
    meta = getattr(header, "file_meta", {})
    syntax = meta.get("TransferSyntaxUID")
    bits = int(header.get("BitsAllocated", 16))
    needed, held = voxels * bits // 8, path.stat().st_size
    if (syntax is None or not syntax.is_encapsulated) and needed > held:
        raise UnreadableHeader(
            f"the header claims {needed} bytes of pixels but the file holds {held} bytes in all: "
            "it is truncated, copy it again"
        )
    if frames > 1 and len(header.get("PerFrameFunctionalGroupsSequence") or ()) != frames:
        raise UnreadableHeader(f"{frames} frames without one functional group each: their positions are unknown")


def _plane(path: Path, header: Any, frame: int, rows: int, columns: int) -> Plane:
    find = _finder(header, frame)
    number = find("", "InstanceNumber")
    slope = _number(find("PixelValueTransformationSequence", "RescaleSlope"))
    intercept = _number(find("PixelValueTransformationSequence", "RescaleIntercept"))
    return Plane(
        path=path,
        header=header,
        frame=frame,
        rows=rows,
        columns=columns,
        position=_vector(find("PlanePositionSequence", "ImagePositionPatient"), 3),
        orientation=_vector(find("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        spacing=_vector(find("PixelMeasuresSequence", "PixelSpacing"), 2),
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        instance=None if number is None else int(number),
        stack=str(find("FrameContentSequence", "StackID")),
        keys={keyword: _key(find(sequence, keyword)) for sequence, keyword in SPLITTERS},
        facts={keyword: _fact(find(sequence, keyword), kind) for keyword, (sequence, kind) in FACTS.items()},
        image_type=tuple(str(word).upper() for word in _listed(header.get("ImageType"))),
        modality=SCAN_CLASSES[str(header.SOPClassUID)],
    )


def _finder(header: Any, frame: int) -> Callable[[str, str], Any]:
    """Return a look-up of (functional group, attribute) that treats classic and enhanced headers alike."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    shared = header.get("SharedFunctionalGroupsSequence") or ()
    groups = (*(() if per_frame is None else (per_frame[frame],)), *shared)

    def find(sequence: str, keyword: str) -> Any:
        for group in groups:
            items = group.get(sequence) if sequence else None
            if items and keyword in items[0]:
                return items[0].get(keyword)
        return header.get(keyword)

    return find


def _fact(value: Any, kind: Callable[[Any], Any]) -> Any:
    return None if value is None or value == "" else kind(value)


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)


def _vector(value: Any, length: int) -> Float64[np.ndarray, " {length}"] | None:
    numbers = [float(item) for item in _listed(value)]
    return np.array(numbers) if len(numbers) == length and all(map(math.isfinite, numbers)) else None


def _key(value: Any) -> Any:
    """Return a value that sorts: a number where it is one, else text."""
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float):
        try:
            return float(value)
        except ValueError:
            return str(value)
    return "\\".join(str(item) for item in _listed(value))


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)
