"""GDCM, DCMTK and SimpleITK read our derived series exactly: every stored number, every voxel's place."""

import base64
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from medinterp.io.dicom_derived import write_dicom_series
from medinterp.volume import Volume
from tests.clients.conftest import missing
from tests.clients.scans import SCANS, make_scan, map_on

RunClient = Callable[..., str]
Read = tuple[np.ndarray, np.ndarray]  # stored numbers (columns, rows), and the map (4, 4) from them to LPS mm
WORLD_TOLERANCE_MM = 1e-6  # decimal strings of 16 characters keep more


def derived(scan: Volume, kind: str) -> Volume:
    """Return what is written: the scan itself, or a map of small values of both signs."""
    values = np.random.default_rng(5).normal(size=scan.voxels.shape) * 1e-4
    return scan if kind == "denoised" else map_on(scan, values)


def matrix(position: list[float], cosines: list[float], spacing: list[float]) -> np.ndarray:
    """Return the map from (column, row, 0) to LPS mm by the definition of the standard; spacing is down, across."""
    made = np.eye(4)
    made[:3, 0], made[:3, 1] = np.array(cosines[:3]) * spacing[1], np.array(cosines[3:]) * spacing[0]
    made[:3, 2], made[:3, 3] = np.cross(cosines[:3], cosines[3:]), position
    return made


def read_with_gdcm(path: Path, run_client: RunClient) -> Read:
    try:
        gdcm = importlib.import_module("gdcm")
    except ImportError:
        missing("python-gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    columns, rows = image.GetDimension(0), image.GetDimension(1)
    kind = {"INT16": "<i2", "UINT16": "<u2"}[image.GetPixelFormat().GetScalarTypeAsString()]
    stored = np.frombuffer(image.GetBuffer().encode("utf-8", errors="surrogateescape"), dtype=kind)
    spacing = [image.GetSpacing(1), image.GetSpacing(0)]
    place = matrix([image.GetOrigin(n) for n in range(3)], list(image.GetDirectionCosines()), spacing)
    return stored.reshape(rows, columns).T, place


def read_with_dcmtk(path: Path, run_client: RunClient) -> Read:
    out = path.with_suffix(".json")
    said = run_client("dcm2json", path, out)
    assert "exit code 0" in said, said
    found = json.loads(out.read_text())
    rows, columns, signed = (found[tag]["Value"][0] for tag in ("00280010", "00280011", "00280103"))
    stored = np.frombuffer(base64.b64decode(found["7FE00010"]["InlineBinary"]), dtype="<i2" if signed else "<u2")
    place = matrix(*(found[tag]["Value"] for tag in ("00200032", "00200037", "00280030")))
    return stored[: rows * columns].reshape(rows, columns).T, place


READERS = {"GDCM": read_with_gdcm, "DCMTK": read_with_dcmtk}


# A stored number is the nearest whole one to value over step; float32 holds values to 2**-8 of a step of 16 bits.
HALF_A_STEP = 0.5 + 2**-8


def steps_off(stored: np.ndarray, volume: Volume, path: Path, k: int) -> np.ndarray:
    """Return by how many of the file's own steps stored numbers differ from slice k of what was written."""
    mapping = pydicom.dcmread(path).RealWorldValueMappingSequence[0]
    expected = volume.voxels[0, :, :, k].astype(float) - mapping.RealWorldValueIntercept
    return np.abs(stored - expected / mapping.RealWorldValueSlope)


def slice_order(scan: Volume) -> list[int]:
    """Return the slices in the order of the files: ascending along row x column."""
    across, down, along = scan.grid.affine[:3, :3].T
    return list(range(scan.grid.shape[2]))[:: 1 if np.cross(across, down) @ along > 0 else -1]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["denoised", "saliency"])
@pytest.mark.parametrize("name", SCANS)
def test_every_stored_number_and_place_is_read_exactly(
    name: str, kind: str, reader: str, tmp_path: Path, run_client: RunClient
) -> None:
    scan = make_scan(name)
    written = derived(scan, kind)
    paths = write_dicom_series(written, scan, tmp_path, description=kind, series_number=1001)
    for path, k in zip(paths, slice_order(scan), strict=True):
        stored, to_lps = READERS[reader](path, run_client)
        assert steps_off(stored, written, path, k).max() <= HALF_A_STEP
        for i, j in ((0, 0), (scan.grid.shape[0] - 1, scan.grid.shape[1] - 1)):
            ras = (to_lps @ (i, j, 0, 1))[:3] * (-1, -1, 1)
            np.testing.assert_allclose(ras, scan.grid.to_world([i, j, k]), atol=WORLD_TOLERANCE_MM)


@pytest.mark.parametrize("kind", ["denoised", "saliency"])
@pytest.mark.parametrize("name", SCANS)
def test_simpleitk_reads_the_series_as_one_volume_on_the_scan_s_lattice(name: str, kind: str, tmp_path: Path) -> None:
    scan = make_scan(name)
    written = derived(scan, kind)
    paths = write_dicom_series(written, scan, tmp_path, description=kind, series_number=1001)
    image = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    stored = SimpleITK.GetArrayFromImage(image).T
    assert stored.shape == scan.grid.shape
    order = slice_order(scan)
    # ITK applies the rescale intercept of CT; ours is a whole number.
    intercept = float(pydicom.dcmread(paths[0]).get("RescaleIntercept", 0))
    for position, k in enumerate(order):
        assert steps_off(stored[..., position] - intercept, written, paths[position], k).max() <= HALF_A_STEP
    last = [n - 1 for n in scan.grid.shape]
    for index in ([0, 0, 0], last):
        ras = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        expected = scan.grid.to_world([*index[:2], order[index[2]]])
        np.testing.assert_allclose(ras, expected, atol=1e-3)  # ITK takes the spacing from the first two slices


def test_control_a_number_that_is_off_by_one_is_seen(tmp_path: Path, run_client: RunClient) -> None:
    scan = make_scan("oblique_mr")
    path, *_ = write_dicom_series(scan, scan, tmp_path, description="scan", series_number=1001)
    image = pydicom.dcmread(path)
    changed = image.pixel_array.copy()
    changed[3, 4] += 1
    image.PixelData = changed.tobytes()
    image.save_as(path)
    for read in READERS.values():
        off = steps_off(read(path, run_client)[0], scan, path, slice_order(scan)[0])
        assert (off > HALF_A_STEP).sum() == 1
