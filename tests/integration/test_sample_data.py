"""The committed sample data agree with their truth.json, with the script that makes them, and with each other."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from medinterp import io
from medinterp.testing.phantoms import head, lesion
from medinterp.volume import Grid, Region, ring, sphere

ROOT = Path(__file__).parents[2] / "sample_data"
HEAD = ROOT / "head"
TRUTH = json.loads((HEAD / "truth.json").read_text(encoding="utf-8"))
NAMES = ("t1", "t2", "ct")


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sample_data", ROOT / "make_sample_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()
SCANS = {scan.name: scan for scan in SCRIPT.SCANS}


def _load(relative: str) -> tuple[np.ndarray, Grid]:
    image = nibabel.load(HEAD / relative)
    voxels = np.asarray(image.dataobj)
    return voxels, Grid(voxels.shape, image.affine)


def _recorded_grid(name: str) -> Grid:
    said = TRUTH["modalities"][name]
    return Grid(tuple(said["shape"]), np.array(said["affine"]))


def test_all_sample_data_fit_in_six_megabytes() -> None:
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) <= 6_000_000


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_the_recorded_arrays_on_the_recorded_grid(name: str) -> None:
    for kind, file in (
        ("scan", f"{name}.nii.gz"),
        ("truth", f"truth/{name}_truth.nii.gz"),
        ("lesion", f"truth/{name}_lesion.nii.gz"),
    ):
        voxels, grid = _load(file)
        assert SCRIPT.digest(voxels) == TRUTH["modalities"][name]["sha256"][kind]
        assert grid.mismatch(_recorded_grid(name)) is None
        assert grid.mismatch(SCANS[name].grid) is None


@pytest.mark.parametrize("name", NAMES)
def test_dicom_and_nifti_are_the_same_voxels_at_the_same_place(name: str) -> None:
    series, nifti = io.read(HEAD / "dicom" / name), io.read(HEAD / f"{name}.nii.gz")
    assert np.array_equal(series.voxels, nifti.voxels)
    assert series.grid.mismatch(nifti.grid) is None
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0]) @ nifti.grid.affine
    assert series.grid.mismatch(Grid(nifti.grid.shape, mirrored)) is not None  # control


@pytest.mark.parametrize("name", NAMES)
def test_simpleitk_sees_the_lesion_at_the_true_place_in_the_dicom_series(name: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(HEAD / "dicom" / name))
    image = sitk.ReadImage(files)
    mask, grid = _load(f"truth/{name}_lesion.nii.gz")
    voxels, _ = _load(f"{name}.nii.gz")
    centre_lps = np.array(TRUTH["lesion"]["centre_mm"]) * (-1, -1, 1)
    index = image.TransformPhysicalPointToContinuousIndex(centre_lps.tolist())
    np.testing.assert_allclose(index, grid.to_index(TRUTH["lesion"]["centre_mm"]), atol=1e-3)
    assert mask[tuple(np.rint(index).astype(int))]
    assert np.array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), voxels)


@pytest.mark.parametrize("name", NAMES)
def test_the_script_makes_the_committed_truth_around_the_lesion(name: str) -> None:
    scan, (truth, _) = SCANS[name], _load(f"truth/{name}_truth.nii.gz")
    size = (20, 20, 10)
    i, j, k = (np.rint(scan.grid.to_index(TRUTH["lesion"]["centre_mm"])).astype(int) - (14, 10, 5)).tolist()
    part = np.rint(head(scan.modality, scan.grid.crop((i, j, k), size)))
    committed = truth[i : i + size[0], j : j + size[1], k : k + size[2]]
    # sines differ in their last bit between machines: a value may round the other way, but not by more
    assert np.abs(part - committed).max() <= 1
    assert (part != committed).mean() < 0.01
    assert np.ptp(committed) > 20


@pytest.mark.parametrize("name", NAMES)
def test_the_script_makes_the_committed_noise_from_the_committed_truth(name: str) -> None:
    (truth, _), (voxels, _) = _load(f"truth/{name}_truth.nii.gz"), _load(f"{name}.nii.gz")
    again = SCRIPT.noisy(SCANS[name], truth)
    assert np.abs(again.astype(int) - voxels).max() <= 1
    assert (again != voxels).mean() < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_noise_has_the_recorded_strength(name: str) -> None:
    (truth, _), (voxels, _) = _load(f"truth/{name}_truth.nii.gz"), _load(f"{name}.nii.gz")
    clean, noisy, said = truth.astype(float), voxels.astype(float), TRUTH["modalities"][name]["noise"]
    if said["model"] == "rician":  # E[m²] = truth² + 2 sigma²; in air the excess is exponential, error 1/sqrt(n)
        air = clean == 0
        measured = np.sqrt(((noisy**2)[air]).mean() / 2)
        assert air.sum() > 50_000
    else:
        measured = (noisy - clean).std()
    assert measured == pytest.approx(said["sigma"], rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_lesion_contrast_is_that_of_the_files(name: str) -> None:
    (truth, grid), (mask, _) = _load(f"truth/{name}_truth.nii.gz"), _load(f"truth/{name}_lesion.nii.gz")
    said = TRUTH["modalities"][name]
    place, inside = TRUTH["lesion"], Region(mask > 0, grid, "lesion")
    assert np.array_equal(inside.mask, sphere(grid, tuple(place["centre_mm"]), place["radius_mm"]).mask)
    assert np.array_equal(inside.mask, lesion(SCANS[name].grid))
    contrast = truth[inside.mask].mean() - truth[ring(inside, **TRUTH["ring"]).mask].mean()
    assert said["lesion_voxels"] == inside.mask.sum()
    assert said["lesion_contrast"] == pytest.approx(contrast, abs=1e-6)
    assert np.sign(contrast) == {"t1": -1, "t2": 1, "ct": -1}[name]


def test_all_series_share_one_invented_patient_and_one_frame_of_reference() -> None:
    headers: list[Any] = [
        pydicom.dcmread(path, stop_before_pixels=True) for path in sorted((HEAD / "dicom").rglob("*.dcm"))
    ]
    assert {h.FrameOfReferenceUID for h in headers} == {TRUTH["frame_of_reference_uid"]}
    assert {str(h.PatientName) for h in headers} == {"Phantom^Synthetic"}
    assert len({h.SOPInstanceUID for h in headers}) == len(headers)
    assert {h.SeriesInstanceUID for h in headers} == {TRUTH["modalities"][name]["series_uid"] for name in NAMES}
    assert all(uid.startswith("2.25.") for h in headers for uid in (h.StudyInstanceUID, h.SOPInstanceUID))


def test_dciodvfy_finds_no_error_and_no_warning() -> None:
    if shutil.which("dciodvfy") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("dciodvfy is missing: install dicom3tools")
        pytest.skip("dciodvfy is missing: install dicom3tools")
    for path in sorted((HEAD / "dicom").rglob("*.dcm"))[::16]:  # slices differ in nothing but position and pixels
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        complaints = [s for s in (said.stdout + said.stderr).splitlines() if s.startswith(("Error", "Warning"))]
        assert not complaints, f"{path.name}: {complaints}"
