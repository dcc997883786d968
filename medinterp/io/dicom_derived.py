"""Writing a volume as a DICOM series of single MR or CT images in the frame of reference of the scan it came from."""

import datetime
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medinterp.errors import InputError
from medinterp.io import dicom_template, dicom_words
from medinterp.io.dicom_encoding import SeriesEncoder
from medinterp.io.dicom_template import template_headers
from medinterp.volume import Volume

__all__ = ["template_headers", "write_dicom_series"]

_ENOUGH_LEVELS = 1000  # a range of that many integers is stored as it is: rounding costs at most 0.05 % of the range
_SAMPLE = 1_000_000  # voxels that a window is taken from: enough for three digits
_AIR_BELOW_HU = -200  # a scan holds air; a difference of scans, also in HU, does not
_OWN = {"SpecificCharacterSet", "SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "ReferencedFrameNumber"}
_MR_TYPE2 = ("ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength", "RepetitionTime")
_CT_TYPE2 = ("KVP", "AcquisitionNumber")
_MR_ONLY = {"ScanningSequence", "SequenceVariant", "ScanOptions", "InversionTime", "MagneticFieldStrength", "FlipAngle"}
_MR_ONLY |= {*_MR_TYPE2, "SpacingBetweenSlices"}
_CT_ONLY = {"KVP", "ConvolutionKernel"}
_UNLESS_KNOWN = {"ScanningSequence", "SequenceVariant", "PatientPosition", *_MR_TYPE2, *_CT_TYPE2}


@dataclass(frozen=True, eq=False)
class _Stored:
    """Integers that hold a volume: value = stored / factor, stored (K, rows, columns)."""

    pixels: Shaped[np.ndarray, "K J I"]
    factor: float
    centre: float
    width: float


def write_dicom_series(
    volume: Volume,
    template: Volume,
    folder: Path,
    *,
    description: str,
    series_number: int,
    instance_uid_root: str | None = None,
    headers: Sequence[Dataset] | None = None,
    whole_hu: bool = True,
) -> tuple[Path, ...]:
    """Write a volume as derived MR or CT images at the positions of the scan it was computed from.

    Pixels are 16-bit integers with rescale slope 1, because some viewers round a small slope away. HU are rounded to 1.
    Other values, and maps in HU, are stored as they are when their range spans 1000 integers or more, and else
    multiplied by a power of ten; the factor stands in the series description and, with the unit, in the Real World
    Value Mapping.

    Args:
        volume: one channel, on the template's grid.
        template: the scan; patient, study and frame of reference are its own (`template_headers`).
        folder: where the files go, one a slice, named 0001.dcm onwards in ascending order along row x column.
        description: what the series shows; "(research use only)" is appended.
        series_number: number of the new series in its study.
        instance_uid_root: any text; the new UIDs then depend on it alone. Without it they are new every time.
        headers: `template_headers(template)`, where they are at hand.
        whole_hu: store HU as they are, so that viewers read them off right; without it, for maps whose values may be
            fractions of 1 HU, they are scaled like other values.

    Returns:
        The files, in the order of their names.

    Raises:
        GridMismatch: the volume is not on the template's grid.
        InputError: several channels, or HU beyond 16 bits.
        UnsupportedSeries: the grid cannot be told in DICOM (see `template_headers`).
    """
    images = derived_images(
        volume, template, description=description, series_number=series_number, instance_uid_root=instance_uid_root,
        headers=headers, whole_hu=whole_hu,
    )  # fmt: skip
    return write_images((image for _, image in images), folder)


def derived_images(
    volume: Volume,
    template: Volume,
    *,
    description: str,
    series_number: int,
    instance_uid_root: str | None = None,
    headers: Sequence[Dataset] | None = None,
    whole_hu: bool = True,
) -> Iterator[tuple[int, Dataset]]:
    """Yield the slice index K and the image of every slice of a derived series, in ascending order along row x column.

    Arguments and errors are those of ``write_dicom_series``. Add elements, and never write into the value of one: the
    images of a series share them.
    """
    template.require_same_grid(volume, "the volume to be written as DICOM")
    if volume.voxels.shape[0] != 1:
        raise InputError(f"a volume of {volume.voxels.shape[0]} channels: a DICOM series holds one; pick a channel")
    slices = template_headers(template) if headers is None else headers
    order = dicom_template.planes(template.grid).order
    stored = _to_integers(volume, plain=whole_hu and volume.unit == "HU")
    shared = _series_attributes(volume, stored, description, series_number, instance_uid_root)
    for number, k in enumerate(order, start=1):
        image = _image(slices[k], shared)
        entropy = () if instance_uid_root is None else (instance_uid_root, description, str(number))
        image.SOPInstanceUID = dicom_words.new_uid(*entropy)
        image.InstanceNumber = number
        image.add_new("PixelData", "OW", stored.pixels[k].astype(stored.pixels.dtype.newbyteorder("<")).tobytes())
        yield k, image


def write_images(images: Iterable[Dataset], folder: Path) -> tuple[Path, ...]:
    """Write the images of one series as 0001.dcm onwards; the folder is made when the first image is there."""
    encoder, paths = SeriesEncoder(), []
    for number, image in enumerate(images, start=1):
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{number:04d}.dcm")
        paths[-1].write_bytes(encoder.encode(image))
    return tuple(paths)


def _to_integers(volume: Volume, *, plain: bool) -> _Stored:
    """Choose the factor and round; the window covers the data, symmetric about zero for signed maps."""
    values = volume.voxels[0].transpose(2, 1, 0)
    low, high = float(values.min()), float(values.max())
    bounds = (0, 65535) if low >= 0 and not plain else (-32768, 32767)
    factor = 1.0 if plain else _factor(low, high, bounds)
    if low * factor < bounds[0] or high * factor > bounds[1]:
        raise InputError(
            f"values from {low:.6g} to {high:.6g} HU do not fit into 16 bits; check the unit of the volume"
        )
    pixels = np.empty(values.shape, dtype=np.uint16 if bounds[0] == 0 else np.int16)
    for k, plane in enumerate(values):
        pixels[k] = np.rint(plane.astype(np.float64) * factor)
    centre, width = _window(values, low, high, volume.unit)
    return _Stored(pixels, factor, centre * factor, max(width * factor, 1.0))


def _factor(low: float, high: float, bounds: tuple[int, int]) -> float:
    """Return 1 when the range is wide enough and fits, else the largest power of ten that fits."""
    limit = max(abs(low), abs(high))
    largest = min(abs(bound) for bound in bounds if bound != 0)
    if limit == 0 or _ENOUGH_LEVELS <= limit <= largest:
        return 1.0
    return float(10.0 ** math.floor(math.log10(largest / limit)))


def _window(values: NDArray[np.float32], least: float, most: float, unit: str) -> tuple[float, float]:
    """Return window centre and width in the volume's unit."""
    if unit == "HU" and least < _AIR_BELOW_HU:
        return 40.0, 400.0
    if least < -0.05 * most:
        limit = max(-least, most)
        return 0.0, 2 * limit
    sample = values.ravel(order="K")[:: max(1, values.size // _SAMPLE)]
    low, high = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
    if high <= low:  # a sparse or constant map
        low, high = least, most
    return (low + high) / 2, high - low


def _series_attributes(
    volume: Volume, stored: _Stored, description: str, series_number: int, root: str | None
) -> Dataset:
    """Return what all images of the new series share."""
    now = datetime.datetime.now()
    series = Dataset()
    series.SeriesInstanceUID = dicom_words.new_uid(*(() if root is None else (root, description)))
    series.SeriesNumber = series_number
    scale = "" if stored.factor == 1 else f" x{stored.factor:g}"
    series.SeriesDescription = dicom_words.research_description(description, scale)
    series.SeriesDate = series.ContentDate = series.InstanceCreationDate = now.strftime("%Y%m%d")
    series.SeriesTime = series.ContentTime = series.InstanceCreationTime = now.strftime("%H%M%S")
    series.Manufacturer, series.ManufacturerModelName = dicom_words.MANUFACTURER, dicom_words.MANUFACTURER
    series.SoftwareVersions = dicom_words.software_version()
    steps = ", ".join(step.name for step in volume.provenance.steps)
    series.DerivationDescription = (
        f"{description}; steps: {steps}; value in {volume.unit} = stored / {stored.factor:g}; {dicom_words.RESEARCH}"
    )[:1024]
    series.BurnedInAnnotation = "NO"
    series.WindowCenter, series.WindowWidth = dicom_words.ds_text(stored.centre), dicom_words.ds_text(stored.width)
    series.RealWorldValueMappingSequence = [_real_world(volume.unit, stored)]
    if series.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodingSchemeDesignator != "UCUM":
        series.CodingSchemeIdentificationSequence = [dicom_words.scheme_item()]
    series.SpecificCharacterSet = "ISO_IR 192"
    _set_modality_module(series, volume.modality)
    _set_pixel_module(series, stored)
    return series


def _real_world(unit: str, stored: _Stored) -> Dataset:
    """Return the mapping from stored integers to the volume's unit."""
    item = Dataset()
    item.RealWorldValueSlope, item.RealWorldValueIntercept = 1.0 / stored.factor, 0.0
    vr = "US" if stored.pixels.dtype == np.uint16 else "SS"
    item.add_new("RealWorldValueFirstValueMapped", vr, int(stored.pixels.min()))
    item.add_new("RealWorldValueLastValueMapped", vr, int(stored.pixels.max()))
    item.LUTExplanation, item.LUTLabel = "stored integers to the unit of the volume", "MEDINTERP"
    item.MeasurementUnitsCodeSequence = [dicom_words.code_item(*dicom_words.unit_code(unit))]
    return item


def _image(header: Dataset, series: Dataset) -> Dataset:
    """Return one image without pixels: the scan's context, the new series, and what its modality's module asks for."""
    image = Dataset()
    foreign = _CT_ONLY if series.Modality == "MR" else _MR_ONLY
    image.update({e.tag: e for e in header if e.keyword not in _OWN and e.keyword not in foreign})
    image.update({e.tag: e for e in series if e.keyword not in _UNLESS_KNOWN or e.tag not in image})
    if "SOPInstanceUID" in header:
        image.SourceImageSequence = [dicom_words.reference_item(header)]
    if "BodyPartExamined" in image:
        del image.Laterality
    return image


def _set_modality_module(series: Dataset, modality: str) -> None:
    """Fill what the MR or CT image module requires; a scan's own words precede those in `_UNLESS_KNOWN`."""
    series.Modality = modality
    if modality == "CT":
        series.SOPClassUID = dicom_template.CT_IMAGE
        series.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        mapping = series.RealWorldValueMappingSequence[0]
        plain = mapping.RealWorldValueSlope == 1  # a scaled map's stored numbers are no HU
        hounsfield = plain and mapping.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
        series.RescaleSlope, series.RescaleIntercept, series.RescaleType = "1", "0", "HU" if hounsfield else "US"
    else:
        series.SOPClassUID = dicom_template.MR_IMAGE
        series.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        series.ScanningSequence, series.SequenceVariant = "RM", "NONE"  # research mode: the sequence is not known
    for keyword in _CT_TYPE2 if modality == "CT" else _MR_TYPE2:
        setattr(series, keyword, None)
    series.PatientPosition = series.Laterality = ""


def _set_pixel_module(series: Dataset, stored: _Stored) -> None:
    """Set the image pixel module but for the pixels."""
    series.SamplesPerPixel, series.PhotometricInterpretation = 1, "MONOCHROME2"
    series.BitsAllocated, series.BitsStored, series.HighBit = 16, 16, 15
    series.PixelRepresentation = 0 if stored.pixels.dtype == np.uint16 else 1
