"""Writing clusters as a DICOM Grayscale Softcopy Presentation State: outlines and a note over the scan itself."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from medinterp.errors import EmptyRegion, UnsupportedSeries
from medinterp.io import dicom_multiframe as multiframe
from medinterp.io import dicom_template, dicom_words
from medinterp.io.colours import sign_colour
from medinterp.volume import Segmentation, Volume

_SHOWN = ("RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth", "VOILUTFunction")
_LAYERS = {1: "POSITIVE", -1: "NEGATIVE"}


def write_presentation_state(
    segmentation: Segmentation,
    scan: Volume,
    template_series: Sequence[Dataset],
    path: Path,
    *,
    description: str,
    note: str,
    series_number: int = 1007,
) -> Path:
    """Write the outlines of clusters and a note, to be shown over the images of the scan by any workstation.

    Outlines run along the edges of voxels, positive and negative clusters on a layer each. The note stands at the top
    of every slice that has an outline.

    Args:
        segmentation: clusters, on the grid that the headers describe.
        scan: as it was read from single-frame DICOM images.
        template_series: `template_headers` of the scan, one a slice along K.
        path: file to write.
        description: what the outlines are; "(research use only)" is appended.
        note: what stands on the slices.
        series_number: number of the new series in its study.

    Returns:
        The path.

    Raises:
        EmptyRegion: there is no cluster.
        UnsupportedSeries: the scan has no single-frame images of its own, or their values are scaled one by one, so
            that one presentation state would show some of them wrongly.
        GridMismatch: the clusters are not on the headers' grid.
    """
    if not segmentation.segments:
        raise EmptyRegion("there is no cluster to outline; lower the threshold, or leave the presentation state out")
    multiframe.require_headers_of(segmentation.grid, template_series)
    images = _images(scan, template_series)
    dataset = _build(segmentation, images, description, note, series_number)
    dicom_template.set_patient_and_study(dataset, template_series[0])
    if "BodyPartExamined" in template_series[0]:
        dataset.BodyPartExamined = template_series[0].BodyPartExamined
    else:
        dataset.Laterality = ""
    _set_pixel_shape(dataset, template_series[0])
    return multiframe.save(dataset, path)


def _set_pixel_shape(dataset: Dataset, header: Dataset) -> None:
    """Say how large the scan's pixels are: highdicom calls them square, and anisotropic scans were shown squeezed.

    Source:
        DICOM PS3.3, C.10.4: the spacing takes the place of the aspect ratio.
    """
    (area,) = dataset.DisplayedAreaSelectionSequence
    del area.PresentationPixelAspectRatio
    area.PresentationPixelSpacing = header.PixelSpacing


def _images(scan: Volume, headers: Sequence[Dataset]) -> list[Dataset]:
    """Return what highdicom is to know of the scan's images, one a slice: no patient, but how values are shown."""
    sources = scan.provenance.source.headers
    if scan.provenance.source.kind != "dicom" or len(sources) != len(headers) or "NumberOfFrames" in sources[0]:
        raise UnsupportedSeries("a presentation state lies over single-frame DICOM images, and the scan has none")
    scaled = {tuple(str(source.get(keyword, "")) for keyword in _SHOWN[:2]) for source in sources}
    if len(scaled) > 1:
        raise UnsupportedSeries(
            f"the scan's slices have {len(scaled)} different rescale slopes or intercepts, and a presentation state "
            "one for all"
        )
    images = []
    for source, header in zip(sources, headers, strict=True):
        image = Dataset()
        for keyword in dicom_template.REQUIRED:
            setattr(image, keyword, "Anonymous^" if keyword == "PatientName" else "")
        for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns"):
            setattr(image, keyword, header[keyword].value)
        image.SamplesPerPixel = 1
        for keyword in _SHOWN:
            shown = source.get(keyword)
            if shown not in (None, ""):  # of several windows the first: a presentation state has one
                setattr(image, keyword, shown[0] if isinstance(shown, MultiValue) else shown)
        images.append(image)
    return images


def _build(
    segmentation: Segmentation, images: Sequence[Dataset], description: str, note: str, series_number: int
) -> Dataset:
    """Return highdicom's object."""
    from highdicom.color import CIELabColor
    from highdicom.pr import GraphicLayer, GrayscaleSoftcopyPresentationState

    layers = {}
    for order, sign in enumerate(sorted({segment.sign for segment in segmentation.segments}, reverse=True), start=1):
        colour = CIELabColor.from_rgb(*(round(255 * value) for value in sign_colour(sign)))
        layers[sign] = GraphicLayer(_LAYERS[sign], order, f"Clusters of {_LAYERS[sign].lower()} values", colour)
    return GrayscaleSoftcopyPresentationState(
        referenced_images=images,
        series_instance_uid=dicom_words.new_uid(),
        series_number=series_number,
        sop_instance_uid=dicom_words.new_uid(),
        instance_number=1,
        manufacturer=dicom_words.MANUFACTURER,
        manufacturer_model_name=dicom_words.MANUFACTURER,
        software_versions=dicom_words.software_version(),
        device_serial_number="0",
        content_label="CLUSTERS",
        content_description=dicom_words.research_description(description),
        content_creator_name=dicom_words.CREATOR,
        series_description=dicom_words.research_description(description),
        graphic_annotations=list(_annotations(segmentation, images, layers, note)),
        graphic_layers=list(layers.values()),
    )


def _annotations(
    segmentation: Segmentation, images: Sequence[Dataset], layers: dict[int, Any], note: str
) -> Iterator[Any]:
    """Yield the outlines of one sign on one slice, the note with the first of each slice."""
    from highdicom.pr import GraphicAnnotation, GraphicObject, TextObject

    for k, image in enumerate(images):
        labels = segmentation.labels[:, :, k].T
        noted = False
        for sign, layer in layers.items():
            own = [s.label for s in segmentation.segments if s.sign == sign and (labels == s.label).any()]
            loops = [loop for label in own for loop in outlines(labels == label)]
            if not loops:
                continue
            text = TextObject(f"{note}; {dicom_words.RESEARCH}", "DISPLAY", bounding_box=(0.02, 0.01, 0.98, 0.06))
            yield GraphicAnnotation(
                [image], layer,
                graphic_objects=[GraphicObject("POLYLINE", loop.astype(np.float64), "PIXEL") for loop in loops],
                text_objects=None if noted else [text],
            )  # fmt: skip
            noted = True


def outlines(inside: Bool[np.ndarray, "rows columns"]) -> list[Int64[np.ndarray, "n 2"]]:
    """Return the closed lines around the pixels that are inside, as (column, row) of the pixels' corners.

    The first corner of the first pixel is (0, 0), as in DICOM; each line ends where it began. Pixels that touch at a
    corner only get lines of their own.
    """
    framed = np.pad(inside, 1)
    ahead: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for neighbour, begin, end in (
        (framed[:-2, 1:-1], (0, 0), (1, 0)),  # above: to the right, with the inside on the right hand
        (framed[1:-1, 2:], (1, 0), (1, 1)),
        (framed[2:, 1:-1], (1, 1), (0, 1)),
        (framed[1:-1, :-2], (0, 1), (0, 0)),
    ):
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            ahead[column + begin[0], row + begin[1]].append((column + end[0], row + end[1]))
    loops = []
    while ahead:
        loops.append(_loop(ahead))
    return loops


def _loop(ahead: dict[tuple[int, int], list[tuple[int, int]]]) -> Int64[np.ndarray, "n 2"]:
    """Follow one line until it closes, taking its edges away; corners on a straight stretch are left out."""
    start = next(iter(ahead))
    corners, at, heading = [start], start, (0, 0)
    while True:
        right = (at[0] - heading[1], at[1] + heading[0])  # at a corner that two pixels share, keep to one's own
        choices = ahead[at]
        to = choices.pop(choices.index(right) if right in choices else 0)
        if not choices:
            del ahead[at]
        step = (to[0] - at[0], to[1] - at[1])
        if step == heading:
            corners[-1] = to
        else:
            corners.append(to)
        at, heading = to, step
        if at == start:
            return np.array(corners)
