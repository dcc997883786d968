"""Writing coloured pictures of the slices of a scan as a DICOM Secondary Capture series, for any workstation."""

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from medinterp.errors import InputError
from medinterp.io import dicom_template, dicom_words
from medinterp.io.dicom_derived import write_images


def write_secondary_capture(
    pictures: Sequence[UInt8[np.ndarray, "rows columns 3"]],
    template_series: Sequence[Dataset],
    folder: Path,
    *,
    description: str,
    series_number: int = 1006,
) -> tuple[Path, ...]:
    """Write one picture a slice into the study of its scan, each citing the image it was made from.

    A Secondary Capture states no position in space: what a reader must know of the place is in the picture.

    Args:
        pictures: red, green and blue of every slice in the order of the headers, all of one size.
        template_series: `template_headers` of the scan, one a slice along K.
        folder: where the files go, named 0001.dcm onwards in ascending order along row x column.
        description: what the pictures show; "(research use only)" is appended.
        series_number: number of the new series in its study.

    Returns:
        The files, in the order of their names.

    Raises:
        InputError: another number of pictures than of headers, or pictures of several sizes.
    """
    sizes = {picture.shape for picture in pictures}
    if len(pictures) != len(template_series) or len(sizes) != 1:
        raise InputError(
            f"{len(pictures)} pictures of {len(sizes)} sizes for {len(template_series)} slices: expected one a slice, "
            "all of one size"
        )
    shared = _shared(pictures[0].shape, template_series[0], description, series_number)
    return write_images(_images(pictures, template_series, shared), folder)


def _images(
    pictures: Sequence[UInt8[np.ndarray, "rows columns 3"]], headers: Sequence[Dataset], shared: Dataset
) -> Iterator[Dataset]:
    """Yield the images in ascending order along row x column."""
    order = dicom_template.planes(dicom_template.grid_of(headers)).order
    for number, k in enumerate(order, start=1):
        image = Dataset()
        image.update(shared)
        image.SOPInstanceUID, image.InstanceNumber = dicom_words.new_uid(), number
        if "SOPInstanceUID" in headers[k]:
            image.SourceImageSequence = [dicom_words.reference_item(headers[k])]
        image.add_new("PixelData", "OB", _even(pictures[k].tobytes()))
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
