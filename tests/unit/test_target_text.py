"""Targets as text: every form becomes its region, everything else is refused with the forms that are known."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medinterp.errors import ConfigError, EmptyRegion, InputError
from medinterp.target_text import parse_target, without_path
from medinterp.volume import Grid, Provenance, Region, Source, Volume, region_from_mask, ring, sphere, voxel

GRID = Grid((9, 8, 7), np.diag([2.0, 2.0, 2.0, 1.0]))


def volume(values: np.ndarray) -> Volume:
    return Volume(values[None], GRID, "a.u.", "MR", Provenance(Source("memory")))


SCAN = volume(np.ones(GRID.shape, dtype=np.float32))


def box(inside: float, outside: float = 0.0) -> np.ndarray:
    values = np.full(GRID.shape, outside, dtype=np.float32)
    values[2:4, 3:5, 1:3] = inside
    return values


@pytest.mark.parametrize("text", ["sphere:6,6,6,2", "sphere: 6, 6.0, 6e0, 2", "sphere:+6,6.,6,2.0"])
def test_a_sphere_is_read_in_millimetres(text: str) -> None:
    found = parse_target(text)(SCAN, None)
    assert np.array_equal(found.mask, sphere(GRID, (6.0, 6.0, 6.0), 2.0).mask)
    assert found.mask.sum() == 7  # the centre and its six neighbours at 2 mm


def test_a_voxel_is_the_nearest_one() -> None:
    found = parse_target("voxel:6.9,0,-0.9")(SCAN, None)
    assert np.argwhere(found.mask).tolist() == [[3, 0, 0]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "voxel",
        "sphere:",
        "sphere:1,2",
        "voxel:1,2,3,4",
        "sphere:nan,0,0,5",
        "sphere:1e999,0,0,5",
        "blob:1",
        "x" * 5000,
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="sphere:X,Y,Z,R"):
        parse_target(text)


def test_a_record_keeps_no_file_name() -> None:
    assert [without_path(t) for t in ("auto", "voxel:1,2,3", "DOE_JANE.nii.gz")] == ["auto", "voxel:1,2,3", "mask file"]


def test_an_error_about_the_mask_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii.gz"
    nibabel.Nifti1Image(np.full(GRID.shape, np.nan, dtype=np.float32), GRID.affine).to_filename(path)
    with pytest.raises(InputError, match=r"^the mask: .*NaN"):
        parse_target(str(path))


@pytest.mark.parametrize("inside", [1.0, 255.0, 7.0, 0.51])
def test_a_mask_is_one_label_or_probabilities(inside: float) -> None:
    assert np.array_equal(region_from_mask(volume(box(inside)), SCAN).mask, box(1.0) > 0)


def test_probabilities_are_cut_at_one_half() -> None:
    values = box(0.9, outside=0.2)
    values[0, 0, 0] = 0.5
    assert np.array_equal(region_from_mask(volume(values), SCAN).mask, box(1.0) > 0)


@pytest.mark.parametrize(
    "values",
    [box(2.0, outside=1.0) * box(2.0, outside=1.0), box(-1.0), box(3.0, outside=0.5)],
    ids=["labels", "minus", "x"],
)
def test_a_mask_of_several_labels_is_not_merged_in_silence(values: np.ndarray) -> None:
    with pytest.raises(InputError, match="take one label"):
        region_from_mask(volume(values), SCAN)


@pytest.mark.parametrize(("values", "words"), [(box(0.0), "zero everywhere"), (box(0.4, 0.1), "reach only 0.4")])
def test_an_empty_mask_says_what_it_holds(values: np.ndarray, words: str) -> None:
    with pytest.raises(EmptyRegion, match=words):
        region_from_mask(volume(values), SCAN)


def test_an_empty_sphere_says_how_far_the_scan_is() -> None:
    with pytest.raises(EmptyRegion, match=r"nearest one is 94 mm"):
        sphere(GRID, (110.0, 0.0, 0.0), 5.0)
    with pytest.raises(EmptyRegion, match="larger radius"):
        sphere(GRID, (1.0, 1.0, 1.0), 0.1)


@pytest.mark.parametrize("far", [400.0, 1e30])
def test_a_voxel_outside_is_refused(far: float) -> None:
    with pytest.raises(EmptyRegion, match="outside the scan"):
        voxel(GRID, (far, 0.0, 0.0))


def test_a_region_that_fills_the_scan_has_no_ring() -> None:
    with pytest.raises(EmptyRegion, match="measure its mean"):
        ring(Region(np.ones(GRID.shape, dtype=bool), GRID, "all"), gap_mm=2.0, width_mm=5.0)
