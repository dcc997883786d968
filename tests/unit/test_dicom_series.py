"""Series are read in the right place with the right values, or refused with the reason."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from medinterp.errors import InputError, UnsupportedSeries
from medinterp.io import read, source_files
from medinterp.testing import dicom_files as files
from medinterp.volume import Grid

AFFINE = files.oblique_affine()
VOXELS = files.stored_voxels()
PLACE_MM = 1e-6  # positions are written with 15 digits at most; what is left is arithmetic


def slices(**options: object) -> list[Dataset]:
    return files.series(VOXELS, AFFINE, **options)  # type: ignore[arg-type]


def assert_read_right(folder: Path, voxels: np.ndarray = VOXELS, **options: object) -> tuple[str, ...]:
    volume = read(folder, **options)  # type: ignore[arg-type]
    assert np.allclose(volume.grid.affine, AFFINE, atol=PLACE_MM)
    assert np.array_equal(volume.voxels[0], voxels.astype(np.float32))
    return volume.provenance.source.notes


def test_a_clean_oblique_series_has_its_values_and_place(tmp_path: Path) -> None:
    folder = files.save(slices(), tmp_path)
    assert_read_right(folder)
    volume = read(folder)
    assert (volume.modality, volume.unit) == ("MR", "a.u.")
    assert volume.grid.frame_uid == slices()[0].FrameOfReferenceUID


def test_the_source_keeps_one_header_a_slice_without_pixels_and_a_hash_in_slice_order(tmp_path: Path) -> None:
    source = read(files.save(slices(), tmp_path)).provenance.source
    assert [header.InstanceNumber for header in source.headers] == [1, 2, 3, 4, 5]
    assert not any("PixelData" in header for header in source.headers)
    assert source.sha256 == source_files.sha256_of(source.paths)
    assert source.kind == "dicom"


def test_ct_is_in_hounsfield_units(tmp_path: Path) -> None:
    volume = read(files.save(slices(modality="CT", intercepts=(-1024.0,)), tmp_path))
    assert (volume.modality, volume.unit) == ("CT", "HU")
    assert np.array_equal(volume.voxels[0], VOXELS.astype(np.float32) - 1024)


def test_slope_and_intercept_are_applied_slice_by_slice(tmp_path: Path) -> None:
    slopes = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
    folder = files.save(slices(slopes=tuple(slopes), intercepts=(0.0, 1.0, 2.0, 3.0, 4.0)), tmp_path)
    notes = assert_read_right(folder, VOXELS * slopes + np.arange(5))
    assert any("slice by slice" in note for note in notes)


@pytest.mark.parametrize("numbers", [[5, 4, 3, 2, 1], [1, 1, 1, 1, 1], None])
def test_slices_are_sorted_by_position_whatever_their_numbers(tmp_path: Path, numbers: list[int] | None) -> None:
    assert_read_right(files.save(files.renumbered(slices(), numbers), tmp_path))


def test_a_missing_middle_slice_is_refused_with_its_place_and_gap(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    folder = files.save(files.without_slice(files.series(VOXELS, affine), 2), tmp_path)
    with pytest.raises(UnsupportedSeries, match=r"1 slice is missing: a gap of 5\.00 mm .* 2\.50 and 7\.50 mm"):
        read(folder)


def test_two_holes_are_both_named(tmp_path: Path) -> None:
    made = files.series(files.stored_voxels((4, 4, 9)), np.diag([1.0, 1.0, 2.0, 1.0]))
    folder = files.save([made[k] for k in (0, 1, 3, 4, 7, 8)], tmp_path)
    with pytest.raises(UnsupportedSeries, match=r"1 slice is missing.*4\.00 mm.* and 2 slices are missing.*6\.00 mm"):
        read(folder)


def test_missing_first_slices_are_loaded_with_a_note(tmp_path: Path) -> None:
    notes = read(files.save(slices()[2:], tmp_path)).provenance.source.notes
    assert any("numbering begins at 3" in note for note in notes)


def test_a_missing_last_slice_is_noted_when_the_header_counts_more(tmp_path: Path) -> None:
    made = slices()
    for one in made:
        one.ImagesInAcquisition = 5
    notes = read(files.save(made[:-1], tmp_path)).provenance.source.notes
    assert any("the header counts 5" in note for note in notes)


def test_slices_twice_as_far_apart_as_the_header_says_are_noted(tmp_path: Path) -> None:
    made = slices()
    for one in made:
        one.SpacingBetweenSlices = "3"
    notes = read(files.save(made[::2], tmp_path)).provenance.source.notes
    assert any("3.000 mm between slices, the positions say 6.000" in note for note in notes)


@pytest.mark.parametrize("same_uid", [True, False])
def test_the_same_slice_twice_is_used_once(tmp_path: Path, same_uid: bool) -> None:
    made = files.repeated(slices(), 1, same_pixels=True, same_uid=same_uid)
    notes = assert_read_right(files.save(made, tmp_path))
    assert any("found twice" in note for note in notes)


def test_a_whole_series_copied_twice_is_used_once(tmp_path: Path) -> None:
    files.save(slices(), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert_read_right(tmp_path)


@pytest.mark.parametrize("same_uid", [True, False])
def test_different_pixels_at_one_position_are_refused(tmp_path: Path, same_uid: bool) -> None:
    made = files.repeated(slices(), 1, same_pixels=False, same_uid=same_uid)
    with pytest.raises(UnsupportedSeries, match="2 slices with different pixels at the same position"):
        read(files.save(made, tmp_path))


def test_unequal_spacing_is_refused_with_the_distances(tmp_path: Path) -> None:
    folder = files.save(files.moved(slices(), [0.0, 0.0, 0.0, 1.2, 1.2]), tmp_path)
    with pytest.raises(UnsupportedSeries, match=r"unequal slice spacing: 3\.00 mm \(3 times\), 4\.20 mm \(1 times\)"):
        read(folder)


def test_one_percent_of_jitter_is_read_with_a_warning(tmp_path: Path) -> None:
    folder = files.save(files.moved(slices(), [0.03, -0.03, 0.01, 0.03, -0.02]), tmp_path)
    volume = read(folder)
    assert any(note.startswith("warning: slice positions jitter") for note in volume.provenance.source.notes)
    # a line through jittered slices leaves the true one by at most about twice the jitter of 0.03 mm
    assert volume.grid.mismatch(Grid(VOXELS.shape, AFFINE), 0.06) is None


def test_ten_percent_of_jitter_is_refused(tmp_path: Path) -> None:
    folder = files.save(files.moved(slices(), [0.0, 0.3, 0.0, 0.3, 0.0]), tmp_path)
    with pytest.raises(UnsupportedSeries, match="unequal slice spacing"):
        read(folder)


def test_a_slice_moved_sideways_is_refused(tmp_path: Path) -> None:
    made = slices()
    position = np.array(made[2].ImagePositionPatient, dtype=float)
    cosines = np.array(made[2].ImageOrientationPatient, dtype=float)
    made[2].ImagePositionPatient = [f"{x:.8f}" for x in position + 0.5 * cosines[:3]]
    made[1].ImagePositionPatient = [f"{x:.8f}" for x in np.array(made[1].ImagePositionPatient) + 0.25 * cosines[:3]]
    made[3].ImagePositionPatient = [f"{x:.8f}" for x in np.array(made[3].ImagePositionPatient) + 0.25 * cosines[:3]]
    with pytest.raises(UnsupportedSeries, match="off the regular grid"):
        read(files.save(made, tmp_path))


def test_orientation_noise_of_1e_7_is_read(tmp_path: Path) -> None:
    made = slices()
    cosines = np.array(made[2].ImageOrientationPatient, dtype=float) + 1e-7
    made[2].ImageOrientationPatient = [f"{x:.13f}" for x in cosines]
    assert_read_right(files.save(made, tmp_path))


@pytest.mark.parametrize("degrees", [18.5, -5.0])
def test_gantry_tilt_is_refused_in_degrees_and_points_to_dcm2niix(tmp_path: Path, degrees: float) -> None:
    folder = files.save(files.tilted(slices(), degrees), tmp_path)
    with pytest.raises(UnsupportedSeries, match=rf"tilt of {abs(degrees)} degrees.*dcm2niix"):
        read(folder)


def test_tilt_with_unequal_spacing_names_both(tmp_path: Path) -> None:
    made = files.tilted(files.moved(slices(), [0.0, 0.0, 0.0, 1.2, 2.4]), 10.0)
    with pytest.raises(UnsupportedSeries, match=r"tilt of 10\.0 degrees.*unequal slice spacing: .*4\.20 mm.*dcm2niix"):
        read(files.save(made, tmp_path))


def test_a_localizer_inside_the_series_is_left_out_with_a_warning(tmp_path: Path) -> None:
    notes = assert_read_right(files.save(files.with_localizer(slices()), tmp_path))
    assert any("localizer" in note for note in notes)


def test_two_orientations_in_one_series_are_listed_and_can_be_chosen(tmp_path: Path) -> None:
    turned = files.series(VOXELS, np.diag([1.0, 2.0, 1.5, 1.0]))[:3]
    folder = files.save([*slices(), *files.renumbered(turned, [11, 12, 13])], tmp_path)
    with pytest.raises(UnsupportedSeries, match=r"(?s)one series with 2 orientations.*1: dicom.*2: dicom"):
        read(folder)
    assert_read_right(folder, series=1)
    assert read(folder, series=2).grid.shape == (7, 6, 3)


def test_several_series_are_listed_with_sizes_and_chosen_by_number(tmp_path: Path) -> None:
    other = files.series(VOXELS[:, :, :3], AFFINE, name="b", series_number=2)
    folder = files.save([*other, *slices()], tmp_path)
    with pytest.raises(UnsupportedSeries, match=r"(?s)2 series; choose one with --series N.*7 x 6 x 5.*7 x 6 x 3"):
        read(folder)
    assert_read_right(folder, series=1)
    assert read(folder, series=2).grid.shape == (7, 6, 3)
    with pytest.raises(InputError, match="from 1 to 2"):
        read(folder, series=3)


@pytest.mark.parametrize("splitter", ["TemporalPositionIdentifier", "EchoTime", "AcquisitionNumber", None])
def test_a_time_series_is_refused_until_a_frame_is_chosen(tmp_path: Path, splitter: str | None) -> None:
    made = []
    for t in range(3):
        for k, one in enumerate(files.series(VOXELS + t, AFFINE)):
            one.InstanceNumber, one.SOPInstanceUID = 5 * t + k + 1, f"1.2.{t + 1}.{k + 1}"
            if splitter is not None:
                setattr(one, splitter, t + 1)
            made.append(one)
    folder = files.save(made, tmp_path)
    with pytest.raises(UnsupportedSeries, match=r"3 volumes .*--frame 0 to 2"):
        read(folder)
    for t in range(3):
        assert_read_right(folder, VOXELS + t, frame=t)
    with pytest.raises(InputError, match="numbered from 0"):
        read(folder, frame=3)


def test_a_time_series_that_lacks_one_slice_is_refused(tmp_path: Path) -> None:
    made = []
    for t in range(3):
        for k, one in enumerate(files.series(VOXELS + t, AFFINE)):
            one.InstanceNumber, one.SOPInstanceUID, one.AcquisitionNumber = 5 * t + k + 1, f"1.2.{t + 1}.{k + 1}", t + 1
            made.append(one)
    with pytest.raises(UnsupportedSeries, match="only 2 of 3 images"):
        read(files.save(made[:-3] + made[-2:], tmp_path), frame=0)


def test_slices_of_different_sizes_are_refused_with_the_sizes(tmp_path: Path) -> None:
    made = slices()[:3] + files.series(VOXELS[:5], AFFINE)[3:]
    with pytest.raises(UnsupportedSeries, match=r"different sizes: 7 x 6 \(3 slices\), 5 x 6 \(2 slices\)"):
        read(files.save(made, tmp_path))


@pytest.mark.parametrize(
    ("keyword", "words"),
    [("ImagePositionPatient", "no position"), ("ImageOrientationPatient", "no position"), ("PixelSpacing", "Spacing")],
)
def test_missing_geometry_is_refused(tmp_path: Path, keyword: str, words: str) -> None:
    made = slices()
    for one in made:
        delattr(one, keyword)
    with pytest.raises(UnsupportedSeries, match=words):
        read(files.save(made, tmp_path))


def test_a_single_slice_is_refused_as_a_volume(tmp_path: Path) -> None:
    folder = files.save(slices()[:1], tmp_path)
    for path in (folder, next(folder.iterdir())):
        with pytest.raises(UnsupportedSeries, match="single slice"):
            read(path)


def test_colour_images_are_refused(tmp_path: Path) -> None:
    made = slices()
    for one in made:
        one.SamplesPerPixel, one.PhotometricInterpretation, one.PlanarConfiguration = 3, "RGB", 0
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 8, 8, 7, 0
        one.PixelData = bytes(3 * 42)
    with pytest.raises(InputError, match="colour"):
        read(files.save(made, tmp_path))


def test_enhanced_multiframe_is_read_by_its_frame_groups_in_any_frame_order(tmp_path: Path) -> None:
    header = files.enhanced(VOXELS[None], AFFINE, order=[3, 0, 4, 1, 2])
    path = files.save_one(header, tmp_path / "enhanced.dcm")
    assert_read_right(path, 2 * VOXELS - np.arange(5))
    source = read(path).provenance.source
    assert len(source.headers) == 1
    assert len(source.paths) == 1


def test_an_enhanced_time_series_is_chosen_by_frame(tmp_path: Path) -> None:
    series = np.stack([VOXELS, VOXELS + 7])
    path = files.save_one(files.enhanced(series, AFFINE), tmp_path / "enhanced.dcm")
    with pytest.raises(UnsupportedSeries, match="2 volumes"):
        read(path)
    assert_read_right(path, 2 * (VOXELS + 7) - np.arange(5), frame=1)


def test_padding_apart_from_the_data_is_set_to_the_smallest_measured_value(tmp_path: Path) -> None:
    voxels = VOXELS.copy()
    voxels[0] = -2000
    made = files.series(voxels, AFFINE, modality="CT")
    for one in made:
        one.add_new("PixelPaddingValue", "SS", -2000)
    expected = voxels.copy()
    expected[0] = VOXELS[1:].min()
    notes = assert_read_right(files.save(made, tmp_path), expected)
    assert any("padding (14.3 % of the voxels)" in note for note in notes)


def test_padding_that_blends_in_with_the_data_is_left(tmp_path: Path) -> None:
    made = slices()
    for one in made:
        one.add_new("PixelPaddingValue", "SS", int(VOXELS.min()))
    assert_read_right(files.save(made, tmp_path))


def test_a_mosaic_is_refused_and_points_to_dcm2niix(tmp_path: Path) -> None:
    made = slices()
    for one in made:
        one.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    with pytest.raises(UnsupportedSeries, match=r"mosaic.*dcm2niix"):
        read(files.save(made, tmp_path))
