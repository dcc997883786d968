"""What Parametric Maps and Segmentations share: planes and equipment as highdicom wants them, references, saving."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medinterp.errors import GridMismatch, InputError
from medinterp.io import dicom_template, dicom_words
from medinterp.volume import Grid

_INSTANCE = Tag("SOPInstanceUID")


def require_headers_of(grid: Grid, headers: Sequence[Dataset]) -> None:
    """Raise GridMismatch unless the headers, one a slice along K, describe this grid."""
    if not headers:
        raise InputError("no template headers: expected one a slice; make them with template_headers(scan)")
    why = grid.mismatch(dicom_template.grid_of(headers))
    if why is not None:
        raise GridMismatch(f"the map is on another grid than the DICOM template: {why}; use the template of its scan")


def shared_arguments(grid: Grid, headers: Sequence[Dataset], description: str, series_number: int) -> dict[str, Any]:
    """Return the arguments that highdicom's ParametricMap and Segmentation have in common."""
    from highdicom.content import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence

    plan = dicom_template.planes(grid)
    positions = [plan.positions[k].tolist() for k in plan.order]
    return {
        "source_images": _citable(headers),
        "pixel_measures": PixelMeasuresSequence(plan.spacing, float(headers[0].SliceThickness), plan.gap),
        "plane_orientation": PlaneOrientationSequence("PATIENT", plan.orientation),
        "plane_positions": [PlanePositionSequence("PATIENT", position) for position in positions],
        "series_instance_uid": dicom_words.new_uid(),
        "series_number": series_number,
        "sop_instance_uid": dicom_words.new_uid(),
        "instance_number": 1,
        "manufacturer": dicom_words.MANUFACTURER,
        "manufacturer_model_name": dicom_words.MANUFACTURER,
        "software_versions": dicom_words.software_version(),
        "device_serial_number": "0",
        "content_creator_name": dicom_words.CREATOR,
        "content_description": dicom_words.research_description(description),
        "series_description": dicom_words.research_description(description),
    }


def _citable(headers: Sequence[Dataset]) -> list[Dataset]:
    """Return headers that highdicom accepts as sources; `finish` puts the scan's own words back.

    highdicom refuses or warns about (with the name!) patients' attributes that are not to its taste, so it sees blanks.
    """
    blank = Dataset()
    for keyword in dicom_template.REQUIRED:
        setattr(blank, keyword, "Anonymous^" if keyword == "PatientName" else "")
    # One classic image a slice, whatever the source: highdicom takes a multi-frame source only whole.
    blank.SOPClassUID = dicom_template.CT_IMAGE if headers[0].Modality == "CT" else dicom_template.MR_IMAGE
    sources = []
    for header in headers:
        source = Dataset()
        source.update(header)
        source.update(blank)
        source[_INSTANCE] = DataElement(_INSTANCE, "UI", dicom_words.new_uid())
        sources.append(source)
    return sources


def finish(dataset: Dataset, headers: Sequence[Dataset]) -> None:
    """Set patient, study and body part, references to the source images and the private coding scheme.

    Headers of a scan that never was DICOM name no SOP Instance; then no reference is written, since it would dangle.
    """
    dataset.CodingSchemeIdentificationSequence = [dicom_words.scheme_item()]
    for keyword in (*dicom_template.REQUIRED, *dicom_template.OPTIONAL):
        if keyword in headers[0]:
            dataset[keyword] = headers[0][keyword]
    dataset.pop("SourceImageSequence", None)
    dataset.pop("ReferencedSeriesSequence", None)
    known = all("SOPInstanceUID" in header for header in headers)
    if known:
        dataset.ReferencedSeriesSequence = [_series_reference(headers)]
    where = np.array([header.ImagePositionPatient for header in headers], dtype=np.float64)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence = [_derivation(headers[_slice_at(frame, where)])] if known else []


def _slice_at(frame: Dataset, where: Float64[np.ndarray, "K 3"]) -> int:
    """Return the slice index K whose position a frame has."""
    position = np.asarray(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
    return int(np.linalg.norm(where - position, axis=1).argmin())


def _series_reference(headers: Sequence[Dataset]) -> Dataset:
    """Return the reference to the source series, every instance once."""
    instances = {str(header.SOPInstanceUID): str(header.SOPClassUID) for header in headers}
    series = Dataset()
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = []
    for instance, sop_class in instances.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        series.ReferencedInstanceSequence.append(item)
    return series


def _derivation(header: Dataset) -> Dataset:
    """Return how a frame was derived: by an unspecified method from its source slice."""
    item = Dataset()
    item.DerivationCodeSequence = [dicom_words.code_item("112187", "DCM", "Unspecified method of calculation")]
    item.SourceImageSequence = [dicom_words.reference_item(header)]
    return item


def save(dataset: Dataset, path: Path) -> Path:
    """Write a finished object, in UTF-8, and return its path."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path
