"""Make sample_data/head: one synthetic head as T1, T2 and CT, noisy, as DICOM and NIfTI, beside its known truth.

Run from anywhere: ``python sample_data/make_sample_data.py [--output DIR]``. About 40 s on one thread. Every number
comes from the seeds below, so two runs give the same arrays and UIDs.
"""

import argparse
import gzip
import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from medinterp.testing.anatomy import CALCIFICATION, LESION
from medinterp.testing.dicom_files import save_one, series
from medinterp.testing.phantoms import (
    BIAS,
    DICOM_MODALITIES,
    FRAME_UID,
    INTENSITIES,
    UNITS,
    add_rician,
    coloured_noise,
    head,
    lesion,
    oblique_grid,
)
from medinterp.testing.shapes import Sphere
from medinterp.volume import Grid, Region, ring

RING_MM = {"gap_mm": 2.0, "width_mm": 5.0}
CT_INTERCEPT = -1024


@dataclass(frozen=True)
class Scan:
    """How one modality is imaged: its grid, its noise and what its DICOM headers say."""

    modality: str
    number: int
    grid: Grid
    noise: str
    sigma: float
    seed: int
    header: Mapping[str, Any]
    window: tuple[int, int]

    @property
    def name(self) -> str:
        """Lower-case name, used for folders and files."""
        return self.modality.lower()


SCANS = (
    Scan(
        modality="T1",
        number=2,
        grid=oblique_grid((88, 106, 69), (1.65, 1.65, 2.05), (8.0, -5.0, 12.0), (-2.0, -3.5, 12.0)),
        noise="rician",
        sigma=28.0,  # 7 % of white matter
        seed=101,
        header={
            "ScanningSequence": "GR",
            "SequenceVariant": "SP",
            "MRAcquisitionType": "3D",
            "RepetitionTime": "20",
            "EchoTime": "3.5",
            "FlipAngle": "25",
            "EchoTrainLength": "1",
        },
        window=(240, 480),
    ),
    Scan(
        modality="T2",
        number=3,
        grid=oblique_grid((82, 101, 46), (1.8, 1.8, 3.0), (-11.0, 6.0, -7.0), (1.0, 8.0, 11.0)),
        noise="rician",
        sigma=24.0,  # 5 % of fluid, 9 % of grey matter
        seed=102,
        header={
            "ScanningSequence": "SE",
            "SequenceVariant": "SK",
            "MRAcquisitionType": "2D",
            "RepetitionTime": "4200",
            "EchoTime": "95",
            "FlipAngle": "90",
            "EchoTrainLength": "12",
        },
        window=(260, 520),
    ),
    Scan(
        modality="CT",
        number=4,
        grid=oblique_grid((75, 92, 57), (1.95, 1.95, 2.45), (14.0, 3.0, -9.0), (-1.5, -8.5, 10.5)),
        noise="coloured",
        sigma=15.0,  # a low dose: more than the lesion's contrast
        seed=103,
        header={"KVP": "120", "GantryDetectorTilt": "0", "ConvolutionKernel": "SHEPP-LOGAN"},
        window=(40, 160),
    ),
)


def clean(scan: Scan) -> NDArray[np.int16]:
    """Return the truth, rounded to whole units."""
    return np.rint(head(scan.modality, scan.grid)).astype(np.int16)


def noisy(scan: Scan, truth: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the scan: the truth and its noise, rounded to whole units."""
    generator, image = np.random.default_rng(scan.seed), truth.astype(np.float32)
    if scan.noise == "rician":
        return np.rint(add_rician(image, scan.sigma, generator)).astype(np.int16)
    return np.rint(image + coloured_noise(scan.grid, scan.sigma, generator)).astype(np.int16)


def uid(*words: object) -> str:
    """Return the same 2.25 UID for the same words."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, '/'.join(('medinterp/sample_data/head', *map(str, words)))).int}"


def write_dicom(scan: Scan, voxels: NDArray[np.int16], folder: Path) -> None:
    """Write one classic series, 0001.dcm at the bottom of the head."""
    is_ct = scan.modality == "CT"
    stored = voxels - np.int16(CT_INTERCEPT) if is_ct else voxels
    slices = series(
        stored,
        scan.grid.affine,
        modality="CT" if is_ct else "MR",
        intercepts=(float(CT_INTERCEPT if is_ct else 0),),
        series_number=scan.number,
    )
    folder.mkdir(parents=True)
    for number, one in enumerate(slices, start=1):
        one.PatientName, one.PatientID = "Phantom^Synthetic", "MEDINTERP-HEAD"
        one.StudyInstanceUID, one.SeriesInstanceUID = uid("study"), uid(scan.name)
        one.SOPInstanceUID, one.FrameOfReferenceUID = uid(scan.name, number), FRAME_UID
        one.StudyDescription, one.SeriesDescription = "Synthetic head", f"Synthetic {scan.modality} with known truth"
        one.Manufacturer, one.ManufacturerModelName = "medinterp", "synthetic head phantom"
        one.WindowCenter, one.WindowWidth = scan.window
        for keyword, value in scan.header.items():
            setattr(one, keyword, value)
        if not is_ct:  # magnitudes need no rescaling, and the MR image module has none
            del one.RescaleSlope, one.RescaleIntercept, one.RescaleType
            one.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        save_one(one, folder / f"{number:04d}.dcm")


def write_nifti(voxels: NDArray[np.generic], grid: Grid, path: Path) -> None:
    """Write integers as they are, with qform and sform equal; the file holds no date, so it is the same every time."""
    image = nibabel.Nifti1Image(voxels, grid.affine)
    image.set_qform(grid.affine, code=1)
    image.set_sform(grid.affine, code=1)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))


def digest(voxels: NDArray[np.generic]) -> str:
    """Return the SHA-256 of the values as little-endian int16 in C order (I, J, K)."""
    return hashlib.sha256(np.ascontiguousarray(voxels, dtype="<i2").tobytes()).hexdigest()


def contrast(truth: NDArray[np.int16], mask: NDArray[np.bool_], grid: Grid) -> dict[str, float]:
    """Return the true means of lesion and ring, and their difference."""
    around = ring(Region(mask, grid, "lesion"), **RING_MM)
    inside, outside = float(truth[mask].mean()), float(truth[around.mask].mean())
    return {"lesion_mean": inside, "ring_mean": outside, "lesion_contrast": inside - outside}


def make(scan: Scan, folder: Path) -> dict[str, Any]:
    """Write one modality and return what truth.json says of it."""
    truth, mask = clean(scan), lesion(scan.grid)
    voxels = noisy(scan, truth)
    write_dicom(scan, voxels, folder / "dicom" / scan.name)
    write_nifti(voxels, scan.grid, folder / f"{scan.name}.nii.gz")
    write_nifti(truth, scan.grid, folder / "truth" / f"{scan.name}_truth.nii.gz")
    write_nifti(mask.astype(np.uint8), scan.grid, folder / "truth" / f"{scan.name}_lesion.nii.gz")
    return {
        "unit": UNITS[scan.modality],
        "shape": list(scan.grid.shape),
        "affine": scan.grid.affine.round(9).tolist(),
        "noise": {"model": scan.noise, "sigma": scan.sigma, "seed": scan.seed},
        "series_uid": uid(scan.name),
        **contrast(truth, mask, scan.grid),
        "lesion_voxels": int(mask.sum()),
        "intensities": {tissue.value: value for tissue, value in INTENSITIES[scan.modality].items()},
        "sha256": {"scan": digest(voxels), "truth": digest(truth), "lesion": digest(mask)},
    }


def _place(sphere: Sphere) -> dict[str, Any]:
    return {"centre_mm": list(sphere.centre_mm), "radius_mm": sphere.radius_mm}


def main() -> None:
    """Write everything anew."""
    parser = argparse.ArgumentParser(description="Make the synthetic head and its truth.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "head", help="folder to replace")
    folder = parser.parse_args().output
    shutil.rmtree(folder, ignore_errors=True)
    record = {
        "about": "Synthetic head. Places are RAS mm; voxels I, J, K = column, row, slice; affines map them to RAS mm.",
        "frame_of_reference_uid": FRAME_UID,
        "lesion": _place(LESION),
        "calcification": {**_place(CALCIFICATION), "modality": "ct"},
        "ring": RING_MM,
        "bias_field": {"modalities": [m for m, kind in DICOM_MODALITIES.items() if kind == "MR"], "relative": BIAS},
        "modalities": {scan.name: make(scan, folder) for scan in SCANS},
    }
    (folder / "truth.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    files = [path for path in folder.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.2f} MB in {folder}")


if __name__ == "__main__":
    main()
