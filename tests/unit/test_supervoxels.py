"""Supervoxels cover the scan, sit where they say in millimetres, and follow its edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medinterp.attribution import (
    Box,
    atlas_supervoxels,
    block_supervoxels,
    label_supervoxels,
    parse_supervoxels,
    shell_supervoxels,
    slic_supervoxels,
)
from medinterp.attribution.supervoxels import windows
from medinterp.errors import ConfigError, EmptyRegion, GridMismatch, InputError
from medinterp.volume import Grid, Volume, sphere
from medinterp.volume.provenance import Provenance, Source

SHAPE = (12, 10, 8)
AFFINE = np.array([[0.0, -2.0, 0.0, 7.0], [1.0, 0.0, 0.0, -3.0], [0.0, 0.0, 3.0, 11.0], [0.0, 0.0, 0.0, 1.0]])
GRID = Grid(SHAPE, AFFINE)


def volume(voxels, grid=GRID):
    return Volume(np.asarray(voxels, dtype=np.float32)[None], grid, "a.u.", "MR", Provenance(Source("made up")))


def test_centres_and_volumes_are_in_millimetres_of_the_scan():
    labels = np.zeros(SHAPE, dtype=np.int64)
    labels[2:4, 5, 1:4] = 40
    labels[0, 0, 0] = 7
    found = label_supervoxels(labels, GRID, "by hand", {40: "caudate"})
    corner, caudate = found.regions
    assert (corner.label, corner.name, caudate.label, caudate.name) == (7, "region 7", 40, "caudate")
    assert caudate.centre_mm == pytest.approx(tuple(GRID.to_world((2.5, 5.0, 2.0))))
    assert caudate.volume_mm3 == pytest.approx(6 * 6.0)
    assert corner.centre_mm == pytest.approx((7.0, -3.0, 11.0))
    assert int((found.labels == 2).sum()) == 6
    assert int((found.labels == 0).sum()) == found.labels.numel() - 7


@settings(max_examples=25, deadline=None)
@given(st.tuples(*(st.integers(1, 9) for _ in range(3))), st.floats(0.5, 12))
def test_blocks_cover_every_voxel_once_whatever_the_shape(shape, edge_mm):
    grid = Grid(shape, np.diag([1.0, 2.0, 0.7, 1.0]))
    found = block_supervoxels(grid, edge_mm)
    assert int(found.labels.min()) == 1
    assert sum(region.voxels for region in found.regions) == found.labels.numel()
    assert sum(region.volume_mm3 for region in found.regions) == pytest.approx(found.labels.numel() * 1.4)


def test_blocks_are_cubes_in_millimetres_not_in_voxels():
    found = block_supervoxels(GRID, 6.0)  # voxels of 1 x 2 x 3 mm
    assert found.regions[0].voxels == 6 * 3 * 2
    assert found.regions[0].volume_mm3 == pytest.approx(6.0**3)


def two_halves(noise=0.05):
    image = np.zeros((24, 24, 8))
    image[:, :, :] = (np.add.outer(np.arange(24), np.arange(24)) > 23)[:, :, None]
    return image + noise * np.random.default_rng(0).standard_normal(image.shape)


def test_slic_regions_stay_on_one_side_of_an_edge_where_blocks_do_not():
    grid = Grid((24, 24, 8), np.diag([1.0, 1.0, 2.0, 1.0]))
    scan = volume(two_halves(), grid)
    truth = two_halves(0.0) > 0.5

    def impurity(division):
        share = [truth[(division.labels == n).numpy()].mean() for n in range(1, len(division) + 1)]
        sizes = [region.voxels for region in division.regions]
        return float(np.average(np.minimum(share, 1 - np.array(share)), weights=sizes))

    slic, blocks = slic_supervoxels(scan, 6.0), block_supervoxels(grid, 6.0)
    assert impurity(slic) < 0.02
    assert impurity(blocks) > 0.05  # control: blocks cross the edge
    assert 0.5 < len(slic) / len(blocks) < 2
    assert "SLIC of 6 mm" in slic.made_by


def test_slic_sees_millimetres_and_no_unit_of_intensity():
    grid = Grid((24, 24, 8), np.diag([1.0, 1.0, 4.0, 1.0]))
    image = two_halves()
    first, second = slic_supervoxels(volume(image, grid), 8.0), slic_supervoxels(volume(1000 * image - 300, grid), 8.0)
    same = (first.labels == second.labels).double().mean()
    assert float(same) > 0.99  # the scan is kept in float32, which may move a voxel on a border
    extent = np.ptp(np.argwhere((first.labels == 1).numpy()), axis=0) + 1
    assert extent[2] <= 4  # 8 mm are two slices of 4 mm, not eight


def test_slic_outside_a_mask_belongs_to_no_region():
    mask = np.zeros((24, 24, 8), dtype=bool)
    mask[4:20, 4:20] = True
    found = slic_supervoxels(volume(two_halves(), Grid((24, 24, 8), np.eye(4))), 6.0, mask=mask)
    assert torch.equal(found.labels > 0, torch.from_numpy(mask))


def test_an_atlas_must_be_whole_numbers_on_the_scans_grid():
    scan = volume(np.zeros(SHAPE))
    labels = np.zeros(SHAPE)
    labels[:3] = 17
    found = atlas_supervoxels(volume(labels), scan, {17: "putamen"})
    assert [region.name for region in found.regions] == ["putamen"]
    with pytest.raises(InputError, match="nearest neighbours"):
        atlas_supervoxels(volume(labels + 0.5), scan)
    with pytest.raises(GridMismatch):
        atlas_supervoxels(volume(labels, Grid(SHAPE, np.eye(4))), scan)
    with pytest.raises(EmptyRegion):
        atlas_supervoxels(volume(0 * labels), scan)


def test_shells_are_at_their_distances_and_cover_the_scan():
    grid = Grid((21, 21, 21), np.eye(4))
    found = shell_supervoxels(sphere(grid, (10.0, 10.0, 10.0), 2.0), (2.0, 4.0))
    assert [region.name for region in found.regions] == ["sphere", "0 to 2 mm", "2 to 4 mm", "beyond 4 mm"]
    assert int(found.labels.min()) == 1
    line = found.labels[10, 10, 10:].tolist()
    assert line == [1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4]


def test_a_crop_keeps_the_whole_table():
    found = block_supervoxels(GRID, 6.0)
    part = found.crop(Box((0, 0, 0), (6, 3, 2)))
    assert part.labels.shape == (6, 3, 2)
    assert part.regions == found.regions


def test_windows_stop_where_captums_do():
    found = windows((10, 4, 5), (4, 4, 2), (3, 4, 2), Box((0, 0, 0), (10, 4, 5)))
    starts = sorted({box.start[0] for box in found.values()}), sorted({box.start[2] for box in found.values()})
    assert starts == ([0, 3, 6], [0, 2, 4])
    assert max(box.stop[2] for box in found.values()) == 5


def test_windows_that_touch_a_box_keep_their_numbers():
    shape, size, step, part = (10, 9, 5), (4, 3, 2), (3, 2, 2), Box((4, 3, 2), (6, 5, 3))
    every = windows(shape, size, step, Box((0, 0, 0), shape))
    assert list(every) == list(range(1, len(every) + 1))
    touching = {n: box for n, box in every.items() if min(box.clipped(part).shape) > 0}
    assert windows(shape, size, step, part) == touching
    assert 0 < len(touching) < len(every)


def test_text_makes_every_division(tmp_path):
    scan = volume(two_halves(), Grid((24, 24, 8), np.eye(4)))
    region = sphere(scan.grid, (12.0, 12.0, 4.0), 2.0)
    for text in ("slic:size_mm=8,compactness=0.2", "blocks:edge_mm=8", "shells"):
        assert len(parse_supervoxels(text, scan, region)) > 1
    with pytest.raises(ConfigError, match="neither slic, blocks, shells nor"):
        parse_supervoxels("hexagons", scan, region)
    with pytest.raises(ConfigError, match="cannot be written as text"):
        parse_supervoxels("shells:edges_mm=3", scan, region)


@pytest.mark.parametrize(
    "make",
    [
        lambda: block_supervoxels(GRID, 0.0),
        lambda: slic_supervoxels(volume(two_halves(), Grid((24, 24, 8), np.eye(4))), -1.0),
        lambda: slic_supervoxels(volume(two_halves(), Grid((24, 24, 8), np.eye(4))), 0.3),
        lambda: shell_supervoxels(sphere(GRID, (0.0, 0.0, 20.0), 4.0), (3.0, 2.0)),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_flat_scan_has_no_edges_to_follow():
    with pytest.raises(InputError, match="divide it into blocks"):
        slic_supervoxels(volume(np.ones(SHAPE)))
