"""Clusters, thresholds and colour limits of signed maps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from medinterp.errors import GridMismatch, InputError
from medinterp.export.overlay import (
    MOST_CLUSTERS,
    colour_limit,
    default_threshold,
    find_clusters,
    make_overlay,
    search_clusters,
)
from medinterp.volume import Grid, Provenance, Source, Volume

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (20, -15, 30), degrees=True).as_matrix() * np.array([0.7, 0.9, 3.0])
OBLIQUE[:3, 3] = (-31.0, 12.5, 40.0)


def volume(values: np.ndarray, affine: np.ndarray = OBLIQUE) -> Volume:
    voxels = np.asarray(values, dtype=np.float32)
    return Volume(voxels[None], Grid(voxels.shape, affine), "a.u.", "MR", Provenance(Source("memory")))


small_maps = hnp.arrays(np.float32, (5, 4, 3), elements=st.sampled_from([-3.0, -1.0, 0.0, 0.0, 0.5, 2.0]))


def test_touching_voxels_of_opposite_sign_are_two_clusters():
    values = np.zeros((6, 5, 4))
    values[2, 2, 2], values[3, 2, 2] = 4.0, -5.0
    segments = find_clusters(volume(values), threshold=1.0).segments
    assert [(s.sign, s.name, s.total) for s in segments] == [(-1, "negative 1", -5.0), (1, "positive 1", 4.0)]


def test_voxels_that_touch_at_a_corner_are_one_cluster():
    values = np.zeros((5, 5, 5))
    values[1, 1, 1] = values[2, 2, 2] = 1.0
    assert len(find_clusters(volume(values), threshold=0.5).segments) == 1


def test_a_cluster_is_described_in_millimetres_on_an_oblique_grid():
    values = np.zeros((8, 7, 6))
    values[2:5, 3, 4] = (1.0, 6.0, 2.0)
    map = volume(values)
    (segment,) = find_clusters(map, threshold=0.5).segments
    np.testing.assert_allclose(segment.peak_mm, OBLIQUE[:3, :3] @ (3, 3, 4) + OBLIQUE[:3, 3], atol=1e-9)
    assert segment.peak_value == 6.0
    assert segment.total == 9.0
    assert segment.volume_mm3 == pytest.approx(3 * 0.7 * 0.9 * 3.0)


def test_the_threshold_is_a_magnitude_that_belongs_to_the_cluster():
    # 0.3 has no exact float32: rounding must not push the voxel that defines the threshold below it.
    map = volume(np.full((2, 2, 2), 0.3))
    assert len(find_clusters(map, threshold=0.3).segments) == 1
    assert find_clusters(map, threshold=0.31).segments == ()


def test_only_the_strongest_clusters_are_kept_and_the_rest_is_counted():
    values = np.zeros((80, 1, 1))
    values[::2, 0, 0] = np.arange(1, 41)
    clusters = search_clusters(volume(values), threshold=0.5)
    assert [s.total for s in clusters.segmentation.segments] == list(range(40, 40 - MOST_CLUSTERS, -1))
    assert (clusters.found, clusters.dropped) == (40, 40 - MOST_CLUSTERS)
    assert clusters.share == pytest.approx(sum(range(11, 41)) / sum(range(1, 41)))


def test_clusters_below_the_smallest_volume_are_counted_apart():
    values = np.zeros((9, 3, 3))
    values[0, 0, 0], values[4:7, 1, 1] = 9.0, 1.0
    one_voxel = 0.7 * 0.9 * 3.0
    clusters = search_clusters(volume(values), threshold=0.5, min_volume_mm3=2 * one_voxel)
    assert [s.total for s in clusters.segmentation.segments] == [3.0]
    assert (clusters.found, clusters.too_small, clusters.dropped) == (1, 1, 0)


@given(small_maps)
@settings(max_examples=40, deadline=None)
def test_negating_a_map_swaps_signs_and_keeps_the_rest(values):
    clusters = find_clusters(volume(values), threshold=0.5)
    negated = find_clusters(volume(-values), threshold=0.5)
    np.testing.assert_array_equal(clusters.labels, negated.labels)
    assert [-s.total for s in clusters.segments] == [s.total for s in negated.segments]


@given(small_maps)
@settings(max_examples=40, deadline=None)
def test_labels_and_segments_tell_the_same_story(values):
    found = find_clusters(volume(values), threshold=0.7)
    np.testing.assert_array_equal(found.labels > 0, np.abs(values) >= 0.7)
    for segment in found.segments:
        inside = found.labels == segment.label
        assert segment.total == values[inside].sum(dtype=np.float64)
        assert set(np.sign(values[inside])) == {segment.sign}
        assert abs(segment.peak_value) == np.abs(values[inside]).max()
    totals = [abs(s.total) for s in found.segments]
    assert totals == sorted(totals, reverse=True)


@given(small_maps)
@settings(max_examples=40, deadline=None)
def test_the_default_threshold_is_the_largest_at_which_half_of_the_map_remains(values):
    magnitude = np.abs(values.astype(np.float64))
    holding_half = [t for t in np.unique(magnitude) if magnitude[magnitude >= t].sum() >= 0.5 * magnitude.sum()]
    assert default_threshold(volume(values)) == max(holding_half)


def test_a_map_of_zeros_has_no_clusters_and_a_limit_of_one():
    map = volume(np.zeros((4, 4, 4)))
    assert default_threshold(map) == 0.0
    assert find_clusters(map, threshold=0.0).segments == ()
    assert colour_limit(map) == 1.0


def test_one_extreme_voxel_does_not_take_the_colours_from_the_rest():
    values = np.ones((20, 20, 20))
    values[0, 0, 0] = 500  # 6 % of the map
    assert colour_limit(volume(values)) == 1.0
    values[0, 0, 0] = 1e6  # it is the map
    assert colour_limit(volume(values)) == 1e6


@pytest.mark.parametrize("far", [0.0, 1e-6])
def test_voxels_of_next_to_nothing_around_a_map_do_not_move_its_colour_limit(far):
    values = np.full((20, 20, 20), far)
    values[:2, :2, :2] = np.arange(1, 9).reshape(2, 2, 2)
    assert colour_limit(volume(values)) == 8.0


@pytest.mark.parametrize("threshold", [-1.0, float("nan")])
def test_a_threshold_that_is_no_magnitude_is_refused(threshold):
    with pytest.raises(InputError, match="magnitude"):
        find_clusters(volume(np.ones((2, 2, 2))), threshold=threshold)


def test_a_map_of_several_channels_is_refused():
    two = Volume(np.ones((2, 3, 3, 3), np.float32), Grid((3, 3, 3), np.eye(4)), "1", "MR", Provenance(Source("memory")))
    with pytest.raises(InputError, match="2 channels"):
        default_threshold(two)


def test_an_overlay_carries_limit_and_clusters_and_refuses_another_grid():
    values = np.zeros((6, 6, 6))
    values[2, 2, 2], values[4, 4, 4] = 2.0, -1.0
    base, map = volume(np.ones((6, 6, 6))), volume(values)
    overlay = make_overlay(base, map, name="saliency", description="a test", signed=True)
    assert overlay.segmentation is not None
    assert [s.name for s in overlay.segmentation.segments] == ["positive 1"]  # it alone holds half of the map
    assert overlay.limit == colour_limit(map)
    assert not overlay.saturated
    assert replace(overlay, limit=1.5).saturated
    moved = OBLIQUE.copy()
    moved[0, 3] += 1.0
    with pytest.raises(GridMismatch, match="1 mm apart"):
        make_overlay(volume(np.ones((6, 6, 6)), moved), map, name="saliency", description="a test", signed=True)


def test_the_peak_of_a_plateau_is_in_its_middle():
    values = np.zeros((12, 12, 12), dtype=np.float32)
    values[2:7, 3:8, 4:9] = -2.0
    found = search_clusters(volume(values), threshold=1.0)
    expected = pytest.approx(volume(values).grid.to_world(np.array([4, 5, 6])))
    assert found.segmentation.segments[0].peak_mm == expected
    shown = make_overlay(volume(values), volume(values), name="map", description="map", signed=True)
    assert shown.peak_mm == expected
