"""Scans with DICOM headers made in memory, and maps on them with known places."""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from medinterp.volume import Grid, Provenance, Segment, Segmentation, Source, Step, Volume

_TURN = Rotation.from_euler("xyz", (15, -20, 25), degrees=True).as_matrix()


def _affine(turn: np.ndarray, spacing: Sequence[float], origin: Sequence[float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag(spacing), origin
    return affine


# Name: shape, affine, unit, modality, whether it comes as DICOM. As read from DICOM, an axial scan's rows run
# towards the patient's left and its columns towards the back, so the first two axes point to -x and -y in RAS.
SCANS = {
    "axial_ct": ((14, 12, 9), _affine(np.eye(3), (-0.7, -0.7, 5.0), (40, 30, -349)), "HU", "CT", True),
    "oblique_mr": ((16, 13, 10), _affine(_TURN, (0.9, 1.1, 2.5), (10, -20, 30.5)), "a.u.", "MR", True),
    "nifti_oblique": ((12, 13, 9), _affine(_TURN, (1.0, 0.8, 3.0), (-31, 7, 2)), "a.u.", "MR", False),
    "nifti_reversed": ((13, 11, 8), _affine(np.eye(3), (1.0, 1.2, -4.0), (-20, 33, 50)), "a.u.", "MR", False),
    "nifti_ct": ((12, 11, 8), _affine(_TURN, (-1.0, 1.2, 2.0), (5, 3, 1)), "HU", "CT", False),
}


def _header(grid: Grid, modality: str, k: int) -> Dataset:
    flip = np.array([-1, -1, 1])
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 100"
    header.SOPClassUID = {"MR": "1.2.840.10008.5.1.4.1.1.4", "CT": "1.2.840.10008.5.1.4.1.1.2"}[modality]
    header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID = f"1.2.3.{k + 1}", "1.2.4", "1.2.5"
    header.FrameOfReferenceUID = "1.2.6"
    header.PatientName, header.PatientID, header.PatientSex = "Doe^Jörg", "secret-17", "O"
    header.PatientBirthDate, header.PatientAge, header.AccessionNumber = "19700101", "051Y", ""
    header.StudyDate, header.StudyTime, header.StudyID, header.ReferringPhysicianName = "20220407", "150138", "1", ""
    header.PatientComments, header.InstitutionName = "never copied", "never copied"
    header.Modality, header.BodyPartExamined, header.PatientPosition = modality, "BRAIN", "HFS"
    if modality == "MR":
        header.ScanningSequence, header.SequenceVariant, header.EchoTime, header.RepetitionTime = "GR", "SP", 2.46, 300
        header.MRAcquisitionType, header.EchoTrainLength, header.ScanOptions = "2D", 1, ""
    else:
        header.KVP = 120
        del header.BodyPartExamined
    header.ImagePositionPatient = [float(f"{v:.10g}") for v in grid.to_world([0, 0, k]) * flip]
    header.add_new((0x0019, 0x0010), "LO", "PRIVATE CREATOR")
    header.add_new((0x0019, 0x1010), "LO", "never copied")
    return header


def make_scan(name: str) -> Volume:
    """Return one of SCANS: noise around a level, with headers of its slices when it comes as DICOM."""
    shape, affine, unit, modality, dicom = SCANS[name]
    grid = Grid(shape, affine, "1.2.6" if dicom else None)
    values = np.random.default_rng(3).normal(300, 40, size=(1, *shape)).astype(np.float32)
    headers = tuple(_header(grid, modality, k) for k in range(shape[2])) if dicom else ()
    source = Source("dicom" if dicom else "nifti", headers=headers)
    return Volume(values, grid, unit, modality, Provenance(source))


def impulse(scan: Volume, index: tuple[int, int, int], value: float) -> Volume:
    """Return a map that is zero but for one voxel."""
    values = np.zeros((1, *scan.grid.shape))
    values[(0, *index)] = value
    return map_on(scan, values)


def map_on(scan: Volume, values: np.ndarray, unit: str = "1") -> Volume:
    """Return values (1, I, J, K) as a volume derived from a scan."""
    return scan.derive(values.astype(np.float32), Step("saliency"), unit=unit)


def one_voxel_clusters(scan: Volume, *indices: tuple[int, int, int]) -> Segmentation:
    """Return clusters of one voxel each, of alternating sign."""
    labels = np.zeros(scan.grid.shape, dtype=np.int16)
    segments = []
    for label, index in enumerate(indices, start=1):
        labels[index] = label
        sign = 1 if label % 2 else -1
        x, y, z = (float(v) for v in scan.grid.to_world(list(index)))
        segments.append(Segment(label, f"cluster {label}", sign, (x, y, z), float(sign), 1.0, float(sign)))
    return Segmentation(labels, scan.grid, tuple(segments))


def world_of(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the RAS mm of all voxels of an array (I, J, K) that are not zero, in index order."""
    return np.argwhere(values != 0) @ affine[:3, :3].T + affine[:3, 3]
