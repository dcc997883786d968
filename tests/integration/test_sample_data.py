"""The committed sample data is what its script makes, and says so truly."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medinterp import io
from medinterp.demo import sample_folder
from medinterp.testing.phantoms import head
from medinterp.volume import Region, ring

MODALITIES = ("t1", "t2", "ct")


@pytest.fixture(scope="module")
def truth() -> dict[str, dict[str, float | str]]:
    return json.loads((sample_folder() / "truth.json").read_text())["modalities"]


@pytest.mark.parametrize("name", MODALITIES)
def test_dicom_and_nifti_hold_the_same_voxels_at_the_same_place(name: str) -> None:
    dicom, nifti = io.read(sample_folder() / "dicom" / name), io.read(sample_folder() / f"{name}.nii.gz")
    # both hold integers; positions are decimal strings of 16 characters in DICOM, float32 in NIfTI
    assert np.array_equal(dicom.voxels, nifti.voxels)
    assert dicom.grid.mismatch(nifti.grid) is None
    assert (dicom.modality, dicom.unit) == (("CT", "HU") if name == "ct" else ("MR", "a.u."))
    assert (nifti.modality, nifti.unit) == (dicom.modality, dicom.unit)


@pytest.mark.parametrize("name", MODALITIES)
def test_the_voxels_have_the_hash_that_the_truth_states(name: str, truth: dict[str, dict[str, float | str]]) -> None:
    stored = np.rint(io.read(sample_folder() / "dicom" / name).voxels[0]).astype(np.int16)
    assert hashlib.sha256(stored.tobytes()).hexdigest() == truth[name]["voxels_sha256"]


@pytest.mark.parametrize("name", MODALITIES)
def test_the_noise_and_the_lesion_contrast_are_as_stated(name: str, truth: dict[str, dict[str, float | str]]) -> None:
    noisy = io.read(sample_folder() / f"{name}.nii.gz")
    clean = io.read(sample_folder() / "truth" / f"{name}_truth.nii.gz")
    lesion = io.read(sample_folder() / "truth" / f"{name}_lesion.nii.gz").voxels[0] > 0.5
    around = ring(Region(lesion, clean.grid, "lesion"), gap_mm=2.0, width_mm=5.0).mask
    contrast = float(clean.voxels[0][lesion].mean() - clean.voxels[0][around].mean())
    assert contrast == pytest.approx(truth[name]["lesion_contrast"], abs=0.5)  # the truth is stored rounded to 1
    bright = clean.voxels[0] > (-500 if name == "ct" else 3 * float(truth[name]["sigma"]))
    spread = float((noisy.voxels[0] - clean.voxels[0])[bright].std())
    # Rician noise is within 3 % of sigma at three sigma and more; rounding adds 0.3
    assert spread == pytest.approx(truth[name]["sigma"], rel=0.04)


def test_the_committed_truth_is_what_the_phantom_makes_today() -> None:
    clean = io.read(sample_folder() / "truth" / "t2_truth.nii.gz")
    slab = clean.grid.crop((0, 0, 20), (clean.grid.shape[0], clean.grid.shape[1], 2))
    # stored rounded to 1
    assert float(np.abs(head("T2", slab) - clean.voxels[0][:, :, 20:22]).max()) <= 0.51


def test_the_script_is_importable_and_names_its_output() -> None:
    script = Path(__file__).parents[2] / "sample_data" / "make_sample_data.py"
    code = f"import runpy; print(runpy.run_path({str(script)!r})['ROOT'].name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "head"
