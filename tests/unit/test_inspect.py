"""Inspection says what a path holds and what is wrong with it, and shows no patient data."""

import json
from dataclasses import asdict
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medinterp.errors import InputError
from medinterp.io import inspect, read
from medinterp.io.inspect import orientation_code
from medinterp.testing import dicom_files as files
from medinterp.volume import Grid

AFFINE = files.oblique_affine()
VOXELS = files.stored_voxels()


def nifti(path: Path, voxels: np.ndarray = VOXELS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(voxels, AFFINE).to_filename(path)
    return path


def test_a_mixed_folder_is_listed_with_series_numbers_that_read_takes(tmp_path: Path) -> None:
    files.save(files.series(VOXELS, AFFINE, series_number=4), tmp_path / "a")
    files.save(files.series(VOXELS[:, :, :3], AFFINE, name="b", series_number=2, modality="CT"), tmp_path / "b")
    nifti(tmp_path / "c.nii.gz")
    found = inspect(tmp_path)
    assert [(v.number, v.kind, v.modality, v.shape) for v in found.volumes] == [
        (1, "dicom", "CT", (7, 6, 3)),
        (2, "dicom", "MR", (7, 6, 5)),
        (3, "nifti", "MR", (7, 6, 5)),
    ]
    for entry in found.volumes[:2]:
        assert read(tmp_path, series=entry.number).grid.shape == entry.shape
        assert np.allclose(entry.spacing_mm, (1.0, 1.25, 3.0))  # type: ignore[arg-type]
    assert all(entry.readable for entry in found.volumes)


def test_what_read_refuses_is_listed_as_a_problem(tmp_path: Path) -> None:
    files.save(files.tilted(files.series(VOXELS, AFFINE), 18.5), tmp_path / "a")
    made = files.series(np.stack([VOXELS, VOXELS])[0], AFFINE, name="b", series_number=2)
    files.save(files.without_slice(made, 2), tmp_path / "b")
    tilt, hole = inspect(tmp_path).volumes
    assert "tilt of 18.5 degrees" in tilt.problems[0]
    assert "1 slice is missing" in hole.problems[0]
    assert not tilt.readable
    assert tilt.spacing_mm is None


def test_a_time_series_lists_its_frames(tmp_path: Path) -> None:
    path = files.save_one(files.enhanced(np.stack([VOXELS] * 3), AFFINE), tmp_path / "e.dcm")
    (entry,) = inspect(path).volumes
    assert (entry.frames, len(entry.frame_labels)) == (3, 3)
    assert "--frame 0 to 2" in entry.describe()
    (entry,) = inspect(nifti(tmp_path / "f.nii", np.stack([VOXELS] * 2, axis=-1))).volumes
    assert (entry.frames, entry.shape) == (2, (7, 6, 5))


def test_nothing_identifies_the_patient_and_all_is_json(tmp_path: Path) -> None:
    made = files.series(VOXELS, AFFINE)
    for one in made:
        one.PatientName, one.PatientID, one.SeriesDescription = "Secret^Person", "ID4711", "Secret"
    found = inspect(files.save(made, tmp_path / "Secret"))
    for text in (json.dumps(asdict(found)), json.dumps(found.as_dict()), found.describe()):
        assert not any(word in text for word in ("Secret", "4711", made[0].SeriesInstanceUID, made[0].StudyInstanceUID))
    assert len(found.volumes[0].identity) == 8


def test_a_damaged_file_is_a_problem_of_the_folder(tmp_path: Path) -> None:
    folder = files.save(files.series(VOXELS, AFFINE), tmp_path, shuffled=False)
    damaged = folder / "0001.dcm"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert inspect(folder).problems[0].startswith("file 2 of 5")


def test_a_damaged_nifti_is_a_problem_not_an_exception(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii.gz")
    path.write_bytes(path.read_bytes()[:100])
    (entry,) = inspect(path).volumes
    assert not entry.readable


def test_an_empty_folder_holds_nothing_and_a_missing_path_is_an_error(tmp_path: Path) -> None:
    assert inspect(tmp_path).describe() == "no scan found"
    with pytest.raises(InputError):
        inspect(tmp_path / "nowhere")


def test_orientation_codes_agree_with_nibabel_for_every_axis_order_and_sign() -> None:
    for signs in product((-1.0, 1.0), repeat=3):
        affine = AFFINE @ np.diag([*signs, 1.0])
        for order in ([0, 1, 2], [1, 2, 0], [2, 1, 0]):
            turned = affine[:, [*order, 3]]
            assert orientation_code(Grid((3, 4, 5), turned)) == "".join(nibabel.aff2axcodes(turned))


def test_a_folder_of_one_nifti_is_read_and_of_several_is_asked_about(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz")
    assert read(tmp_path).grid.shape == VOXELS.shape
    nifti(tmp_path / "b.nii.gz", VOXELS[:4])
    with pytest.raises(InputError, match="2 NIfTI or NRRD files"):
        read(tmp_path)
    assert read(tmp_path, series=2).grid.shape == (4, 6, 5)


def test_every_number_that_inspect_gives_can_be_read(tmp_path: Path) -> None:
    files.save(files.series(VOXELS, AFFINE), tmp_path / "dicom")
    nifti(tmp_path / "a.nii.gz", VOXELS[:4])
    nifti(tmp_path / "b.nii.gz", VOXELS[:5])
    listed = inspect(tmp_path).volumes
    assert [entry.kind for entry in listed] == ["dicom", "nifti", "nifti"]
    for entry in listed:
        assert read(tmp_path, series=entry.number).grid.shape == entry.shape
    with pytest.raises(InputError, match="series 4"):
        read(tmp_path, series=4)
    with pytest.raises(InputError, match="series 2"):
        read(tmp_path / "a.nii.gz", series=2)
