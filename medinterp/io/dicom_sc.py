"""Writing coloured pictures of the slices of a scan as a DICOM Secondary Capture series, for any workstation."""

import datetime
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from medinterp.errors import InputError
from medinterp.io import dicom_template, dicom_words
from medinterp.io.dicom_derived import write_images


def write_secondary_capture(
    picture: Callable[[int], UInt8[np.ndarray, "rows columns 3"]],
    template_series: Sequence[Dataset],
    folder: Path,
    *,
    description: str,
    series_number: int = 1006,
) -> tuple[Path, ...]:
    """Write one picture a slice into the study of its scan, each citing the image it was made from.

    A Secondary Capture states no position in space: what a reader must know of the place is in the picture.

    Args:
        picture: returns red, green and blue of slice K, all slices of one size; asked for one at a time, since all
            of a large scan may not fit into memory.
        template_series: `template_headers` of the scan, one a slice along K.
        folder: where the files go, named 0001.dcm onwards in ascending order along row x column.
        description: what the pictures show; "(research use only)" is appended.
        series_number: number of the new series in its study.

    Returns:
        The files, in the order of their names.

    Raises:
        InputError: no headers, or pictures of several sizes.
    """
    if not template_series:
        raise InputError("no template headers: expected one a slice; make them with template_headers(scan)")
    return write_images(_images(picture, template_series, description, series_number), folder)


def _images(
    picture: Callable[[int], UInt8[np.ndarray, "rows columns 3"]],
    headers: Sequence[Dataset],
    description: str,
    series_number: int,
) -> Iterator[Dataset]:
    """Yield the images in ascending order along row x column."""
    order = dicom_template.planes(dicom_template.grid_of(headers)).order
    shape = picture(order[0]).shape
    shared = _shared(shape, headers[0], description, series_number)
    for number, k in enumerate(order, start=1):
        drawn = picture(k)
        if drawn.shape != shape:
            raise InputError(f"the picture of slice {k} has shape {drawn.shape}: expected {shape}, as of the others")
        image = Dataset()
        image.update(shared)
        image.SOPInstanceUID, image.InstanceNumber = dicom_words.new_uid(), number
        if "SOPInstanceUID" in headers[k]:
            image.SourceImageSequence = [dicom_words.reference_item(headers[k])]
        image.add_new("PixelData", "OB", _even(drawn.tobytes()))
        yield image


def _even(pixels: bytes) -> bytes:
    """Pad to an even number of bytes, as DICOM asks."""
    return pixels + b"\0" * (len(pixels) % 2)


def _shared(shape: tuple[int, ...], header: Dataset, description: str, series_number: int) -> Dataset:
    """Return what all pictures of the series have in common."""
    now = datetime.datetime.now()
    series = Dataset()
    series.SpecificCharacterSet = "ISO_IR 192"
    dicom_template.set_patient_and_study(series, header)
    series.StudyInstanceUID, series.SeriesInstanceUID = header.StudyInstanceUID, dicom_words.new_uid()
    series.SOPClassUID = SecondaryCaptureImageStorage
    series.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    series.Modality, series.ConversionType = "OT", "WSD"
    series.SeriesNumber, series.SeriesDescription = series_number, dicom_words.research_description(description)
    series.DerivationDescription = f"{description}; {dicom_words.RESEARCH}"[:1024]
    series.SeriesDate = series.ContentDate = series.InstanceCreationDate = now.strftime("%Y%m%d")
    series.SeriesTime = series.ContentTime = series.InstanceCreationTime = now.strftime("%H%M%S")
    series.Manufacturer = series.ManufacturerModelName = dicom_words.MANUFACTURER
    series.SoftwareVersions = dicom_words.software_version()
    if "BodyPartExamined" in header:
        series.BodyPartExamined = header.BodyPartExamined
    else:
        series.Laterality = ""
    series.PatientOrientation, series.BurnedInAnnotation = "", "NO"  # burned-in words name no patient
    series.Rows, series.Columns = shape[0], shape[1]
    series.SamplesPerPixel, series.PhotometricInterpretation, series.PlanarConfiguration = 3, "RGB", 0
    series.BitsAllocated, series.BitsStored, series.HighBit, series.PixelRepresentation = 8, 8, 7, 0
    return series
