"""Real series of several scanners: each read in its place or refused with the reason; where MEDINTERP_REAL_DATA is."""

import os
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medinterp.errors import UnsupportedSeries
from medinterp.io import read
from medinterp.testing.known_points import Shown, points_of_slices
from medinterp.volume import Grid

REAL = os.environ.get("MEDINTERP_REAL_DATA", "")
pytestmark = pytest.mark.skipif(not REAL, reason="MEDINTERP_REAL_DATA names no folder of real scans")


def folder(name: str) -> Path:
    return Path(REAL) / "dicom" / name


def headers(name: str) -> list[pydicom.Dataset]:
    found = [pydicom.dcmread(path) for path in sorted(folder(name).glob("*.dcm"))]
    for one in found:
        one.RescaleSlope, one.RescaleIntercept = one.get("RescaleSlope", 1), one.get("RescaleIntercept", 0)
    return found


def assert_every_voxel_is_in_its_place(name: str, slices: Sequence[pydicom.Dataset], **options: int) -> None:
    """Compare with the standard's own equation for every pixel of every image."""
    volume = read(folder(name), **options)
    shown = Shown(volume.voxels[0], volume.grid.affine)
    assert points_of_slices(slices).shown_by(shown, filled=False)
    moved = Shown(volume.voxels[0][:, :, ::-1], volume.grid.affine)  # control
    assert not points_of_slices(slices).shown_by(moved, filled=False)


@pytest.mark.parametrize(("name", "unit"), [("ct_lung_axial", "HU"), ("mr_head_sagittal_hfs", "a.u.")])
def test_a_classic_series_has_every_voxel_in_its_place(name: str, unit: str) -> None:
    assert_every_voxel_is_in_its_place(name, headers(name))
    assert read(folder(name)).unit == unit


def test_a_tilted_gantry_with_a_variable_gap_is_refused_with_both() -> None:
    with pytest.raises(UnsupportedSeries, match=r"tilt of 18\.5 degrees.*unequal slice spacing.*dcm2niix"):
        read(folder("ct_head_gantry_tilt"))


def test_every_time_point_of_150_files_is_its_own_volume() -> None:
    name = "mr_fmri_timeseries_150_files"
    with pytest.raises(UnsupportedSeries, match="10 volumes"):
        read(folder(name))
    slices = sorted(headers(name), key=lambda one: int(one.InstanceNumber))
    for frame in (0, 9):
        assert_every_voxel_is_in_its_place(name, slices[15 * frame : 15 * frame + 15], frame=frame)


def test_an_enhanced_time_series_is_four_volumes_of_one_grid() -> None:
    with pytest.raises(UnsupportedSeries, match="4 volumes"):
        read(folder("mr_enhanced_timeseries"))
    volumes = [read(folder("mr_enhanced_timeseries"), frame=frame) for frame in range(4)]
    assert len({volume.voxels.tobytes() for volume in volumes}) == 4
    assert all(volume.grid.mismatch(volumes[0].grid) is None for volume in volumes)


def test_an_enhanced_series_equals_its_reference_conversion_in_world_space() -> None:
    name = "mr_head_enhanced_multiframe"
    volume = read(folder(name), series=1)
    reference = nibabel.load(next(folder(name).glob("*.nii")))
    inverse = np.linalg.inv(volume.grid.affine) @ reference.affine
    # the conversion's axes are ours in another order, which moves corners by what float32 rounds at most
    shape = tuple(int(n) for n in np.rint(np.abs(inverse[:3, :3]) @ reference.shape))
    assert shape == volume.grid.shape
    there = Grid(reference.shape, np.asarray(reference.affine, dtype=np.float64))
    index = np.stack(np.meshgrid(*map(np.arange, reference.shape), indexing="ij"), axis=-1)
    found = volume.grid.to_index(there.to_world(index))
    assert float(np.abs(found - np.rint(found)).max()) < 1e-3
    values = volume.voxels[0][tuple(np.rint(found).astype(int).reshape(-1, 3).T)]
    assert np.array_equal(values, np.asarray(reference.dataobj, dtype=np.float32).reshape(-1))
