"""What the DICOM, Slicer and colour writers promise, without outside programs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medinterp.errors import EmptyRegion, GridMismatch, InputError, UnsupportedSeries
from medinterp.io import colours
from medinterp.io.dicom_derived import write_dicom_series
from medinterp.io.dicom_pm import write_parametric_map
from medinterp.io.dicom_seg import write_segmentation
from medinterp.io.dicom_template import template_headers
from medinterp.io.nrrd import write_seg_nrrd
from medinterp.io.slicer_scene import pack_mrb, write_scene
from medinterp.volume import Grid, Overlay, Provenance, Segmentation, Source, Volume
from tests.clients.scans import impulse, make_scan, map_on, one_voxel_clusters


def with_source(scan: Volume, source: Source) -> Volume:
    return Volume(scan.voxels, scan.grid, scan.unit, scan.modality, Provenance(source))


def sheared(scan: Volume) -> Volume:
    affine = scan.grid.affine.copy()
    affine[:3, 2] += 0.3 * affine[:3, 1]
    return replace(scan, grid=Grid(scan.grid.shape, affine), provenance=Provenance(Source("nifti")))


def series(volume: Volume, template: Volume, folder: Path, **more: str | bool) -> list[pydicom.Dataset]:
    paths = write_dicom_series(volume, template, folder, description="Denoised", series_number=1001, **more)
    return [pydicom.dcmread(path) for path in paths]


def parametric_map(scan: Volume, path: Path) -> pydicom.Dataset:
    described = {"quantity": "saliency", "description": "Saliency"}
    return pydicom.dcmread(write_parametric_map(scan, template_headers(scan), path, **described))


def enhanced(scan: Volume) -> Volume:
    """Return the scan as if it had come as one multi-frame file, its frames in reverse order."""
    single = scan.provenance.source.headers
    header = Dataset()
    header.update(single[0])
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.3.99"
    frames = []
    for one in reversed(single):
        plane, frame = Dataset(), Dataset()
        plane.ImagePositionPatient = one.ImagePositionPatient
        frame.PlanePositionSequence = [plane]
        frames.append(frame)
    del header.ImagePositionPatient
    header.PerFrameFunctionalGroupsSequence = frames
    return with_source(scan, Source("dicom", headers=(header,)))


def test_hounsfield_units_are_stored_as_they_are(tmp_path: Path) -> None:
    scan = make_scan("axial_ct")
    for k, image in enumerate(series(scan, scan, tmp_path)):
        np.testing.assert_array_equal(image.pixel_array.T, np.rint(scan.voxels[0, :, :, k]))
        assert (image.RescaleSlope, image.RescaleIntercept, image.RescaleType) == (1, 0, "HU")


@pytest.mark.parametrize("largest", [3e-7, 0.02, 1.0, 990.0, 1500.0, 60000.0, 4e6])
def test_stored_integers_keep_a_thousandth_of_the_range_and_the_factor_is_recorded(
    largest: float, tmp_path: Path
) -> None:
    scan = make_scan("oblique_mr")
    values = np.random.default_rng(0).uniform(0, largest, size=scan.voxels.shape)
    image = series(map_on(scan, values, scan.unit), scan, tmp_path)[2]
    mapping = image.RealWorldValueMappingSequence[0]
    back = image.pixel_array.T * mapping.RealWorldValueSlope
    assert np.abs(back - values[0, :, :, 2]).max() <= largest / 1000
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "[arb'U]"
    factor = round(np.log10(1 / mapping.RealWorldValueSlope))
    assert factor == 0 or f" x{10.0**factor:g} (research" in image.SeriesDescription


def test_a_map_in_hounsfield_units_keeps_its_fractions_and_a_scan_its_numbers(tmp_path: Path) -> None:
    scan = make_scan("axial_ct")
    faint = map_on(scan, np.random.default_rng(0).uniform(-0.4, 0.4, size=scan.voxels.shape), "HU")
    image = series(faint, scan, tmp_path / "map", whole_hu=False)[2]
    back = image.pixel_array.T * image.RealWorldValueMappingSequence[0].RealWorldValueSlope
    assert np.abs(back - faint.voxels[0, :, :, 2]).max() <= 4e-4
    assert image.RescaleType == "US"
    assert not series(faint, scan, tmp_path / "scan")[2].pixel_array.any()


def test_a_range_of_a_thousand_integers_keeps_the_scans_own_numbers(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    brighter = map_on(scan, scan.voxels * 5, scan.unit)
    assert series(brighter, scan, tmp_path)[0].RealWorldValueMappingSequence[0].RealWorldValueSlope == 1


@pytest.mark.parametrize("value", [0.0, 7.0, -7.0])
def test_a_constant_volume_has_a_valid_window(value: float, tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    flat = map_on(scan, np.full(scan.voxels.shape, value), scan.unit)
    assert series(flat, scan, tmp_path)[0].WindowWidth >= 1
    window = parametric_map(flat, tmp_path / "pm.dcm").SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0]
    assert window.WindowWidth > 0


def test_a_sparse_signed_map_is_windowed_symmetrically_about_zero(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    image = series(impulse(scan, (1, 2, 3), -0.5), scan, tmp_path)[0]
    assert image.WindowCenter == 0
    assert image.WindowWidth == pytest.approx(2 * 0.5 / image.RealWorldValueMappingSequence[0].RealWorldValueSlope)


def test_a_difference_in_hounsfield_units_is_windowed_about_zero_and_a_scan_for_soft_tissue(tmp_path: Path) -> None:
    scan = make_scan("axial_ct")
    noise, air = map_on(scan, scan.voxels % 40 - 20, "HU"), map_on(scan, scan.voxels - 1100, "HU")
    assert series(noise, scan, tmp_path / "noise")[0].WindowCenter == 0
    window = series(air, scan, tmp_path / "air")[0]
    assert (window.WindowCenter, window.WindowWidth) == (40, 400)


def test_hounsfield_units_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    scan = make_scan("axial_ct")
    with pytest.raises(InputError, match="16 bits"):
        series(map_on(scan, scan.voxels * 1000, scan.unit), scan, tmp_path)


def test_series_keep_patient_study_and_frame_and_take_nothing_that_is_not_on_the_list(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    for image in series(scan, scan, tmp_path):
        assert str(image.PatientName) == "Doe^Jörg"
        assert (image.PatientID, image.StudyInstanceUID, image.FrameOfReferenceUID) == ("secret-17", "1.2.4", "1.2.6")
        text = str(image)
        assert "never copied" not in text
        assert "PRIVATE CREATOR" not in text
        assert image.SeriesDescription.endswith("(research use only)")
        assert image.ImageType[0] == "DERIVED"


def test_every_instance_gets_new_uids_and_refers_to_its_source_slice(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    images = series(scan, scan, tmp_path)
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    assert {image.SeriesInstanceUID for image in images}.isdisjoint({"1.2.5"})
    sources = [image.SourceImageSequence[0].ReferencedSOPInstanceUID for image in images]
    assert sources == [header.SOPInstanceUID for header in scan.provenance.source.headers]
    again = series(scan, scan, tmp_path / "again")
    assert again[0].SOPInstanceUID != images[0].SOPInstanceUID


def test_uids_depend_on_the_root_alone_when_one_is_given(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    first = series(scan, scan, tmp_path / "1", instance_uid_root="run 7")
    second = series(scan, scan, tmp_path / "2", instance_uid_root="run 7")
    assert [image.SOPInstanceUID for image in first] == [image.SOPInstanceUID for image in second]
    assert first[0].SeriesInstanceUID == second[0].SeriesInstanceUID
    assert series(scan, scan, tmp_path / "3", instance_uid_root="run 8")[0].SOPInstanceUID != first[0].SOPInstanceUID


def test_a_scan_that_never_was_dicom_gets_an_anonymous_study_of_its_own_and_no_reference(tmp_path: Path) -> None:
    scan = make_scan("nifti_oblique")
    image, pm = series(scan, scan, tmp_path)[0], parametric_map(scan, tmp_path / "pm.dcm")
    assert (str(image.PatientName), image.PatientID) == ("Anonymous^", "")
    assert (image.StudyInstanceUID, image.FrameOfReferenceUID) == (pm.StudyInstanceUID, pm.FrameOfReferenceUID)
    assert "SourceImageSequence" not in image
    assert "ReferencedSeriesSequence" not in pm
    brighter = Volume(scan.voxels * 2, scan.grid, scan.unit, scan.modality, scan.provenance)
    assert template_headers(brighter)[0].StudyInstanceUID != image.StudyInstanceUID


def test_frames_of_a_multi_frame_source_are_referred_to_by_number(tmp_path: Path) -> None:
    scan = enhanced(make_scan("oblique_mr"))
    pm = parametric_map(scan, tmp_path / "pm.dcm")
    count = scan.grid.shape[2]
    numbers = [
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for frame in pm.PerFrameFunctionalGroupsSequence
    ]
    assert numbers == list(range(count, 0, -1))
    (instance,) = pm.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == "1.2.3.99"
    assert series(scan, scan, tmp_path)[0].SourceImageSequence[0].ReferencedFrameNumber == count


def test_parametric_map_says_what_it_is_and_leaves_the_template_alone(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    headers = template_headers(scan)
    before = [str(header) for header in headers]
    write_parametric_map(scan, headers, tmp_path / "pm.dcm", quantity="saliency", description="Saliency of a lesion")
    assert [str(header) for header in headers] == before
    pm = pydicom.dcmread(tmp_path / "pm.dcm")
    mapping = pm.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "130404"
    assert (pm.ContentQualification, pm.ImageType[0], str(pm.PatientName)) == ("RESEARCH", "DERIVED", "Doe^Jörg")
    assert pm.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99MEDINTERP"


WRITERS: dict[str, Callable[[Volume, Path], object]] = {
    "series": lambda scan, folder: series(scan, scan, folder),
    "pm": lambda scan, folder: parametric_map(scan, folder / "pm.dcm"),
    "scene": lambda scan, folder: write_scene(scan, [], folder),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_sheared_grid_is_refused(writer: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSeries, match="perpendicular"):
        WRITERS[writer](sheared(make_scan("nifti_oblique")), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_without_orientation_and_an_unknown_modality_are_refused() -> None:
    scan = make_scan("nifti_oblique")
    with pytest.raises(UnsupportedSeries, match="no orientation"):
        template_headers(with_source(scan, Source("nifti", notes=("the file has no orientation form",))))
    with pytest.raises(UnsupportedSeries, match="PT"):
        template_headers(replace(scan, modality="PT"))


def test_a_volume_on_another_grid_is_refused_by_every_writer(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    affine = scan.grid.affine.copy()
    affine[0, 3] += 0.01
    moved = replace(scan, grid=Grid(scan.grid.shape, affine))
    clusters = one_voxel_clusters(moved, (1, 1, 1))
    with pytest.raises(GridMismatch, match="mm"):
        series(moved, scan, tmp_path)
    with pytest.raises(GridMismatch, match="mm"):
        write_parametric_map(moved, template_headers(scan), tmp_path / "x", quantity="saliency", description="x")
    with pytest.raises(GridMismatch, match="mm"):
        write_segmentation(clusters, template_headers(scan), tmp_path / "x", description="x")
    with pytest.raises(GridMismatch, match="mm"):
        write_scene(scan, [Overlay(moved, moved, "map", "map", True, 1.0)], tmp_path)


def test_headers_in_another_slice_order_than_the_grid_are_refused() -> None:
    scan = make_scan("oblique_mr")
    headers = scan.provenance.source.headers
    with pytest.raises(GridMismatch, match="slice 0"):
        template_headers(with_source(scan, Source("dicom", headers=headers[::-1])))
    with pytest.raises(GridMismatch, match="9 DICOM headers for 10"):
        template_headers(with_source(scan, Source("dicom", headers=headers[1:])))


def test_several_channels_are_refused(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    double = Volume(np.repeat(scan.voxels, 2, axis=0), scan.grid, scan.unit, scan.modality, scan.provenance)
    with pytest.raises(InputError, match="2 channels"):
        series(double, scan, tmp_path)
    with pytest.raises(InputError, match="2 channels"):
        parametric_map(double, tmp_path / "pm.dcm")


def test_no_cluster_means_no_segmentation_file(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    empty = Segmentation(np.zeros(scan.grid.shape, dtype=np.int16), scan.grid, ())
    with pytest.raises(EmptyRegion):
        write_segmentation(empty, template_headers(scan), tmp_path / "seg.dcm", description="x")
    assert not list(tmp_path.iterdir())


def test_a_single_slice_can_be_written(tmp_path: Path) -> None:
    scan = make_scan("nifti_oblique")
    one = Volume(scan.voxels[..., :1], Grid((*scan.grid.shape[:2], 1), scan.grid.affine), "a.u.", "MR", scan.provenance)
    assert len(series(one, one, tmp_path)) == 1
    assert parametric_map(one, tmp_path / "pm.dcm").NumberOfFrames == 1


def _lightness(rgb: np.ndarray) -> np.ndarray:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return 116 * np.cbrt(luminance) - 16  # CIE L*, valid above 0.9 % luminance


def test_diverging_table_is_clear_at_zero_and_equally_light_at_equal_magnitude() -> None:
    table = colours.diverging()
    assert table.shape == (256, 4)
    assert ((table >= 0) & (table <= 1)).all()
    assert (table[122:134, 3] == 0).all()
    np.testing.assert_allclose(table[:, 3], table[::-1, 3])
    light = _lightness(table[:, :3])
    assert np.abs(light - light[::-1]).max() < 5  # of 100; a just noticeable difference is about 1 to 2
    assert (np.diff(light[128:]) > 0).all()


def test_both_signs_differ_for_every_kind_of_colour_vision() -> None:
    # Linear-RGB matrices of full protanopia, deuteranopia and tritanopia: Machado et al., IEEE TVCG 15 (2009), table 1.
    kinds = {
        "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
        "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
        "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
    }
    table = colours.diverging()
    strong = table[192:, :3] ** 2.2, table[:64, :3][::-1] ** 2.2
    for matrix in kinds.values():
        warm, cool = (np.clip(side @ np.array(matrix).T, 0, 1) ** (1 / 2.2) for side in strong)
        assert np.linalg.norm(warm - cool, axis=1).min() > 0.3  # of 1.73 between black and white


def test_sequential_table_is_clear_at_zero_and_grows_lighter() -> None:
    table = colours.sequential()
    assert table[0, 3] == 0
    assert (np.diff(table[:, 3]) >= 0).all()
    assert (np.diff(_lightness(table[:, :3])) > 0).all()


def test_scene_files_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    clusters = one_voxel_clusters(scan, (1, 2, 3), (4, 5, 6))
    bundles = []
    for name in ("a", "b"):
        overlay = Overlay(scan, impulse(scan, (1, 2, 3), 1.0), "saliency", "x", True, 1.0, clusters)
        write_scene(scan, [overlay], tmp_path / name)
        (tmp_path / f"{name}-packed").mkdir()
        bundles.append(pack_mrb(tmp_path / name, tmp_path / f"{name}-packed" / "scene.mrb").read_bytes())
    assert bundles[0] == bundles[1]
    first, second = (write_seg_nrrd(clusters, tmp_path / f"{n}.seg.nrrd").read_bytes() for n in "12")
    assert first == second


def test_scene_lists_all_its_files_and_names_none_a_label_map(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    names = ("lesion_seg", "lesion seg", "base", "μ/..")
    overlays = [Overlay(scan, impulse(scan, (1, 2, 3), 1.0), name, "x", n == 0, 1.0) for n, name in enumerate(names)]
    paths = write_scene(scan, overlays, tmp_path / "scene")
    assert sorted(paths) == sorted((tmp_path / "scene").iterdir())
    images = {path.name for path in paths if path.name.endswith(".nii.gz")}
    assert images == {"base.nii.gz", "lesion-seg.nii.gz", "lesion-seg-copy1.nii.gz", "base-copy1.nii.gz", "map.nii.gz"}
    assert {"diverging.txt", "sequential.txt"} <= {path.name for path in paths}


def test_packing_a_folder_without_scene_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scene"):
        pack_mrb(tmp_path, tmp_path / "scene.mrb")
