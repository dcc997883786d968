"""Programs that were not written by us read what we write: dciodvfy, dcmqi, SimpleITK, pydicom, nibabel."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from medinterp.export.fused_colour import painter
from medinterp.export.overlay import make_overlay
from medinterp.io.dicom_derived import write_dicom_series
from medinterp.io.dicom_overlay_planes import write_overlay_planes
from medinterp.io.dicom_pm import write_parametric_map
from medinterp.io.dicom_pr import write_presentation_state
from medinterp.io.dicom_sc import write_secondary_capture
from medinterp.io.dicom_seg import write_segmentation
from medinterp.io.dicom_sr import Reading, ReadingGroup, write_measurement_report
from medinterp.io.dicom_template import template_headers
from medinterp.io.nifti import write_nifti
from medinterp.io.nrrd import write_seg_nrrd
from medinterp.volume import Segmentation, Volume
from tests.clients.scans import SCANS, impulse, make_scan, map_on, one_voxel_clusters, world_of

LONG = "Größe " * 11  # cut to what fits, counted in bytes too
AT, OTHER = (9, 4, 6), (3, 8, 2)
WORLD_TOLERANCE_MM = 1e-3  # what a micrometre-true export must keep; decimal strings hold 1e-9
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
Found = tuple[np.ndarray, np.ndarray]  # world positions of voxels that are not zero, and their values


def saliency_of(scan: Volume) -> Volume:
    return map_on(scan, np.random.default_rng(5).normal(size=scan.voxels.shape) * 1e-4)


def box_clusters(scan: Volume) -> Segmentation:
    clusters = one_voxel_clusters(scan, AT, OTHER)
    labels = clusters.labels.copy()
    labels[2:5, 3:7, 1:4][labels[2:5, 3:7, 1:4] == 0] = 2
    return Segmentation(labels, scan.grid, clusters.segments)


def readings_on(scan: Volume) -> list[ReadingGroup]:
    x, y, z = (float(v) for v in scan.grid.to_world(list(AT)))
    sigma = Reading("Noise standard deviation", 1e-7, scan.unit, above=1e-8, below=1e-9)
    odd = Reading("saliency", 1e9 / 3, f"{scan.unit}/mm")
    return [
        ReadingGroup("noise", (sigma,), (("Noise model", "rician"),), method="wavelet"),
        ReadingGroup("mean", (odd, Reading("Volume", 1.5, "mm3")), (("Certificate", "failed"),), at_mm=(x, y, z)),
    ]


def write_object(kind: str, scan: Volume, folder: Path) -> list[Path]:
    if kind == "denoised":
        return list(write_dicom_series(scan, scan, folder, description="Denoised", series_number=1001))
    if kind == "saliency":
        return list(write_dicom_series(saliency_of(scan), scan, folder, description="Saliency", series_number=1002))
    if kind == "planes":
        return list(write_overlay_planes(box_clusters(scan), scan, folder, description=LONG, series_number=1003))[1:]
    headers = template_headers(scan)
    if kind == "sr":
        return [write_measurement_report(readings_on(scan), headers, folder / "sr.dcm", description=f"Found {LONG}")]
    if kind == "sc":
        overlay = make_overlay(scan, saliency_of(scan), name="saliency", description="Saliency", signed=True)
        return list(write_secondary_capture(painter(overlay), headers, folder, description=f"Colour {LONG}"))
    if kind == "pr":
        path = folder / "pr.dcm"
        return [
            write_presentation_state(box_clusters(scan), scan, headers, path, description=f"Outlines {LONG}", note=LONG)
        ]
    if kind == "pm":
        path, described = folder / "pm.dcm", {"quantity": "saliency", "description": LONG}
        return [write_parametric_map(saliency_of(scan), headers, path, **described)]
    return [write_segmentation(box_clusters(scan), headers, folder / "seg.dcm", description=LONG)]


KINDS = [(name, kind) for name in SCANS for kind in ("denoised", "saliency", "pm", "seg", "sr", "sc", "planes", "pr")]


@pytest.mark.parametrize(("name", "kind"), [pair for pair in KINDS if pair[1] != "pr" or "nifti" not in pair[0]])
def test_dciodvfy_reports_no_error(name: str, kind: str, tmp_path: Path, run_client: Callable[..., str]) -> None:
    for path in write_object(kind, make_scan(name), tmp_path)[:2]:
        said = run_client("dciodvfy", path)
        assert "Error" not in said, said
        assert any(
            word in said
            for word in ("MRImage", "CTImage", "ParametricMap", "Segmentation", "Comprehensive3DSR", "SCImage",
                         "GrayscaleSoftcopyPresentationState")
        ), said  # fmt: skip


def test_dciodvfy_control_an_object_without_its_frame_of_reference_is_an_error(
    tmp_path: Path, run_client: Callable[..., str]
) -> None:
    (path,) = write_object("pm", make_scan("oblique_mr"), tmp_path)
    broken = pydicom.dcmread(path)
    del broken.FrameOfReferenceUID
    broken.save_as(path)
    assert "Error" in run_client("dciodvfy", path)


def itk_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return values (I, J, K) and the RAS affine of a file as ITK reads it."""
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).T, FLIP @ affine


def values_on(grid_affine: np.ndarray, values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return values (I, J, K) re-indexed onto another index order of the very same lattice."""
    to_grid = np.linalg.inv(grid_affine) @ affine
    index = np.argwhere(np.ones(values.shape, dtype=bool)) @ to_grid[:3, :3].T + to_grid[:3, 3]
    target = np.rint(index).astype(int)
    assert np.abs(index - target).max() < 1e-6, "not the same lattice"
    on_grid = np.full(values.shape, np.nan)
    on_grid[tuple(target.T)] = values.ravel()
    return on_grid


# Versions of the Python package: the newest, and those that bring the dcmqi (1.5.4 and 1.5.2) nearest to Slicer's own.
DCMQI = ("newest", "0.4.0", "0.3.0")


def dcmqi(version: str, program: str) -> str:
    """Return a program of one version of dcmqi; older ones stand beside the environment."""
    if version == "newest":
        return program
    path = Path(sys.prefix) / "clients" / f"dcmqi-{version}" / "dcmqi" / "bin" / program
    if not path.exists():
        pytest.skip(f"dcmqi {version} is not installed (make clients)")
    return str(path)


@pytest.mark.parametrize("version", DCMQI)
@pytest.mark.parametrize("name", SCANS)
def test_dcmqi_reads_the_parametric_map_back_exactly(
    name: str, version: str, tmp_path: Path, run_client: Callable[..., str]
) -> None:
    scan = make_scan(name)
    (path,) = write_object("pm", scan, tmp_path)
    said = run_client(
        dcmqi(version, "paramap2itkimage"), "--inputDICOM", path, "--outputDirectory", tmp_path, "-t", "nrrd"
    )
    assert "exit code 0" in said, said
    values, affine = itk_volume(tmp_path / "pmap.nrrd")
    np.testing.assert_array_equal(values_on(scan.grid.affine, values, affine), saliency_of(scan).voxels[0])


@pytest.mark.parametrize("version", DCMQI)
@pytest.mark.parametrize("name", SCANS)
def test_dcmqi_reads_the_segmentation_back_exactly(
    name: str, version: str, tmp_path: Path, run_client: Callable[..., str]
) -> None:
    scan = make_scan(name)
    (path,) = write_object("seg", scan, tmp_path)
    said = run_client(
        dcmqi(version, "segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", tmp_path, "-t", "nrrd"
    )
    assert "exit code 0" in said, said
    for label in (1, 2):
        found = world_of(*itk_volume(tmp_path / f"{label}.nrrd"))
        expected = world_of(box_clusters(scan).labels == label, scan.grid.affine)
        assert_same_points(found, expected)


def assert_same_points(found: np.ndarray, expected: np.ndarray) -> None:
    assert len(found) == len(expected), f"{len(found)} voxels for {len(expected)}"
    nearest = np.linalg.norm(found[:, None] - expected[None], axis=-1).min(axis=1)
    assert nearest.max() < WORLD_TOLERANCE_MM, f"up to {nearest.max():.4g} mm away"


def read_series(paths: tuple[Path, ...]) -> Found:
    """Read a DICOM series by the definition of the standard, image by image."""
    worlds, values = [], []
    for path in paths:
        image = pydicom.dcmread(path)
        cosines = np.array(image.ImageOrientationPatient, dtype=float)
        down, across = (float(v) for v in image.PixelSpacing)
        for row, column in np.argwhere(image.pixel_array):
            lps = np.array(image.ImagePositionPatient, dtype=float)
            worlds.append((lps + column * across * cosines[:3] + row * down * cosines[3:]) * (-1, -1, 1))
            slope = image.RealWorldValueMappingSequence[0].RealWorldValueSlope
            values.append(float(image.pixel_array[row, column]) * slope)
    return np.array(worlds), np.array(values)


def read_series_with_itk(paths: tuple[Path, ...]) -> Found:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    image = reader.Execute()
    index = np.argwhere(SimpleITK.GetArrayFromImage(image) != 0)[:, ::-1]
    worlds = np.array([image.TransformIndexToPhysicalPoint([int(v) for v in one]) for one in index])
    stored = np.array([image[tuple(int(v) for v in one)] for one in index], dtype=float)
    slope = pydicom.dcmread(paths[0]).RealWorldValueMappingSequence[0].RealWorldValueSlope  # ITK leaves it out
    return worlds * (-1, -1, 1), stored * slope


def _found(values: np.ndarray, affine: np.ndarray) -> Found:
    return world_of(values, affine), values[values != 0]


def through(route: str, spike: Volume, scan: Volume, folder: Path, run_client: Callable[..., str]) -> Found:
    """Write a one-voxel map by one route and find it again with an independent reader."""
    if route in ("denoised series", "saliency series", "series by ITK"):
        paths = write_dicom_series(spike, scan, folder, description=route, series_number=1001)
        return read_series_with_itk(paths) if route == "series by ITK" else read_series(paths)
    if route in ("nifti", "nifti by ITK"):
        path = folder / "map.nii.gz"
        write_nifti(spike, path, description="map", sidecar={}, signed=True)
        image = nibabel.load(path)
        return _found(*(itk_volume(path) if route == "nifti by ITK" else (image.get_fdata(), image.affine)))
    if route == "parametric map":
        described = {"quantity": "saliency", "description": "map"}
        path = write_parametric_map(spike, template_headers(scan), folder / "pm.dcm", **described)
        run_client("paramap2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd")
        return _found(*itk_volume(folder / "pmap.nrrd"))
    clusters = one_voxel_clusters(scan, tuple(int(v) for v in np.argwhere(spike.voxels[0])[0]))
    if route == "seg.nrrd":
        return _found(*itk_volume(write_seg_nrrd(clusters, folder / "clusters.seg.nrrd")))
    path = write_segmentation(clusters, template_headers(scan), folder / "seg.dcm", description="clusters")
    run_client("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd")
    return _found(*itk_volume(folder / "1.nrrd"))


ROUTES = (
    "nifti",
    "nifti by ITK",
    "denoised series",
    "saliency series",
    "series by ITK",
    "parametric map",
    "segmentation",
    "seg.nrrd",
)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["oblique_mr", "nifti_oblique", "nifti_reversed"])
def test_a_one_voxel_impulse_lands_at_its_world_point(
    route: str, name: str, tmp_path: Path, run_client: Callable[..., str]
) -> None:
    scan = make_scan(name)
    spike = impulse(scan, AT, 1500.0 if route == "denoised series" else -0.0123)
    worlds, values = through(route, spike, scan, tmp_path, run_client)
    assert_same_points(worlds, scan.grid.to_world(np.array([AT])))
    if route not in ("segmentation", "seg.nrrd"):
        # Series hold 16-bit integers: at least 1000 steps over the range, so half a step is 0.05 %.
        np.testing.assert_allclose(values, spike.voxels[spike.voxels != 0], rtol=5e-4 if "series" in route else 0)


@pytest.mark.parametrize("route", ROUTES)
def test_control_a_left_right_flip_fails_the_impulse_check(
    route: str, tmp_path: Path, run_client: Callable[..., str]
) -> None:
    scan = make_scan("oblique_mr")
    flipped = impulse(scan, (scan.grid.shape[0] - 1 - AT[0], *AT[1:]), 1500.0)
    worlds, _ = through(route, flipped, scan, tmp_path, run_client)
    with pytest.raises(AssertionError, match="mm away"):
        assert_same_points(worlds, scan.grid.to_world(np.array([AT])))


def test_a_name_that_highdicom_dislikes_is_written_and_never_shown(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    for header in scan.provenance.source.headers:
        header.PatientName, header.PatientSex = "Oneword", "U"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (path,) = write_object("pm", scan, tmp_path)
    assert not [str(w.message) for w in caught if "Oneword" in str(w.message)]
    written = pydicom.dcmread(path)
    assert (str(written.PatientName), written.PatientSex) == ("Oneword", "U")
