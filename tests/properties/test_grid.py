"""Geometry that must hold for any grid: nothing moves on the way through indices, crops or files."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medinterp.io import read, read_nifti, write_nifti
from medinterp.io.inspect import orientation_code
from medinterp.testing import dicom_files
from medinterp.volume import Grid, Provenance, Source, Volume
from medinterp.volume.resample import resample

# Files are slow next to arithmetic: fewer examples, no deadline (a loaded machine is not a bug).
FILES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PROMISED_MM = 1e-3

angles = st.floats(-np.pi, np.pi)
spacings = st.tuples(*[st.floats(0.3, 10.0)] * 3)
shapes = st.tuples(*[st.integers(2, 9)] * 3)


def rotation(a: float, b: float, c: float) -> np.ndarray:
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(z @ y @ x)


@st.composite
def grids(draw: st.DrawFn, *, left_handed: bool | None = None) -> Grid:
    """Draw an oblique, anisotropic grid, left- or right-handed, up to half a metre from the origin."""
    mirrored = draw(st.booleans()) if left_handed is None else left_handed
    axes = rotation(draw(angles), draw(angles), draw(angles)) @ np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(draw(spacings))
    affine[:3, 3] = draw(arrays(np.float64, 3, elements=st.floats(-500, 500)))
    return Grid(draw(shapes), affine)


@st.composite
def voxels_of_grids(draw: st.DrawFn, *, left_handed: bool | None = None) -> tuple[Grid, tuple[int, int, int]]:
    """Draw a grid and the index of one of its voxels."""
    grid = draw(grids(left_handed=left_handed))
    i, j, k = (draw(st.integers(0, n - 1)) for n in grid.shape)
    return grid, (i, j, k)


def impulse_at(grid: Grid, index: tuple[int, int, int]) -> Volume:
    """Return a volume that is zero but for one voxel; built outside the strategies, which the type checker's own
    random sampling would disturb."""
    voxels = np.zeros((1, *grid.shape), dtype=np.float32)
    voxels[(0, *index)] = 100.0
    return Volume(voxels, grid, "a.u.", "MR", Provenance(Source("memory")))


def peak_mm(volume: Volume) -> np.ndarray:
    index = np.unravel_index(int(volume.voxels[0].argmax()), volume.grid.shape)
    return volume.grid.to_world(index)


@given(grids(), arrays(np.float64, (4, 3), elements=st.floats(-1000, 1000)))
def test_index_and_world_are_inverse(grid: Grid, points: np.ndarray) -> None:
    # float64 through an inverse whose condition is at most 10/0.3: 1e-9 is generous
    assert np.allclose(grid.to_world(grid.to_index(points)), points, atol=1e-9, rtol=1e-9)
    assert np.allclose(grid.to_index(grid.to_world(points)), points, atol=1e-9, rtol=1e-9)


@given(grids(), st.data())
def test_a_crop_keeps_every_voxel_where_it_is(grid: Grid, data: st.DataObject) -> None:
    start = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    shape = tuple(data.draw(st.integers(1, n - s)) for n, s in zip(grid.shape, start, strict=True))
    crop = grid.crop(start, shape)
    inside = np.array([data.draw(st.integers(0, n - 1)) for n in shape])
    assert np.allclose(crop.to_world(inside), grid.to_world(inside + start), atol=1e-9)


@given(grids())
def test_a_grid_matches_itself_and_not_its_mirror_image(grid: Grid) -> None:
    assert grid.mismatch(Grid(grid.shape, grid.affine)) is None
    mirrored = Grid(grid.shape, np.diag([-1.0, 1.0, 1.0, 1.0]) @ grid.affine)
    assert grid.mismatch(mirrored) is not None or abs(grid.corners()[:, 0]).max() < PROMISED_MM
    assert len(orientation_code(grid)) == 3


@FILES
@given(voxels_of_grids())
def test_an_impulse_keeps_its_place_through_nifti(place: tuple[Grid, tuple[int, int, int]]) -> None:
    volume, index = impulse_at(*place), place[1]
    with tempfile.TemporaryDirectory() as folder:
        path, _ = write_nifti(volume, Path(folder) / "impulse.nii.gz", description="impulse", sidecar={})
        found = read_nifti(path)
    assert np.linalg.norm(peak_mm(found) - volume.grid.to_world(index)) < PROMISED_MM
    assert found.grid.mismatch(volume.grid) is None


@FILES
@given(voxels_of_grids(left_handed=False))
def test_an_impulse_keeps_its_place_through_a_dicom_series(place: tuple[Grid, tuple[int, int, int]]) -> None:
    volume, index = impulse_at(*place), place[1]
    made = dicom_files.series(volume.voxels[0].astype(np.int16), volume.grid.affine)
    with tempfile.TemporaryDirectory() as folder:
        found = read(dicom_files.save(made, Path(folder)))
    assert np.linalg.norm(peak_mm(found) - volume.grid.to_world(index)) < PROMISED_MM


@FILES
@given(voxels_of_grids(left_handed=True))
def test_a_left_handed_stack_keeps_its_world_as_a_right_handed_volume(
    place: tuple[Grid, tuple[int, int, int]],
) -> None:
    volume, index = impulse_at(*place), place[1]
    made = dicom_files.series(volume.voxels[0].astype(np.int16), volume.grid.affine)
    with tempfile.TemporaryDirectory() as folder:
        found = read(dicom_files.save(made, Path(folder)))
    assert np.linalg.norm(peak_mm(found) - volume.grid.to_world(index)) < PROMISED_MM
    assert np.linalg.det(found.grid.affine) > 0


@settings(deadline=None)
@given(voxels_of_grids(), grids())
def test_nearest_resampling_onto_a_crop_of_the_grid_changes_nothing(
    place: tuple[Grid, tuple[int, int, int]], other: Grid
) -> None:
    volume = impulse_at(*place)
    shape = tuple(max(n - 1, 1) for n in volume.grid.shape)
    found = resample(volume, volume.grid.crop((1, 1, 1), shape), outside=-1.0, method="nearest")
    assert np.array_equal(found.voxels, volume.voxels[:, 1:, 1:, 1:])
    assert resample(volume, other, outside=0.0).grid.mismatch(other) is None
