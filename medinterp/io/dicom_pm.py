"""Writing a map as a DICOM Parametric Map of 32-bit floats, in the form that highdicom, dcmqi and Slicer all read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from pydicom.dataset import Dataset

from medinterp.errors import InputError
from medinterp.io import dicom_multiframe as multiframe
from medinterp.io import dicom_template, dicom_words
from medinterp.volume import Volume

_QUANTITIES = {
    "saliency": ("130404", "DCM", "Saliency"),
    "visual explanation": ("130401", "DCM", "Visual explanation"),
    "class activation": ("130402", "DCM", "Class activation"),
    "gradient-weighted class activation": ("130403", "DCM", "Gradient-weighted class activation"),
    "z-score": ("113071", "DCM", "Z-score"),
}
_REGIONS = {
    "BRAIN": ("12738006", "SCT", "Brain"),
    "HEAD": ("69536005", "SCT", "Head"),
    "CHEST": ("816094009", "SCT", "Chest"),
    "ABDOMEN": ("818981001", "SCT", "Abdomen"),
}
_WHOLE_BODY = ("38266002", "SCT", "Entire body")


def write_parametric_map(
    map: Volume,
    template_series: Sequence[Dataset],
    path: Path,
    *,
    quantity: str,
    description: str,
    series_number: int = 1003,
) -> Path:
    """Write a one-channel map as a float32 Parametric Map in the frame of reference of its scan.

    Three mends to what highdicom writes, without which dcmqi (and Slicer through it) crashes or flips the slices: a
    Frame Anatomy group, frames in ascending order along row x column, and 32-bit floats only.

    Args:
        map: one channel, on the grid that the headers describe.
        template_series: `template_headers` of the scan, one a slice along K.
        path: file to write.
        quantity: what the values are: "saliency", "z-score", ...; words without a DICOM code get a private one.
        description: what the map shows; "(research use only)" is appended.
        series_number: number of the new series in its study.

    Returns:
        The path.

    Raises:
        GridMismatch: the map is not on the headers' grid.
        InputError: several channels.
    """
    if map.voxels.shape[0] != 1:
        raise InputError(f"a map of {map.voxels.shape[0]} channels: a Parametric Map holds one; pick a channel")
    multiframe.require_headers_of(map.grid, template_series)
    order = dicom_template.planes(map.grid).order
    frames = np.ascontiguousarray(map.voxels[0].transpose(2, 1, 0)[list(order)])
    dataset = _build(map, frames, template_series, quantity, description, series_number)
    dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_anatomy(template_series[0])]
    _order_ascending(dataset)
    multiframe.finish(dataset, template_series)
    return multiframe.save(dataset, path)


def _build(
    map: Volume,
    frames: Float32[np.ndarray, "K J I"],
    headers: Sequence[Dataset],
    quantity: str,
    description: str,
    series_number: int,
) -> Dataset:
    """Return highdicom's object for the frames."""
    from highdicom.content import VOILUTTransformation
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from highdicom.sr import CodedConcept

    low, high = float(frames.min()), float(frames.max())
    limit = max(abs(low), abs(high))
    meaning = _QUANTITIES[quantity] if quantity in _QUANTITIES else dicom_words.private_code(quantity)
    mapping = RealWorldValueMapping(
        lut_label=quantity[:16],
        lut_explanation=dicom_words.research_description(description),
        unit=CodedConcept(*dicom_words.unit_code(map.unit)),
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=CodedConcept(*meaning),
    )
    # LINEAR_EXACT, since the default function forbids windows narrower than 1 and maps may be far smaller.
    centre, width = (0.0, 2 * limit) if low < 0 else (high / 2, high)
    window = VOILUTTransformation(centre, width if width > 0 else 1.0, voi_lut_function="LINEAR_EXACT")
    return ParametricMap(
        pixel_array=frames,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        **multiframe.shared_arguments(map.grid, headers, description, series_number),
    )


def _anatomy(header: Dataset) -> Dataset:
    """Return the Frame Anatomy item: the scanned region as far as the scan names it, unpaired."""
    region = _REGIONS.get(str(header.get("BodyPartExamined", "")).upper(), _WHOLE_BODY)
    item = Dataset()
    item.AnatomicRegionSequence = [dicom_words.code_item(*region)]
    item.FrameLaterality = "U"
    return item


def _order_ascending(dataset: Dataset) -> None:
    """Put frames in ascending order along row x column: highdicom writes them descending, dcmqi trusts the order."""
    cosines = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    normal = np.cross(np.asarray(cosines[:3], dtype=np.float64), np.asarray(cosines[3:], dtype=np.float64))
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    along = [np.asarray(g.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64) @ normal for g in groups]
    order = np.argsort(along)
    frames = np.frombuffer(dataset.FloatPixelData, dtype="<f4").reshape(len(groups), -1)
    dataset.FloatPixelData = np.ascontiguousarray(frames[order]).tobytes()
    dataset.PerFrameFunctionalGroupsSequence = [groups[n] for n in order]
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        group.FrameContentSequence[0].DimensionIndexValues = [number]
