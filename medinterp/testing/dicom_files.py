"""Small real DICOM series, made of nothing but numbers: clean ones, and the flaws that scanners and archives add.

A series is a list of pydicom datasets in ascending slice order; the flaws are functions from list to list, and
``save`` writes the list as files. The patient is invented, all UIDs depend on the arguments alone.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Shaped
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

Modality = Literal["MR", "CT"]
_CLASSES = {"MR": "1.2.840.10008.5.1.4.1.1.4", "CT": "1.2.840.10008.5.1.4.1.1.2"}
_ENHANCED = {"MR": "1.2.840.10008.5.1.4.1.1.4.1", "CT": "1.2.840.10008.5.1.4.1.1.2.1"}
_FLIP = np.array([-1.0, -1.0, 1.0])  # RAS to LPS and back


def oblique_affine(spacing_mm: tuple[float, float, float] = (1.0, 1.25, 3.0)) -> Float64[np.ndarray, "4 4"]:
    """Return a right-handed, anisotropic RAS affine turned about all three axes; DICOM keeps its slice order."""
    a, b, c = 0.3, -0.2, 0.15
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_y @ about_x * np.array(spacing_mm)
    affine[:3, 3] = (-12.5, 20.25, -31.0)
    return affine


def stored_voxels(
    shape: tuple[int, int, int] = (7, 6, 5), *, low: int = 0, high: int = 1000
) -> Shaped[np.ndarray, "I J K"]:
    """Return integers that are different in every corner, plane and axis, so that no flip or swap goes unseen."""
    generator = np.random.default_rng(7)
    return generator.integers(low, high, size=shape, dtype=np.int16)


def series(
    voxels: Shaped[np.ndarray, "I J K"],
    affine: Float64[np.ndarray, "4 4"],
    *,
    modality: Modality = "MR",
    slopes: Sequence[float] = (1.0,),
    intercepts: Sequence[float] = (0.0,),
    name: str = "a",
    series_number: int = 1,
) -> list[Dataset]:
    """Return a classic MR or CT series: one dataset a slice along K, I along the rows, J down the columns.

    Args:
        voxels: stored integers of 16 bits.
        affine: where they are, RAS mm.
        modality: "MR" or "CT".
        slopes: rescale slope of each slice, repeated as needed.
        intercepts: rescale intercept of each slice, repeated as needed.
        name: another name gives another series of the same study and frame of reference.
        series_number: the scanner's number.
    """
    made = []
    for k in range(voxels.shape[2]):
        header = _context(modality, name, series_number)
        header.SOPClassUID = _CLASSES[modality]
        header.SOPInstanceUID = _uid("instance", name, k)
        header.InstanceNumber = k + 1
        header.ImagePositionPatient = [_text(x) for x in (affine @ (0, 0, k, 1))[:3] * _FLIP]
        header.ImageOrientationPatient = _cosines(affine)
        header.PixelSpacing, header.SliceThickness = _in_plane(affine), _text(np.linalg.norm(affine[:3, 2]))
        header.RescaleSlope, header.RescaleIntercept = (
            _text(slopes[k % len(slopes)]),
            _text(intercepts[k % len(intercepts)]),
        )
        header.RescaleType = "HU" if modality == "CT" else "US"
        _add_acquisition(header, modality)
        _add_pixels(header, voxels[:, :, k].T)
        made.append(header)
    return made


def enhanced(
    voxels: Shaped[np.ndarray, "T I J K"],
    affine: Float64[np.ndarray, "4 4"],
    *,
    modality: Modality = "MR",
    name: str = "e",
    order: Sequence[int] | None = None,
) -> Dataset:
    """Return one enhanced multi-frame dataset of T time points; ``order`` permutes its frames (t, then k)."""
    header = _context(modality, name, 1)
    header.SOPClassUID, header.SOPInstanceUID, header.InstanceNumber = _ENHANCED[modality], _uid("enhanced", name), 1
    count, depth = voxels.shape[0], voxels.shape[3]
    frames = [(t, k) for t in range(count) for k in range(depth)]
    frames = frames if order is None else [frames[n] for n in order]
    header.NumberOfFrames = len(frames)
    shared = Dataset()
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=_cosines(affine))
    shared.PixelMeasuresSequence = _item(
        PixelSpacing=_in_plane(affine), SliceThickness=_text(np.linalg.norm(affine[:3, 2]))
    )
    header.SharedFunctionalGroupsSequence = DicomSequence([shared])
    header.PerFrameFunctionalGroupsSequence = DicomSequence([_frame_groups(affine, t, k) for t, k in frames])
    _add_pixels(header, np.stack([voxels[t, :, :, k].T for t, k in frames]))
    return header


def _frame_groups(affine: Float64[np.ndarray, "4 4"], t: int, k: int) -> Dataset:
    groups = Dataset()
    position = (affine @ (0, 0, k, 1))[:3] * _FLIP
    groups.PlanePositionSequence = _item(ImagePositionPatient=[_text(x) for x in position])
    groups.FrameContentSequence = _item(
        StackID="1", InStackPositionNumber=k + 1, TemporalPositionIndex=t + 1, DimensionIndexValues=[1, k + 1, t + 1]
    )
    groups.PixelValueTransformationSequence = _item(RescaleSlope="2", RescaleIntercept=_text(-k), RescaleType="US")
    return groups


def without_slice(slices: Sequence[Dataset], k: int) -> list[Dataset]:
    """Lose slice ``k``."""
    return [one for index, one in enumerate(slices) if index != k]


def moved(slices: Sequence[Dataset], offsets_mm: Sequence[float]) -> list[Dataset]:
    """Move each slice along the normal (row x column): jitter, unequal spacing."""
    cosines = np.array(slices[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(cosines[:3], cosines[3:])
    return [_shifted(one, offset * normal) for one, offset in zip(slices, offsets_mm, strict=True)]


def tilted(slices: Sequence[Dataset], degrees: float) -> list[Dataset]:
    """Shear the stack as a tilted CT gantry does: each slice slides down its columns, the planes stay parallel."""
    cosines = np.array(slices[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(cosines[:3], cosines[3:])
    places = np.array([one.ImagePositionPatient for one in slices], dtype=float) @ normal
    slide = np.tan(np.radians(degrees)) * (places - places[0])
    return [_shifted(one, s * cosines[3:]) for one, s in zip(slices, slide, strict=True)]


def renumbered(slices: Sequence[Dataset], numbers: Sequence[int] | None) -> list[Dataset]:
    """Give other instance numbers, or take them away with None."""
    copies = [copy.deepcopy(one) for one in slices]
    for index, one in enumerate(copies):
        if numbers is None:
            del one.InstanceNumber
        else:
            one.InstanceNumber = numbers[index]
    return copies


def repeated(slices: Sequence[Dataset], k: int, *, same_pixels: bool, same_uid: bool = False) -> list[Dataset]:
    """Add slice ``k`` a second time, with the same pixels or with others."""
    twin = copy.deepcopy(slices[k])
    if not same_uid:
        twin.SOPInstanceUID = _uid("twin", str(twin.SOPInstanceUID))
    if not same_pixels:
        _add_pixels(twin, np.frombuffer(twin.PixelData, dtype="<i2").reshape(twin.Rows, twin.Columns)[::-1] + 1)
    return [*slices, twin]


def with_localizer(slices: Sequence[Dataset]) -> list[Dataset]:
    """Add a localizer image across the stack, as scanners put them into the same series."""
    localizer = copy.deepcopy(slices[0])
    cosines = np.array(localizer.ImageOrientationPatient, dtype=float)
    normal = np.cross(cosines[:3], cosines[3:])
    localizer.ImageOrientationPatient = [_text(x) for x in (*cosines[3:], *normal)]
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    localizer.SOPInstanceUID = _uid("localizer", str(localizer.SOPInstanceUID))
    return [localizer, *slices]


def save(datasets: Sequence[Dataset], folder: Path, *, preamble: bool = True, shuffled: bool = True) -> Path:
    """Write datasets as files whose name order says nothing about their place, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(3).permutation(len(datasets)) if shuffled else np.arange(len(datasets))
    for dataset, number in zip(datasets, names, strict=True):
        save_one(dataset, folder / f"{number:04d}.dcm", preamble=preamble)
    return folder


def save_one(dataset: Dataset, path: Path, *, preamble: bool = True) -> Path:
    """Write one dataset, and return its path."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, _uid("implementation")
    if preamble:
        file = FileDataset(str(path), dataset, file_meta=meta, preamble=bytes(128))
        file.save_as(path, enforce_file_format=True)
    else:
        dataset.save_as(path, implicit_vr=False, little_endian=True)
    return path


def _context(modality: Modality, name: str, number: int) -> Dataset:
    """Return what all images of a series share: an invented patient, study, series, frame of reference, equipment."""
    header = Dataset()
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = "Phantom^Numbers", "N0", "", "O"
    header.StudyInstanceUID, header.StudyDate, header.StudyTime = _uid("study"), "20200101", "120000"
    header.StudyID, header.AccessionNumber, header.ReferringPhysicianName = "1", "", ""
    header.SeriesInstanceUID, header.SeriesNumber, header.Modality = _uid("series", name), number, modality
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = _uid("frame"), ""
    header.Manufacturer, header.PatientPosition, header.BodyPartExamined = "None", "HFS", "HEAD"
    return header


def _add_acquisition(header: Dataset, modality: Modality) -> None:
    header.AcquisitionNumber = 1
    if modality == "CT":
        header.KVP = "120"
        return
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "GR", "SP", ""
    header.MRAcquisitionType, header.EchoTime, header.RepetitionTime, header.EchoTrainLength = "3D", "2.5", "2000", "1"


def _add_pixels(header: Dataset, pixels: Shaped[np.ndarray, "..."]) -> None:
    header.Rows, header.Columns = pixels.shape[-2:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    header.add_new("PixelData", "OW", pixels.astype("<i2").tobytes())


def _shifted(one: Dataset, offset: Float64[np.ndarray, "3"]) -> Dataset:
    twin = copy.deepcopy(one)
    twin.ImagePositionPatient = [_text(x) for x in np.array(one.ImagePositionPatient, dtype=float) + offset]
    return twin


def _cosines(affine: Float64[np.ndarray, "4 4"]) -> list[str]:
    axes = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0) * _FLIP[:, None]
    return [_text(x) for x in axes.T.ravel()]


def _in_plane(affine: Float64[np.ndarray, "4 4"]) -> list[str]:
    return [_text(np.linalg.norm(affine[:3, 1])), _text(np.linalg.norm(affine[:3, 0]))]


def _item(**attributes: Any) -> DicomSequence:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return DicomSequence([item])


def _text(value: Any) -> str:
    """Return a decimal string of at most 16 characters; adding 0 turns -0 into 0."""
    for digits in range(15, 0, -1):
        text = f"{float(value) + 0.0:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} does not fit a DICOM decimal string")


def _uid(*words: Any) -> str:
    return str(generate_uid(entropy_srcs=["medinterp-testing", *map(str, words)]))
