"""NIfTI is read where its header says, refused where viewers would differ, and written the same for all of them."""

import gzip
import json
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from medinterp.errors import InputError, NonFiniteInput, UnsupportedSeries
from medinterp.io import read, read_nifti, write_nifti
from medinterp.testing.dicom_files import oblique_affine, stored_voxels
from medinterp.volume import Grid, Provenance, Source, Volume

AFFINE = oblique_affine()
VOXELS = stored_voxels().astype(np.int16)
FLOAT32_MM = 1e-4  # NIfTI stores quaternions and offsets as float32; 1e-4 mm is far below the 1e-3 mm we promise


def volume(voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, unit: str = "a.u.") -> Volume:
    return Volume(voxels[None].astype(np.float32), Grid(voxels.shape, affine), unit, "MR", Provenance(Source("memory")))


def save(
    path: Path, voxels: np.ndarray = VOXELS, *, qform: np.ndarray | None = AFFINE, sform: np.ndarray | None = AFFINE
) -> Path:
    image = nibabel.Nifti1Image(voxels, AFFINE)
    image.set_qform(qform, 0 if qform is None else 1)
    image.set_sform(sform, 0 if sform is None else 1)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def patch(path: Path, offset: int, data: bytes) -> Path:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.hdr"])
def test_values_and_place_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".hdr"):
        nibabel.Nifti1Pair(VOXELS, AFFINE).to_filename(path)
    else:
        save(path)
    found = read(path)
    assert np.array_equal(found.voxels[0], VOXELS.astype(np.float32))
    assert np.allclose(found.grid.affine, AFFINE, atol=FLOAT32_MM)
    assert (found.modality, found.unit) == ("MR", "a.u.")
    assert len(found.provenance.source.sha256) == 64


def test_scale_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.to_filename(tmp_path / "scan.nii")
    path = patch(tmp_path / "scan.nii", 112, struct.pack("<ff", 0.5, -3.0))
    assert np.array_equal(read(path).voxels[0], (VOXELS * 0.5 - 3.0).astype(np.float32))


def test_qform_and_sform_that_disagree_are_refused_in_mm_until_one_is_chosen(tmp_path: Path) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] += 2.0
    path = save(tmp_path / "scan.nii", sform=shifted)
    with pytest.raises(UnsupportedSeries, match="corners up to 2 mm apart"):
        read(path)
    assert np.allclose(read(path, use_form="qform").grid.affine, AFFINE, atol=FLOAT32_MM)
    assert np.allclose(read(path, use_form="sform").grid.affine, shifted, atol=FLOAT32_MM)


def test_forms_that_differ_by_float32_rounding_are_one(tmp_path: Path) -> None:
    rounded = AFFINE.copy()
    rounded[0, 3] += 1e-4
    assert read(save(tmp_path / "scan.nii", sform=rounded)).grid is not None


def test_a_form_whose_code_is_zero_cannot_be_chosen(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", qform=None)
    assert np.allclose(read(path).grid.affine, AFFINE, atol=FLOAT32_MM)
    with pytest.raises(UnsupportedSeries, match="code is 0"):
        read(path, use_form="qform")


def test_a_file_without_orientation_is_read_with_a_note_against_dicom_export(tmp_path: Path) -> None:
    notes = read(save(tmp_path / "scan.nii", qform=None, sform=None)).provenance.source.notes
    assert any("no orientation" in note and "DICOM export is refused" in note for note in notes)


def test_a_left_handed_file_keeps_its_world(tmp_path: Path) -> None:
    flipped = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
    path = save(tmp_path / "scan.nii", qform=flipped, sform=flipped)
    found = read(path)
    assert np.linalg.det(found.grid.affine) < 0
    assert np.allclose(found.grid.affine, flipped, atol=FLOAT32_MM)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 1e-3)])
def test_other_length_units_become_mm_with_a_note(tmp_path: Path, unit: str, factor: float) -> None:
    scaled = np.diag([1 / factor] * 3 + [1.0]) @ AFFINE
    image = nibabel.Nifti1Image(VOXELS, scaled)
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "scan.nii")
    found = read(tmp_path / "scan.nii")
    assert np.allclose(found.grid.affine, AFFINE, atol=FLOAT32_MM)
    assert any("converted to mm" in note for note in found.provenance.source.notes)


def test_a_sheared_sform_is_kept_with_a_note(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 1]
    found = read(save(tmp_path / "scan.nii", qform=None, sform=sheared))
    assert not found.grid.is_orthogonal
    assert np.allclose(found.grid.affine, sheared, atol=FLOAT32_MM)
    assert any("not perpendicular" in note for note in found.provenance.source.notes)


def test_stale_pixdim_is_noted_and_the_affine_used(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", qform=None)
    patch(path, 80, struct.pack("<f", 7.0))
    found = read(path)
    assert np.allclose(found.grid.affine, AFFINE, atol=FLOAT32_MM)
    assert any("pixdim" in note for note in found.provenance.source.notes)


def test_a_4d_file_asks_for_a_frame(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii.gz", np.stack([VOXELS, VOXELS + 5], axis=-1))
    with pytest.raises(InputError, match=r"2 volumes.*--frame 0 to 1"):
        read(path)
    assert np.array_equal(read(path, frame=1).voxels[0], (VOXELS + 5).astype(np.float32))
    with pytest.raises(InputError, match="numbered from 0"):
        read(path, frame=2)


def test_a_trailing_axis_of_one_is_no_time_series(tmp_path: Path) -> None:
    assert read(save(tmp_path / "scan.nii", VOXELS[..., None])).grid.shape == VOXELS.shape


def test_a_hounsfield_scan_is_recognised_and_a_signed_mr_map_is_not(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    lungs = np.where(stored_voxels() > 500, -850, 40) + generator.normal(0, 20, VOXELS.shape)
    found = read(save(tmp_path / "ct.nii", lungs.astype(np.int16)))
    assert (found.modality, found.unit) == ("CT", "HU")
    signed = generator.normal(0, 3000, VOXELS.shape)
    assert read(save(tmp_path / "map.nii", signed.astype(np.float32))).modality == "MR"


def test_the_sidecar_states_modality_and_unit(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii.gz")
    (tmp_path / "scan.json").write_text(json.dumps({"Modality": "CT"}))
    assert (read(path).modality, read(path).unit) == ("CT", "HU")
    (tmp_path / "scan.json").write_text("{broken")
    assert read(path).modality == "MR"


def test_nan_is_counted_and_refused(tmp_path: Path) -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[0, 0, :2] = np.nan
    with pytest.raises(NonFiniteInput, match="2 of 210"):
        read(save(tmp_path / "scan.nii", voxels))


def test_a_header_that_claims_huge_dimensions_is_refused_before_allocating(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "scan.nii"), 42, struct.pack("<3h", 30000, 30000, 30000))
    with pytest.raises(InputError, match="claims shape"):
        read(path)
    path = patch(save(tmp_path / "scan.nii"), 42, struct.pack("<3h", 800, 800, 800))
    with pytest.raises(InputError, match="cannot hold them"):
        read(path)


def test_a_compressed_header_that_claims_more_than_deflate_can_hold_is_refused(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "scan.nii"), 42, struct.pack("<3h", 800, 800, 800))
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="cannot hold them"):
        read(tmp_path / "scan.nii.gz")


def test_a_zip_bomb_is_refused_without_inflating_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medinterp.io.nifti_header.BOMB_BYTES", 1 << 20)
    path = save(tmp_path / "scan.nii.gz", np.zeros((128, 128, 128), dtype=np.int16))
    with pytest.raises(InputError, match="as no scan does"):
        read(path)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("kept", [0, 3, 200, 400])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: int) -> None:
    path = save(tmp_path / name)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"truncated|cannot be read"):
        read(path)


@pytest.mark.parametrize("content", [b"hello", b"hello" * 200, gzip.compress(b"hello" * 200)])
def test_a_file_that_is_not_nifti_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(content)
    with pytest.raises(InputError):
        read(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("kind", ["colour", "complex"])
def test_voxels_that_are_not_one_real_number_are_refused(tmp_path: Path, kind: str) -> None:
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]) if kind == "colour" else np.dtype(np.complex64)
    with pytest.raises(InputError, match=kind):
        read(save(tmp_path / "scan.nii", np.zeros(VOXELS.shape, dtype=dtype)))


def test_a_2d_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="three axes"):
        read(save(tmp_path / "scan.nii", VOXELS[:, :, 0]))


def test_what_is_written_reads_back_in_ours_nibabel_and_itk(tmp_path: Path) -> None:
    path, _ = write_nifti(volume(), tmp_path / "out.nii.gz", description="denoised", sidecar={})
    assert read_nifti(path).grid.mismatch(volume().grid) is None
    image = nibabel.load(path)
    assert np.array_equal(np.asarray(image.dataobj), VOXELS.astype(np.float32))
    itk = SimpleITK.ReadImage(str(path))
    point = np.array(itk.TransformIndexToPhysicalPoint((6, 5, 4))) * (-1, -1, 1)
    assert np.allclose(point, volume().grid.to_world((6, 5, 4)), atol=FLOAT32_MM)
    assert itk[2, 3, 4] == VOXELS[2, 3, 4]


def test_the_header_says_float32_mm_one_orientation_and_a_symmetric_range(tmp_path: Path) -> None:
    signed = VOXELS.astype(np.float32) - 900
    path, _ = write_nifti(
        volume(signed, unit="HU"), tmp_path / "out.nii", description="x" * 200, sidecar={}, signed=True
    )
    header = nibabel.load(path).header
    # one is stored as quaternion, the other as matrix, both float32
    assert np.allclose(header.get_qform(), header.get_sform(), rtol=1e-6, atol=1e-6)
    assert int(header["qform_code"]) == int(header["sform_code"]) == 1
    assert header.get_data_dtype() == np.float32
    assert header.get_xyzt_units()[0] == "mm"
    assert np.allclose(header.get_zooms(), volume().grid.spacing_mm)
    assert float(header["cal_max"]) == -float(header["cal_min"]) == float(np.abs(signed).max())
    assert len(bytes(header["descrip"].item())) == 79
    assert header.get_intent()[2] == "HU"


def test_the_sidecar_holds_unit_description_and_what_was_given(tmp_path: Path) -> None:
    _, beside = write_nifti(volume(), tmp_path / "out.nii.gz", description="denoised", sidecar={"Seed": 3})
    assert beside == tmp_path / "out.json"
    assert json.loads(beside.read_text()) == {"Description": "denoised", "Unit": "a.u.", "Modality": "MR", "Seed": 3}


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    one, _ = write_nifti(volume(), tmp_path / "one.nii.gz", description="d", sidecar={})
    other, _ = write_nifti(volume(), tmp_path / "other.nii.gz", description="d", sidecar={})
    assert one.read_bytes() == other.read_bytes()


def test_a_sheared_grid_is_written_with_its_sform_alone(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 1]
    path, _ = write_nifti(volume(affine=sheared), tmp_path / "out.nii", description="d", sidecar={})
    assert int(nibabel.load(path).header["qform_code"]) == 0
    assert read(path).grid.mismatch(Grid(VOXELS.shape, sheared)) is None


@pytest.mark.parametrize("name", ["map_seg.nii.gz", "map_label.nii", "map.mha"])
def test_names_that_viewers_misread_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="NIfTI"):
        write_nifti(volume(), tmp_path / name, description="d", sidecar={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "sidecar",
    ['{"Modality": 3}', '{"Modality": "../x"}', '{"Modality": "M R\\n"}', "[" * 100_000, "\x00", '["MR"]', ""],
    ids=["number", "path", "newline", "deep", "no JSON", "list", "empty"],
)
def test_a_sidecar_that_makes_no_sense_states_nothing(tmp_path: Path, sidecar: str) -> None:
    path = save(tmp_path / "scan.nii")
    (tmp_path / "scan.json").write_text(sidecar)
    found = read(path)
    assert (found.modality, found.unit) == ("MR", "a.u.")
    assert any("does not state the modality" in note for note in found.provenance.source.notes)


def test_a_unit_that_is_none_is_not_taken_from_the_sidecar(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii")
    for unit, kept in (("mm/s", "mm/s"), ("<b>", "HU"), ("u" * 300, "HU"), (["HU"], "HU")):
        (tmp_path / "scan.json").write_text(json.dumps({"Modality": "CT", "Unit": unit}))
        assert read(path).unit == kept


@pytest.mark.parametrize(("scale", "readable"), [(1e12, True), (1e-14, True), (1e13, False), (1e-19, False)])
def test_values_whose_squares_leave_single_precision_are_refused(tmp_path: Path, scale: float, readable: bool) -> None:
    path = save(tmp_path / "scan.nii", (VOXELS * scale).astype(np.float32))
    if readable:
        assert np.allclose(read(path).voxels[0], VOXELS * scale, rtol=1e-6)  # float32
    else:
        with pytest.raises(InputError, match="rescale the scan"):
            read(path)


def test_a_byte_that_flipped_in_a_compressed_file_is_found(tmp_path):
    path = tmp_path / "scan.nii.gz"
    nibabel.Nifti1Image(
        np.random.default_rng(0).normal(100, 9, (16, 16, 16)).astype(np.float32), np.eye(4)
    ).to_filename(path)
    body = bytearray(path.read_bytes())
    body[-6] ^= 1  # of the checksum, which no voxel depends on
    path.write_bytes(bytes(body))
    with pytest.raises(InputError, match="checksum"):
        read_nifti(path)


def test_a_compressed_file_that_goes_on_and_on_is_refused(tmp_path):
    path = tmp_path / "scan.nii.gz"
    values = np.random.default_rng(0).normal(100, 9, (16, 16, 16)).astype(np.float32)
    body = nibabel.Nifti1Image(values, np.eye(4)).to_bytes()
    path.write_bytes(gzip.compress(body + bytes(1 << 25)))
    with pytest.raises(InputError, match=r"goes on|too large|claims"):
        read_nifti(path)


def test_a_scan_without_orientation_stays_without(tmp_path):
    path = tmp_path / "scan.nii.gz"
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(100, 9, (16, 14, 12)).astype(np.float32), None)
    image.header.set_zooms((1, 2, 3))
    image.header.set_xyzt_units("mm")
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    image.to_filename(path)
    scan = read_nifti(path)
    written, *_ = write_nifti(scan, tmp_path / "again.nii.gz", description="again", sidecar={})
    again = nibabel.load(written)
    assert (int(again.header["qform_code"]), int(again.header["sform_code"])) == (0, 0)
    assert read_nifti(written).grid.mismatch(scan.grid) is None
