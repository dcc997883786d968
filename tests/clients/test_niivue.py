"""NiiVue in Chromium shows our NIfTI maps in their place with both signs, and our meshes where the clusters are."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medinterp.io.mesh_files import write_gifti, write_mz3
from medinterp.io.nifti import write_nifti
from medinterp.volume import Volume
from medinterp.volume.surface import Surface, enclose
from tests.clients import niivue_page
from tests.clients.niivue_page import NiivuePage
from tests.clients.scans import impulse, make_scan, map_on

PEAK, TROUGH, LIMIT = (8, 4, 5), (3, 8, 2), 1e-3
NAMES = ("oblique_mr", "nifti_reversed", "nifti_ct")
# The outline of the voxel and the two edges of the line are each cut at whole pixels.
PIXELS = 1.5


@pytest.fixture(scope="module")
def page() -> Iterator[NiivuePage]:
    if niivue_page.chromium() is None:
        pytest.skip("chromium is not installed")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed")
    if niivue_page.bundle() is None:
        pytest.skip("NiiVue is not installed (npm install --no-save @niivue/niivue@0.69.0)")
    with NiivuePage() as page:
        yield page


def written(volume: Volume, path: Path, *, signed: bool) -> Path:
    write_nifti(volume, path, description="map", sidecar={}, signed=signed)
    return path


def spikes(scan: Volume) -> Volume:
    values = impulse(scan, PEAK, 0.9 * LIMIT).voxels + impulse(scan, TROUGH, -0.8 * LIMIT).voxels
    return map_on(scan, values)


def open_map(page: NiivuePage, scan: Volume, map_: Volume, folder: Path) -> None:
    base, over = folder / "scan.nii.gz", folder / "map.nii.gz"
    page.open(written(scan, base, signed=False), written(map_, over, signed=True), LIMIT)


def coloured(picture: np.ndarray, sign: int) -> np.ndarray:
    """Whether each pixel is warm (+1) or cool (-1): the scan is grey."""
    values = picture.astype(int)
    return sign * (values[..., 0] - values[..., 2]) > 60


def tiles(page: NiivuePage) -> list[tuple[slice, slice]]:
    """Return the rows and columns of the three views."""
    boxes = page.run("() => nv.screenSlices.map(s => Array.from(s.leftTopWidthHeight))")
    whole = [[round(value) for value in box] for box in boxes if min(box[2:]) > 0]
    assert len(whole) == 3
    return [(slice(top, top + height), slice(left, left + width)) for left, top, width, height in whole]


def middle_of_line(counts: np.ndarray) -> float:
    """Return the middle of the rows, or columns, that a line several pixels wide runs along."""
    return float(np.flatnonzero(counts > 0.8 * counts.max()).mean())


def distances(page: NiivuePage, at: np.ndarray, sign: int) -> list[float]:
    """Return for each view how many pixels the middle of the colour lies from where the crosshair's lines meet.

    Both are found in the pictures alone: the lines are green, and there only while they are shown.
    """
    page.jump(at)
    bare = page.picture()
    page.jump(at, crosshair=1)
    values = page.picture().astype(int)
    lines = (values[..., 1] > 180) & (values[..., 0] < 80) & (values[..., 2] < 80)
    found = []
    for tile in tiles(page):
        inside = np.argwhere(coloured(bare[tile], sign))
        assert len(inside) > 0, "nothing is coloured"
        meet = [middle_of_line(lines[tile].sum(axis=axis)) for axis in (1, 0)]
        found.append(float(np.linalg.norm(inside.mean(axis=0) - meet)))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_peak_is_warm_and_the_trough_cool_and_both_stand_at_the_crosshair(
    name: str, page: NiivuePage, tmp_path: Path
) -> None:
    scan = make_scan(name)
    open_map(page, scan, spikes(scan), tmp_path)
    for index, sign in ((PEAK, +1), (TROUGH, -1)):
        assert max(distances(page, scan.grid.to_world(list(index)), sign)) < PIXELS
    assert page.errors == []


def test_the_scan_shows_in_grey_around_the_map(page: NiivuePage, tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    open_map(page, scan, spikes(scan), tmp_path)
    page.jump(scan.grid.to_world(list(PEAK)))
    picture = page.picture().astype(int)
    assert ((np.ptp(picture, axis=-1) == 0) & (picture[..., 0] > 0)).mean() > 0.1


def test_control_a_left_right_flipped_map_is_not_at_the_crosshair(page: NiivuePage, tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    open_map(page, scan, map_on(scan, spikes(scan).voxels[:, ::-1]), tmp_path)
    with pytest.raises(AssertionError, match="nothing is coloured"):
        assert max(distances(page, scan.grid.to_world(list(PEAK)), +1)) < PIXELS


def surface_on(scan: Volume) -> Surface:
    labels = np.zeros(scan.grid.shape, dtype=bool)
    labels[2:7, 3:9, 2:6] = True
    return enclose(labels, scan.grid, "cluster", (0.86, 0.20, 0.12, 1.0))


def test_meshes_stand_where_the_surface_is(page: NiivuePage, tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    surface = surface_on(scan)
    meshes = [write_mz3([surface], tmp_path / "a.mz3")]
    meshes.append(write_gifti(surface, tmp_path / "a.surf.gii", description="cluster"))
    base = written(scan, tmp_path / "scan.nii.gz", signed=False)
    page.open(base, written(spikes(scan), tmp_path / "map.nii.gz", signed=True), LIMIT, meshes)
    corners = np.array([surface.vertices.min(axis=0), surface.vertices.max(axis=0)])
    found = page.mesh_extents()
    assert len(found) == 2
    for extents in found:
        np.testing.assert_allclose(extents, corners, atol=1e-3)  # a micrometre, on float32 vertices
