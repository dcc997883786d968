"""Presentation states outline clusters at their voxels' edges on the slices they lie on, over the scan's own images."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medinterp.errors import EmptyRegion, UnsupportedSeries
from medinterp.io.dicom_pr import outlines, write_presentation_state
from medinterp.io.dicom_template import template_headers
from medinterp.volume import Segmentation, Volume
from tests.clients.scans import make_scan, one_voxel_clusters

_AT, _OTHER = (9, 4, 6), (3, 8, 2)


def inside_of(loops: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Fill closed lines by the even-odd rule: a pixel is inside if a ray to its left crosses an odd number of lines."""
    filled = np.zeros(shape, dtype=bool)
    for loop in loops:
        for (x, top), (other, bottom) in itertools.pairwise(loop):
            if x == other:
                filled[min(top, bottom) : max(top, bottom), x:] ^= True
    return filled


@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_outlines_filled_again_are_the_pixels_they_went_around(inside: np.ndarray) -> None:
    loops = outlines(inside)
    assert all((loop[0] == loop[-1]).all() for loop in loops), "an open line"
    np.testing.assert_array_equal(inside_of(loops, inside.shape), inside)


def test_a_single_pixel_has_four_corners_and_pixels_that_touch_at_a_corner_have_a_line_each() -> None:
    one = outlines(np.array([[False, True]]))
    np.testing.assert_array_equal(one, [[[1, 0], [2, 0], [2, 1], [1, 1], [1, 0]]])
    assert [len(loop) for loop in outlines(np.eye(2, dtype=bool))] == [5, 5]


def write(path: Path, scan: Volume) -> pydicom.Dataset:
    clusters = one_voxel_clusters(scan, _AT, _OTHER)
    headers = template_headers(scan)
    write_presentation_state(clusters, scan, headers, path, description="Outlines", note="Saliency of the mean")
    return pydicom.dcmread(path)


@pytest.mark.parametrize("name", ["axial_ct", "oblique_mr"])
def test_each_cluster_is_outlined_on_its_own_slice_s_image_and_layer(name: str, tmp_path: Path) -> None:
    scan = make_scan(name)
    state = write(tmp_path / "a.dcm", scan)
    found = {item.GraphicLayer: item for item in state.GraphicAnnotationSequence}
    assert set(found) == {"POSITIVE", "NEGATIVE"}
    for layer, (i, j, k) in (("POSITIVE", _AT), ("NEGATIVE", _OTHER)):
        (image,) = found[layer].ReferencedImageSequence
        assert image.ReferencedSOPInstanceUID == scan.provenance.source.headers[k].SOPInstanceUID
        (line,) = found[layer].GraphicObjectSequence
        corners = np.reshape(line.GraphicData, (-1, 2))
        assert (corners.min(axis=0).tolist(), corners.max(axis=0).tolist()) == ([i, j], [i + 1, j + 1])


def test_the_note_ends_in_research_use_only_and_stands_on_every_slice_with_an_outline(tmp_path: Path) -> None:
    state = write(tmp_path / "a.dcm", make_scan("oblique_mr"))
    notes = [item.TextObjectSequence[0].UnformattedTextValue for item in state.GraphicAnnotationSequence]
    assert notes == ["Saliency of the mean; research use only"] * 2


def test_patient_and_study_are_the_scan_s_and_nothing_else_of_it_travels(tmp_path: Path) -> None:
    state = write(tmp_path / "a.dcm", make_scan("oblique_mr"))
    assert (state.PatientName, state.StudyInstanceUID, state.BodyPartExamined) == ("Doe^Jörg", "1.2.4", "BRAIN")
    assert b"never copied" not in (tmp_path / "a.dcm").read_bytes()


def test_pixels_keep_their_proportions(tmp_path: Path) -> None:
    state = write(tmp_path / "a.dcm", make_scan("oblique_mr"))  # 0.9 mm along a row, 1.1 mm down a column
    (area,) = state.DisplayedAreaSelectionSequence
    np.testing.assert_allclose([float(value) for value in area.PresentationPixelSpacing], [1.1, 0.9])
    assert "PresentationPixelAspectRatio" not in area


def test_the_first_window_of_the_scan_is_kept(tmp_path: Path) -> None:
    scan = make_scan("axial_ct")
    for header in scan.provenance.source.headers:
        header.RescaleSlope, header.RescaleIntercept, header.RescaleType = 1, -1024, "HU"
        header.WindowCenter, header.WindowWidth = [40, 600], [80, 2800]
    state = write(tmp_path / "a.dcm", scan)
    assert (state.RescaleIntercept, state.SoftcopyVOILUTSequence[0].WindowWidth) == (-1024, 80)  # never both


def scaled_one_by_one(scan: Volume) -> Volume:
    for k, header in enumerate(scan.provenance.source.headers):
        header.RescaleSlope, header.RescaleIntercept = 1 + k, 0
    return scan


def emptied(scan: Volume) -> Volume:
    source = replace(scan.provenance.source, headers=())
    return replace(scan, provenance=replace(scan.provenance, source=source))


@pytest.mark.parametrize(("change", "words"), [(emptied, "has none"), (scaled_one_by_one, "10 different rescale")])
def test_scans_that_one_state_cannot_show_are_refused(
    change: Callable[[Volume], Volume], words: str, tmp_path: Path
) -> None:
    scan = make_scan("oblique_mr")
    headers, scan = template_headers(scan), change(scan)
    with pytest.raises(UnsupportedSeries, match=words):
        write_presentation_state(
            one_voxel_clusters(scan, _AT), scan, headers, tmp_path / "a.dcm", description="", note=""
        )
    assert not (tmp_path / "a.dcm").exists()


def test_no_cluster_is_refused(tmp_path: Path) -> None:
    scan = make_scan("axial_ct")
    empty = Segmentation(np.zeros(scan.grid.shape, dtype=np.int16), scan.grid, ())
    with pytest.raises(EmptyRegion, match="no cluster to outline"):
        write_presentation_state(empty, scan, template_headers(scan), tmp_path / "a.dcm", description="", note="")
