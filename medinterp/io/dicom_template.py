"""What every DICOM object we write takes from the scan it came from: patient, study, frame of reference, planes.

Attributes are copied by allow-list and nothing else travels. Written objects state positions in LPS, as DICOM does.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medinterp.errors import GridMismatch, UnsupportedSeries
from medinterp.io.dicom_quiet import unquoted
from medinterp.io.dicom_words import ds_text, new_uid
from medinterp.volume import Grid, Volume

MR_IMAGE = UID("1.2.840.10008.5.1.4.1.1.4")
CT_IMAGE = UID("1.2.840.10008.5.1.4.1.1.2")
# Type 2 attributes: present even when the scan has no value for them.
REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
    "PositionReferenceIndicator",
)
OPTIONAL = (
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "BodyPartExamined",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_OF_IMAGES = {
    "PositionReferenceIndicator",
    "BodyPartExamined",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
}
# What the classic MR and CT image modules ask for; used by derived series only.
_ACQUISITION = (
    "PatientPosition",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionNumber",
    "SliceThickness",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "EchoTrainLength",
    "InversionTime",
    "MagneticFieldStrength",
    "FlipAngle",
    "KVP",
    "ConvolutionKernel",
)
_FLIP = np.array([-1.0, -1.0, 1.0])  # RAS+ to LPS+ and back


@dataclass(frozen=True, eq=False)
class Planes:
    """The slices of a grid as DICOM states them, in LPS+ mm.

    Args:
        orientation: direction cosines of increasing column index (I), then of increasing row index (J).
        positions: centre of the first voxel of every slice along K, (K, 3).
        spacing: distance between rows (along J), then between columns (along I).
        gap: distance between slices.
        order: slice indices K in ascending order along row x column, the only order that every reader keeps.
    """

    orientation: tuple[float, ...]
    positions: Float64[np.ndarray, "K 3"]
    spacing: tuple[float, float]
    gap: float
    order: tuple[int, ...]


def planes(grid: Grid) -> Planes:
    """Return the slices of a grid; K is the slice axis, I runs along columns and J along rows.

    Raises:
        UnsupportedSeries: the grid is sheared; DICOM readers would stack its slices along their normal.
    """
    if not grid.is_orthogonal:
        raise UnsupportedSeries(
            "the scan's voxel axes are not perpendicular (a sheared grid, as from a tilted gantry); DICOM readers "
            "would stack its slices along their normal, out of place; resample the scan onto an orthogonal grid first"
        )
    column, row, normal = (grid.affine[:3, axis] / grid.spacing_mm[axis] * _FLIP for axis in range(3))
    index = np.zeros((grid.shape[2], 3))
    index[:, 2] = np.arange(grid.shape[2])
    slices = range(grid.shape[2])
    order = tuple(slices) if float(np.cross(column, row) @ normal) > 0 else tuple(reversed(slices))
    across, down, gap = grid.spacing_mm
    return Planes((*column.tolist(), *row.tolist()), grid.to_world(index) * _FLIP, (down, across), gap, order)


@unquoted()
def template_headers(template: Volume) -> tuple[Dataset, ...]:
    """Return one header per slice along K, without pixels, from which every derived object takes its context.

    A scan read from DICOM lends its own patient, study and frame of reference. Any other scan gets an anonymous patient
    and a study of its own, the same one each time for the same voxels; such headers name no SOP Instance, since there
    is no file to refer to.

    What headers have in common they share, element by element: replace an element, never write into its value.

    Raises:
        UnsupportedSeries: a sheared grid, a file without orientation, or a modality other than MR and CT.
        GridMismatch: the headers do not describe the template's own grid.
    """
    source = template.provenance.source
    if any("no orientation" in note for note in source.notes):
        raise UnsupportedSeries(
            "the scan's file states no orientation, so its place in the patient is unknown and DICOM would invent one; "
            "set the qform or sform of the NIfTI file first"
        )
    if template.modality not in ("MR", "CT"):
        raise UnsupportedSeries(f"DICOM export of modality '{template.modality}': expected MR or CT")
    plan = planes(template.grid)
    if source.kind == "dicom" and source.headers:
        slices = _source_slices(source.headers, plan)
    else:
        slices = [_anonymous(template)] * template.grid.shape[2]
    planes_of_all = _stated_planes(template.grid, plan)
    contexts = {n: _context(scan, template) for n, scan in {id(scan): scan for scan, _ in slices}.items()}
    return tuple(
        _header(contexts[id(scan)], frame, planes_of_all, plan.positions[k]) for k, (scan, frame) in enumerate(slices)
    )


def set_patient_and_study(dataset: Dataset, header: Dataset) -> None:
    """Give an object that shows no image the patient and study of a scan: what the image modules add stays away."""
    for keyword in (*REQUIRED, *OPTIONAL):
        dataset.pop(keyword, None)
        if keyword in header and keyword not in _OF_IMAGES:
            dataset[keyword] = header[keyword]


def grid_of(headers: Sequence[Dataset]) -> Grid:
    """Return the RAS+ grid that template headers, one a slice along K, describe."""
    first, last = headers[0], headers[-1]
    cosines = np.asarray(first.ImageOrientationPatient, dtype=np.float64).reshape(2, 3) * _FLIP
    down, across = (float(value) for value in first.PixelSpacing)
    origin, end = (np.asarray(h.ImagePositionPatient, dtype=np.float64) * _FLIP for h in (first, last))
    step = np.cross(cosines[0], cosines[1]) * float(first.SpacingBetweenSlices)
    if len(headers) > 1:
        step = (end - origin) / (len(headers) - 1)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = cosines[0] * across, cosines[1] * down, step, origin
    return Grid((int(first.Columns), int(first.Rows), len(headers)), affine, str(first.FrameOfReferenceUID))


def _source_slices(headers: Sequence[Dataset], plan: Planes) -> list[tuple[Dataset, int | None]]:
    """Pair every slice with its source header and, for a multi-frame source, its frame number from 1."""
    if len(headers) == 1 and "PerFrameFunctionalGroupsSequence" in headers[0]:
        frames = np.array([_frame_position(frame) for frame in headers[0].PerFrameFunctionalGroupsSequence])
        return [(headers[0], _only_frame_at(frames, position, plan.gap)) for position in plan.positions]
    if len(headers) != len(plan.positions):
        raise GridMismatch(
            f"{len(headers)} DICOM headers for {len(plan.positions)} slices; use the scan as it was read"
        )
    for k, (header, position) in enumerate(zip(headers, plan.positions, strict=True)):
        away = float(np.linalg.norm(np.asarray(header.ImagePositionPatient, dtype=np.float64) - position))
        if away > _tolerance(plan.gap):
            raise GridMismatch(
                f"slice {k} of the grid lies {away:.3g} mm from its DICOM header; use the scan as it was read, in its "
                "own slice order"
            )
    return [(header, None) for header in headers]


def _tolerance(gap: float) -> float:
    """Return how far in mm a slice may lie from its header: the jitter that readers accept, and rounding."""
    return 0.05 * gap + 0.01


def _frame_position(frame: Dataset) -> list[float]:
    return [float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient]


def _only_frame_at(frames: Float64[np.ndarray, "F 3"], position: Float64[np.ndarray, "3"], gap: float) -> int | None:
    """Return the number of the one frame at a position; None when several time points share it."""
    near = np.flatnonzero(np.linalg.norm(frames - position, axis=1) < _tolerance(gap))
    if near.size == 0:
        raise GridMismatch("the multi-frame header has no frame at a slice of the grid; use the scan as it was read")
    return int(near[0]) + 1 if near.size == 1 else None


def _anonymous(template: Volume) -> tuple[Dataset, None]:
    """Return the header of a scan that never was DICOM: anonymous patient, a study that depends on its voxels alone."""
    seed = hashlib.sha256(template.voxels.tobytes() + template.grid.affine.tobytes()).hexdigest()
    header = Dataset()
    header.PatientName, header.PatientID, header.PatientIdentityRemoved = "Anonymous^", "", "YES"
    header.DeidentificationMethod = "Made from a file without patient data"
    header.StudyInstanceUID = new_uid(seed, "study")
    header.SeriesInstanceUID = new_uid(seed, "series")
    header.FrameOfReferenceUID = new_uid(seed, "frame")
    return header, None


def _context(scan: Dataset, template: Volume) -> Dataset:
    """Return the allow-listed part of a scan's header, without its planes."""
    context = Dataset()
    context.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (*REQUIRED, *OPTIONAL, *_ACQUISITION):
        _copy(scan, context, keyword)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        stated = scan.get(keyword)  # files stripped by hand may lack it; all slices then get the same new one
        setattr(context, keyword, stated or new_uid(template.provenance.source.sha256, keyword))
    context.SOPClassUID = scan.get("SOPClassUID", MR_IMAGE if template.modality == "MR" else CT_IMAGE)
    if "SOPInstanceUID" in scan:
        context.SOPInstanceUID = scan.SOPInstanceUID
    context.Modality = template.modality
    return context


def _stated_planes(grid: Grid, plan: Planes) -> Dataset:
    """Return what all slices of a grid state about their place."""
    stated = Dataset()
    stated.Columns, stated.Rows = grid.shape[:2]
    stated.ImageOrientationPatient = [ds_text(value) for value in plan.orientation]
    stated.PixelSpacing = [ds_text(value) for value in plan.spacing]
    stated.SpacingBetweenSlices = stated.SliceThickness = ds_text(plan.gap)
    return stated


def _header(context: Dataset, frame: int | None, planes_of_all: Dataset, position: Float64[np.ndarray, "3"]) -> Dataset:
    """Return the header of one slice; the scan's own slice thickness stays, since it may differ from the gap."""
    header = Dataset()
    header.update(planes_of_all)
    header.update(context)
    if frame is not None:
        header.ReferencedFrameNumber = frame
    header.ImagePositionPatient = [ds_text(value) for value in position]
    return header


def _copy(source: Dataset, target: Dataset, keyword: str) -> None:
    """Copy one attribute; an empty one only when the standard requires its presence."""
    if keyword not in source and keyword not in REQUIRED:
        return
    value = source.get(keyword)
    if value is not None and str(value) not in ("", "[]"):
        # Names are decoded here, since the copy is written in UTF-8 whatever the scan's character set was.
        setattr(target, keyword, str(value) if keyword.endswith("Name") else value)
    elif keyword in REQUIRED:
        setattr(target, keyword, "")
