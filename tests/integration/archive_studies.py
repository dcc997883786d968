"""Finished study folders with a few small DICOM objects, for the tests of sending and fetching."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from medinterp.export.record import write_dataset_description, write_run_json

PATIENT = "Secret^Sally"
PATIENT_ID = "secret-17"
STUDY, OTHER_STUDY = "1.2.826.0.1.1", "1.2.826.0.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"


def make_object(number: int, *, series: int = 1, study: str = STUDY, compressed: bool = False) -> Dataset:
    """Return a small MR image; its pixels differ from those of every other one."""
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SpecificCharacterSet = "ISO_IR 192"
    item.SOPClassUID, item.SOPInstanceUID = MR, f"{study}.{series}.{number}"
    item.StudyInstanceUID, item.SeriesInstanceUID = study, f"{study}.{series}"
    item.PatientName, item.PatientID, item.StudyDate, item.StudyID = PATIENT, PATIENT_ID, "20240117", "1"
    item.PatientBirthDate, item.AccessionNumber, item.StudyDescription = "19700101", "acc-9", "Head"
    item.Modality, item.SeriesNumber, item.InstanceNumber = "MR", series, number
    item.SeriesDescription, item.ProtocolName, item.BodyPartExamined = f"T{series}", "p", "BRAIN"
    item.Rows = item.Columns = 16
    item.BitsAllocated = item.BitsStored = 16
    item.HighBit, item.PixelRepresentation, item.SamplesPerPixel = 15, 0, 1
    item.PhotometricInterpretation = "MONOCHROME2"
    generator = np.random.default_rng([number, series])
    item.PixelData = generator.integers(0, 4096, (16, 16), dtype=np.uint16).tobytes()
    if compressed:
        item.compress(RLELossless, generate_instance_uid=False)
    return item


def write_object(item: Dataset, path: Path) -> Path:
    """Write an object as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    item.save_as(path, enforce_file_format=True)
    return path


def make_study(folder: Path, *, count: int = 6, compressed: bool = False) -> Path:
    """Write a finished study folder of ``count`` objects in two series and a file that is no DICOM."""
    for number in range(count):
        item = make_object(number, series=1 + number % 2, compressed=compressed)
        write_object(item, folder / "dicom" / f"{number:03}.dcm")
    (folder / "clusters.tsv").write_text("peak\n")
    write_dataset_description(folder, version="0.1.0")
    write_run_json(folder, {"seed": 1})
    return folder


def objects_of(folder: Path) -> dict[str, Dataset]:
    """Return the DICOM objects below a folder by SOP Instance UID."""
    found = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    return {str(item.SOPInstanceUID): item for item in found}
