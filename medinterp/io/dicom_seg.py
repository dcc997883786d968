"""Writing the clusters of a map as a binary DICOM Segmentation, the only kind that every reader gets right."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medinterp.errors import EmptyRegion
from medinterp.io import dicom_multiframe as multiframe
from medinterp.io import dicom_template, dicom_words
from medinterp.io.colours import sign_colour
from medinterp.volume import Segment, Segmentation

_CATEGORY = ("309825002", "SCT", "Spatial and Relational Concept")
_ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")


def write_segmentation(
    segmentation: Segmentation,
    template_series: Sequence[Dataset],
    path: Path,
    *,
    description: str,
    series_number: int = 1004,
) -> Path:
    """Write every cluster as one segment of a binary Segmentation in the frame of reference of its scan.

    Args:
        segmentation: clusters, on the grid that the headers describe.
        template_series: `template_headers` of the scan, one a slice along K.
        path: file to write.
        description: what the clusters are; "(research use only)" is appended.
        series_number: number of the new series in its study.

    Returns:
        The path.

    Raises:
        EmptyRegion: there is no cluster; DICOM has no empty segmentation, so nothing is written.
        GridMismatch: the clusters are not on the headers' grid.
    """
    if not segmentation.segments:
        raise EmptyRegion("there is no cluster to write as a DICOM Segmentation; lower the threshold, or leave it out")
    multiframe.require_headers_of(segmentation.grid, template_series)
    dataset = _build(segmentation, template_series, description, series_number)
    multiframe.finish(dataset, template_series)
    return multiframe.save(dataset, path)


def _build(segmentation: Segmentation, headers: Sequence[Dataset], description: str, series_number: int) -> Dataset:
    """Return highdicom's object for the clusters."""
    from highdicom.seg import Segmentation as DicomSegmentation

    order = list(dicom_template.planes(segmentation.grid).order)
    labels = np.ascontiguousarray(segmentation.labels.transpose(2, 1, 0)[order])
    return DicomSegmentation(
        pixel_array=labels.astype(np.uint16 if len(segmentation.segments) > 255 else np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[_describe(segment) for segment in segmentation.segments],
        content_label="CLUSTERS",
        **multiframe.shared_arguments(segmentation.grid, headers, description, series_number),
    )


def _describe(segment: Segment) -> Dataset:
    """Return the description of one cluster: name, sign, colour, and that software found it."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept

    sign = "positive" if segment.sign > 0 else "negative"
    red, green, blue = (round(255 * value) for value in sign_colour(segment.sign))
    return SegmentDescription(
        segment_number=segment.label,
        segment_label=segment.name[:64],
        segmented_property_category=CodedConcept(*_CATEGORY),
        segmented_property_type=CodedConcept(*dicom_words.private_code(f"Cluster of {sign} map values")),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            dicom_words.MANUFACTURER, CodedConcept(*_ARTIFICIAL_INTELLIGENCE), dicom_words.software_version()
        ),
        display_color=CIELabColor.from_rgb(red, green, blue),
    )
