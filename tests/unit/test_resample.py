"""Resampling interpolates once, keeps the world in place, and says so."""

import numpy as np
import pytest
import SimpleITK

from medinterp.testing.dicom_files import oblique_affine
from medinterp.volume import Grid, Provenance, Source, Volume
from medinterp.volume.resample import resample

AFFINE = oblique_affine()
GRID = Grid((9, 8, 7), AFFINE, "1.2.3")


def ramp(grid: Grid) -> Volume:
    """Return a volume linear in RAS mm: trilinear interpolation is exact on it."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    values = grid.to_world(index) @ (0.5, -1.0, 2.0) + 3.0
    return Volume(np.stack([values, -values]).astype(np.float32), grid, "HU", "CT", Provenance(Source("memory")))


def inner_grid() -> Grid:
    affine = np.diag([0.7, 0.9, 1.1, 1.0])
    affine[:3, 3] = GRID.to_world((4, 3.5, 3)) - (1.4, 1.8, 1.1)
    return Grid((5, 5, 3), affine, "1.2.3")


def test_a_linear_ramp_is_resampled_exactly() -> None:
    found = resample(ramp(GRID), inner_grid(), outside=-1e6)
    # float32 of values around 100: 1e-5; interpolation itself is exact on a ramp
    assert np.allclose(found.voxels, ramp(inner_grid()).voxels, atol=1e-4)
    assert (found.unit, found.modality) == ("HU", "CT")
    assert found.grid is not GRID


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_it_agrees_with_itk(method: str) -> None:
    noise = np.random.default_rng(0).normal(size=(1, *GRID.shape)).astype(np.float32)
    volume = Volume(noise, GRID, "a.u.", "MR", Provenance(Source("memory")))
    affine = np.diag([1.3, 0.8, 2.1, 1.0])
    affine[:3, 3] = GRID.to_world((1.2, 1.1, 0.9))
    target = Grid((6, 9, 5), affine)
    found = resample(volume, target, outside=-7.0, method=method)  # type: ignore[arg-type]
    moving, fixed = itk_image(volume.voxels[0], GRID), itk_image(np.zeros(target.shape), target)
    rule = SimpleITK.sitkLinear if method == "linear" else SimpleITK.sitkNearestNeighbor
    expected = SimpleITK.GetArrayFromImage(SimpleITK.Resample(moving, fixed, SimpleITK.Transform(), rule, -7.0)).T
    centres = np.stack(np.meshgrid(*(np.arange(n) for n in target.shape), indexing="ij"), axis=-1)
    index = GRID.to_index(target.to_world(centres))
    deep = ((index > 0) & (index < np.array(GRID.shape) - 1)).all(axis=-1)
    outside = ((index < -0.51) | (index > np.array(GRID.shape) - 0.49)).any(axis=-1)
    assert deep.sum() > 20
    assert outside.sum() > 20
    assert np.allclose(found.voxels[0][deep], expected[deep], atol=1e-5)  # float32
    assert (found.voxels[0][outside] == -7.0).all()


def itk_image(voxels: np.ndarray, grid: Grid) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(grid.spacing_mm)
    image.SetDirection((lps[:3, :3] / grid.spacing_mm).ravel().tolist())
    return image


def test_the_outermost_voxel_centres_are_inside_despite_rounding() -> None:
    crop = GRID.crop((1, 1, 1), (8, 7, 6))
    assert resample(ramp(GRID), crop, outside=-1e6).voxels.min() > -1e5


def test_the_same_grid_comes_back_untouched() -> None:
    volume = ramp(GRID)
    assert resample(volume, Grid(GRID.shape, AFFINE), outside=0.0) is volume


def test_provenance_says_what_was_done() -> None:
    (step,) = resample(ramp(GRID), inner_grid(), outside=-1024.0, method="nearest").provenance.steps
    assert step.name == "resample"
    assert step.parameters["method"] == "nearest"
    assert step.parameters["outside"] == -1024.0
    assert step.parameters["same_frame_of_reference"] == "yes"
    assert np.allclose(step.parameters["from_affine"], AFFINE)
