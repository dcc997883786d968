"""Overlay planes hold the clusters bit by bit on the slices they lie on, and change no pixel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medinterp.errors import EmptyRegion, GridMismatch
from medinterp.io.dicom_derived import write_dicom_series
from medinterp.io.dicom_overlay_planes import write_overlay_planes
from medinterp.io.dicom_template import planes
from medinterp.volume import Segmentation
from tests.clients.scans import make_scan, one_voxel_clusters

_AT, _OTHER = (9, 4, 6), (3, 8, 2)


@pytest.mark.parametrize("name", ["axial_ct", "oblique_mr", "nifti_reversed"])
def test_planes_read_back_by_pydicom_are_the_clusters_of_their_sign(name: str, tmp_path: Path) -> None:
    scan = make_scan(name)
    clusters = one_voxel_clusters(scan, _AT, _OTHER)
    paths = write_overlay_planes(clusters, scan, tmp_path, description="Clusters", series_number=1003)
    for k, path in zip(planes(scan.grid).order, paths, strict=True):
        image = pydicom.dcmread(path)
        for label, group in ((1, 0x6000), (2, 0x6002)):
            expected = (clusters.labels[:, :, k] == label).T
            found = image.overlay_array(group) if (group, 0x3000) in image else np.zeros(expected.shape)
            np.testing.assert_array_equal(found, expected)


def test_negative_clusters_alone_are_the_first_plane_and_say_so_on_their_slice_only(tmp_path: Path) -> None:
    scan = make_scan("axial_ct")
    both = one_voxel_clusters(scan, _AT, _OTHER)
    negative = Segmentation((both.labels == 2).astype(np.int16), scan.grid, (replace(both.segments[1], label=1),))
    paths = write_overlay_planes(negative, scan, tmp_path, description="Clusters", series_number=1003)
    images = [pydicom.dcmread(path) for path in paths]
    labels = [image[0x6000, 0x1500].value if (0x6000, 0x1500) in image else "" for image in images]
    assert labels == ["negative clusters" if k == _OTHER[2] else "" for k in planes(scan.grid).order]


def test_pixels_and_place_are_those_of_a_derived_series(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    clusters = one_voxel_clusters(scan, _AT)
    with_planes = write_overlay_planes(clusters, scan, tmp_path / "a", description="Clusters", series_number=1003)
    plain = write_dicom_series(scan, scan, tmp_path / "b", description="Copy", series_number=1004)
    assert len(with_planes) == len(plain) == scan.grid.shape[2]
    for one, other in zip(map(pydicom.dcmread, with_planes), map(pydicom.dcmread, plain), strict=True):
        assert one.PixelData == other.PixelData
        assert one.ImagePositionPatient == other.ImagePositionPatient
        assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesDescription == "Clusters x100 (research use only)"


def test_no_cluster_and_another_grid_are_refused(tmp_path: Path) -> None:
    scan = make_scan("axial_ct")
    labels = np.zeros(scan.grid.shape, dtype=np.int16)
    with pytest.raises(EmptyRegion, match="overlay plane"):
        write_overlay_planes(Segmentation(labels, scan.grid, ()), scan, tmp_path / "a", description="", series_number=1)
    moved = replace(scan.grid, affine=np.diag([-1, -1, 1, 1.0]) @ scan.grid.affine)
    elsewhere = replace(one_voxel_clusters(scan, _AT), grid=moved)
    with pytest.raises(GridMismatch, match="another grid"):
        write_overlay_planes(elsewhere, scan, tmp_path / "a", description="", series_number=1)
    assert not (tmp_path / "a").exists()
