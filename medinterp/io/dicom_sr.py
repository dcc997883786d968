"""Writing measurements as a DICOM structured report (TID 1500): numbers, their uncertainty, where they were taken."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medinterp.errors import InputError
from medinterp.io import dicom_template, dicom_words
from medinterp.io.dicom_multiframe import save

_FLIP = np.array([-1.0, -1.0, 1.0])  # RAS+ to LPS+
_ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")
_PROCEDURES = {
    "MR": ("113091000", "SCT", "Magnetic resonance imaging"),
    "CT": ("77477000", "SCT", "Computed tomography"),
}
_NAMES = {"Volume": ("118565006", "SCT", "Volume")}
_UPPER = ("371886008", "SCT", "+, range of upper measurement uncertainty")
_LOWER = ("371885007", "SCT", "-, range of lower measurement uncertainty")


@dataclass(frozen=True)
class Reading:
    """One number.

    Args:
        name: what it is; words without a DICOM code get a private one.
        value: in the unit.
        unit: "1" where there is none.
        above: how far above the value the truth may lie, in the unit; None where that is not known.
        below: how far below.
    """

    name: str
    value: float
    unit: str = "1"
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class ReadingGroup:
    """Numbers that belong together.

    Args:
        title: what they are about.
        readings: the numbers, one or more.
        verdicts: findings in words, each with its name.
        at_mm: where they were taken, RAS mm; None where that is everywhere.
        method: how, in a few words.
    """

    title: str
    readings: tuple[Reading, ...]
    verdicts: tuple[tuple[str, str], ...] = ()
    at_mm: tuple[float, float, float] | None = None
    method: str | None = None


def write_measurement_report(
    groups: Sequence[ReadingGroup],
    template_series: Sequence[Dataset],
    path: Path,
    *,
    description: str,
    parameters: Sequence[str] = (),
    series_number: int = 1005,
) -> Path:
    """Write groups of numbers as an unverified measurement report in the study of their scan.

    Each group cites the slice nearest to where it was taken and states that point in the scan's frame of reference.
    Headers of a scan that never was DICOM name no image; then none is cited, since the reference would dangle.

    Args:
        groups: one or more.
        template_series: `template_headers` of the scan, one a slice along K.
        path: file to write.
        description: what was measured; "(research use only)" is appended.
        parameters: of the software, as words; at most 64 characters of each are kept.
        series_number: number of the new series in its study.

    Returns:
        The path.

    Raises:
        InputError: no group, or no headers.
    """
    if not groups or not template_series:
        raise InputError(
            f"a structured report of {len(groups)} groups and {len(template_series)} headers: expected one or more"
        )
    dataset = _build(groups, template_series, description, parameters, series_number)
    dicom_template.set_patient_and_study(dataset, template_series[0])
    dataset.CodingSchemeIdentificationSequence = [dicom_words.scheme_item()]
    if not _cited(template_series):
        dataset.pop("CurrentRequestedProcedureEvidenceSequence", None)
    return save(dataset, path)


def _cited(headers: Sequence[Dataset]) -> bool:
    return all("SOPInstanceUID" in header for header in headers)


def _build(
    groups: Sequence[ReadingGroup],
    headers: Sequence[Dataset],
    description: str,
    parameters: Sequence[str],
    series_number: int,
) -> Dataset:
    """Return highdicom's document."""
    from highdicom.sr import CodedConcept, Comprehensive3DSR, MeasurementReport

    content = MeasurementReport(
        observation_context=_observer(),
        procedure_reported=CodedConcept(*_PROCEDURES[headers[0].Modality]),
        imaging_measurements=[_group(group, headers, parameters) for group in groups],
    )
    words = dicom_words.research_description(description)
    return Comprehensive3DSR(
        evidence=_evidence(headers),
        content=content,
        series_instance_uid=dicom_words.new_uid(),
        series_number=series_number,
        sop_instance_uid=dicom_words.new_uid(),
        instance_number=1,
        manufacturer=dicom_words.MANUFACTURER,
        manufacturer_model_name=dicom_words.MANUFACTURER,
        software_versions=dicom_words.software_version(),
        device_serial_number="0",
        is_complete=True,
        series_description=words,
    )


def _evidence(headers: Sequence[Dataset]) -> list[Dataset]:
    """Return headers that highdicom accepts as evidence: blank patients, whose words may not be to its taste."""
    found = []
    for header in headers:
        evidence = Dataset()
        for keyword in dicom_template.REQUIRED:
            setattr(evidence, keyword, "Anonymous^" if keyword == "PatientName" else "")
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"):
            setattr(evidence, keyword, header[keyword].value)
        evidence.SOPInstanceUID = header.get("SOPInstanceUID", dicom_words.new_uid())
        found.append(evidence)
    return found


def _observer() -> Any:
    """Return who observed: a program, and no person."""
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext
    from pydicom.sr.codedict import codes

    device = DeviceObserverIdentifyingAttributes(
        uid=dicom_words.new_uid("medinterp", dicom_words.software_version()),
        name=dicom_words.MANUFACTURER,
        manufacturer_name=dicom_words.MANUFACTURER,
        model_name=dicom_words.software_version(),
    )
    observer = ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return ObservationContext(observer_device_context=observer)


def _group(group: ReadingGroup, headers: Sequence[Dataset], parameters: Sequence[str]) -> Any:
    """Return one group of measurements (TID 1501)."""
    from highdicom.sr import (
        AlgorithmIdentification,
        CodedConcept,
        MeasurementsAndQualitativeEvaluations,
        QualitativeEvaluation,
        TrackingIdentifier,
    )

    kept = [text[:64] for text in (*parameters, dicom_words.RESEARCH)]
    algorithm = AlgorithmIdentification(
        dicom_words.MANUFACTURER, dicom_words.software_version(), kept, CodedConcept(*_ARTIFICIAL_INTELLIGENCE)
    )
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=dicom_words.new_uid(), identifier=group.title[:64]),
        method=None if group.method is None else _concept(group.method),
        algorithm_id=algorithm,
        measurements=[_measurement(reading, group, headers) for reading in group.readings],
        qualitative_evaluations=[QualitativeEvaluation(_concept(n), _concept(words)) for n, words in group.verdicts],
        source_images=list(_source_image(group, headers)),
    )


def _concept(words: str) -> Any:
    """Return words as a code: DICOM's own where there is one, else a private one."""
    from highdicom.sr import CodedConcept

    return CodedConcept(*(_NAMES[words] if words in _NAMES else dicom_words.private_code(words)))


def _measurement(reading: Reading, group: ReadingGroup, headers: Sequence[Dataset]) -> Any:
    """Return one number (TID 300), with its point in space and its range of uncertainty."""
    from highdicom.sr import CodedConcept, CoordinatesForMeasurement3D, Measurement, MeasurementProperties

    properties = None
    if reading.above is not None or reading.below is not None:
        properties = MeasurementProperties(
            upper_measurement_uncertainty=reading.above, lower_measurement_uncertainty=reading.below
        )
        for item in properties:  # highdicom calls them numbers without a unit; they are in the measurement's
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [
                dicom_words.code_item(*dicom_words.unit_code(reading.unit))
            ]
    places = None
    if group.at_mm is not None:
        point = (np.array(group.at_mm) * _FLIP)[None]
        places = [CoordinatesForMeasurement3D("POINT", point, headers[0].FrameOfReferenceUID)]
    return Measurement(
        _concept(reading.name), reading.value, CodedConcept(*dicom_words.unit_code(reading.unit)),
        properties=properties, referenced_coordinates=places,
    )  # fmt: skip


def _source_image(group: ReadingGroup, headers: Sequence[Dataset]) -> Iterator[Any]:
    """Yield the reference to the slice nearest to a group's point, where there is a point and an image to cite."""
    from highdicom.sr import SourceImageForMeasurementGroup

    if group.at_mm is None or not _cited(headers):
        return
    where = np.array([header.ImagePositionPatient for header in headers], dtype=np.float64)
    cosines = np.array(headers[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    away = (where - np.array(group.at_mm) * _FLIP) @ np.cross(cosines[0], cosines[1])
    header = headers[int(np.abs(away).argmin())]
    frame = header.get("ReferencedFrameNumber")
    yield SourceImageForMeasurementGroup(
        header.SOPClassUID, header.SOPInstanceUID, None if frame is None else [int(frame)]
    )
