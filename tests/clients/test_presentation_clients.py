"""DCMTK draws our overlay planes, and reads our presentation states over the scan's own images."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medinterp import io
from medinterp.io.dicom_overlay_planes import write_overlay_planes
from medinterp.io.dicom_pr import write_presentation_state
from medinterp.io.dicom_template import template_headers
from medinterp.testing import dicom_files
from medinterp.volume import Segmentation, Volume
from tests.clients.scans import one_voxel_clusters

PEAK, TROUGH = (4, 1, 2), (1, 4, 3)
NOTE = "Saliency of the mean"
DRAWN = 255  # what DCMTK gives a pixel of a graphic overlay
RunClient = Callable[..., str]


@dataclass(frozen=True)
class Scanned:
    """A scan of 1.0 x 1.25 x 3.0 mm with the files it came from, and clusters of both signs in it."""

    volume: Volume
    clusters: Segmentation
    files: tuple[Path, ...]  # one a slice along K


@pytest.fixture(params=["MR", "CT"])
def scanned(request: pytest.FixtureRequest, tmp_path: Path) -> Scanned:
    values = dicom_files.stored_voxels(low=100, high=900)
    slices = dicom_files.series(values, dicom_files.oblique_affine(), modality=request.param)
    for one in slices:
        one.WindowCenter, one.WindowWidth = 500, 1200
    volume = io.read(dicom_files.save(slices, tmp_path / "scan"))
    clusters = one_voxel_clusters(volume, PEAK, TROUGH)
    labels = clusters.labels.copy()
    labels[2:5, 3:5, 2] = 1  # a second part of the positive cluster, six pixels on one slice
    found = {pydicom.dcmread(path).SOPInstanceUID: path for path in (tmp_path / "scan").iterdir()}
    files = tuple(found[header.SOPInstanceUID] for header in volume.provenance.source.headers)
    return Scanned(volume, Segmentation(labels, volume.grid, clusters.segments), files)


def rendered(image: Path, run_client: RunClient, *options: str) -> np.ndarray:
    """Return a picture (rows, columns) as DCMTK draws it, first row on top."""
    picture = image.with_suffix(".pgm")
    said = run_client("dcmj2pnm", "+opb", "+Wn", *options, image, picture)
    assert "exit code 0" in said, said
    kind, columns, rows, _, *values = picture.read_text().split()
    assert kind == "P2"
    return np.array(values, dtype=int).reshape(int(rows), int(columns))


def planes_of(scanned: Scanned, folder: Path) -> tuple[Path, ...]:
    return write_overlay_planes(scanned.clusters, scanned.volume, folder, description="Planes", series_number=7)


def test_the_planes_are_drawn_at_the_clusters_pixels_and_the_anatomy_stays(
    scanned: Scanned, tmp_path: Path, run_client: RunClient
) -> None:
    for k, path in enumerate(planes_of(scanned, tmp_path / "planes")):
        bare, drawn = rendered(path, run_client, "-O"), rendered(path, run_client)
        inside = scanned.clusters.labels[:, :, k].T > 0
        np.testing.assert_array_equal(drawn[~inside], bare[~inside])
        assert (drawn[inside] == DRAWN).all()


@pytest.mark.parametrize(("plane", "label"), [("1", 1), ("2", 2)])
def test_the_first_plane_is_the_positive_clusters_and_the_second_the_negative(
    plane: str, label: int, scanned: Scanned, tmp_path: Path, run_client: RunClient
) -> None:
    k = (PEAK, TROUGH)[label - 1][2]
    path = planes_of(scanned, tmp_path / "planes")[k]
    bare, drawn = rendered(path, run_client, "-O"), rendered(path, run_client, "+O", plane)
    labels = scanned.clusters.labels[:, :, k].T
    inside = labels == label
    np.testing.assert_array_equal(drawn != bare, inside & (bare != DRAWN))


def test_control_planes_of_type_region_black_out_the_anatomy(
    scanned: Scanned, tmp_path: Path, run_client: RunClient
) -> None:
    path = planes_of(scanned, tmp_path / "planes")[PEAK[2]]
    image = pydicom.dcmread(path)
    for group in (0x6000, 0x6002):
        image[group, 0x0040].value = "R"
    image.save_as(path)
    bare, drawn = rendered(path, run_client, "-O"), rendered(path, run_client)
    assert drawn.mean() < 0.1 * bare.mean()


def state_of(scanned: Scanned, folder: Path) -> Path:
    headers = template_headers(scanned.volume)
    return write_presentation_state(
        scanned.clusters, scanned.volume, headers, folder / "pr.dcm", description="Contours", note=NOTE
    )


def said_over(state: Path, image: Path, run_client: RunClient) -> str:
    """Return what DCMTK reads when it puts a presentation state over an image."""
    said = run_client("dcmp2pgm", "-v", "-p", state, image, state.with_suffix(".pgm"))
    assert "exit code 0" in said, said
    return said


def outlined(said: str, layer: str, shape: tuple[int, int]) -> np.ndarray:
    """Fill the lines of one layer again, by the even-odd rule: pixels (rows, columns) that they run around."""
    (part,) = re.findall(rf"\[{layer}\](.*?)(?:Graphic Layer|VOI LUTs)", said, flags=re.DOTALL)
    inside = np.zeros(shape, dtype=bool)
    for line in re.findall(r"coordinates: (.*)", part):
        corners = [tuple(map(int, pair)) for pair in re.findall(r"(\d+)\\(\d+)", line)]
        for (x, y), (other, end) in itertools.pairwise(corners):
            if x == other:
                inside[min(y, end) : max(y, end), x:] ^= True
    return inside


def test_over_every_image_the_outlines_run_around_the_clusters_pixels_and_the_note_stands_on_top(
    scanned: Scanned, tmp_path: Path, run_client: RunClient
) -> None:
    state = state_of(scanned, tmp_path)
    for k, image in enumerate(scanned.files):
        said, labels = said_over(state, image, run_client), scanned.clusters.labels[:, :, k].T
        for layer, label in (("POSITIVE", 1), ("NEGATIVE", 2)):
            np.testing.assert_array_equal(outlined(said, layer, labels.shape), labels == label)
        notes = re.findall(r'text \d+: "(.*)"', said)
        assert notes == ([f"{NOTE}; research use only"] if labels.any() else [])


def test_the_scan_is_shown_in_its_own_proportions_and_window(
    scanned: Scanned, tmp_path: Path, run_client: RunClient
) -> None:
    said = said_over(state_of(scanned, tmp_path), scanned.files[0], run_client)
    across, down = (float(np.linalg.norm(scanned.volume.grid.affine[:3, axis])) for axis in (0, 1))
    (spacing,) = re.findall(r"presentation pixel spacing: X=([0-9.]+) *mm Y=([0-9.]+) *mm", said)
    # DCMTK says four digits after the point.
    np.testing.assert_allclose([float(value) for value in spacing], [across, down], atol=1e-4)
    assert re.search(r"VOI transformation: .*center=500 width=1200", said)


def test_dcmtk_finds_nothing_wrong_with_a_presentation_state(
    scanned: Scanned, tmp_path: Path, run_client: RunClient
) -> None:
    said = run_client("dcmpschk", state_of(scanned, tmp_path))
    assert "exit code 0" in said, said
    assert not re.search(r"(?i)error|warning", said), said
