"""Targets measure what they say, know their box, and can be moved into a crop."""

import numpy as np
import pytest
import torch

from medinterp.attribution.targets import Box, RegionContrast, RegionMean, Target, WeightedSum
from medinterp.errors import EmptyRegion, GridMismatch, InputError
from medinterp.volume import Grid, Region, ring

SHAPE = (5, 6, 7)
BLOCK = Box((1, 2, 3), (3, 4, 6))
AROUND = Box((0, 1, 2), (4, 6, 7))


def mask_of(box):
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[box.slices] = True
    return mask


def targets():
    inside, shell = mask_of(BLOCK), mask_of(AROUND) & ~mask_of(BLOCK)
    weights = torch.arange(210, dtype=torch.float64).reshape(SHAPE) * inside
    return [RegionMean(inside, "mean"), RegionContrast(inside, shell, "contrast"), WeightedSum(weights, "sum")]


@pytest.fixture
def image():
    return torch.randn(2, 2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_region_mean_is_the_mean_of_the_masked_voxels_of_each_sample(image):
    measured = RegionMean(mask_of(BLOCK), "block", channel=1)(image)
    expected = image[:, 1, 1:3, 2:4, 3:6].flatten(1).mean(1)
    assert torch.allclose(measured, expected, rtol=1e-14)  # the same sum in another order


def test_region_contrast_is_region_mean_minus_ring_mean(image):
    inside, shell = mask_of(BLOCK), mask_of(AROUND) & ~mask_of(BLOCK)
    expected = image[:, 0][:, inside].mean(1) - image[:, 0][:, shell].mean(1)
    assert torch.allclose(RegionContrast(inside, shell, "c")(image), expected, rtol=1e-13)


def test_contrast_does_not_move_when_a_constant_is_added(image):
    contrast = targets()[1]
    assert torch.allclose(contrast(image), contrast(image + 1000), atol=1e-11)  # 1000 loses three digits


def test_weighted_sum_is_the_sum_of_weight_times_voxel(image):
    target = targets()[2]
    assert torch.allclose(target(image), (image[:, 0] * target.weights).flatten(1).sum(1), rtol=1e-13)


@pytest.mark.parametrize("target", targets(), ids=lambda t: t.name)
def test_targets_follow_the_protocol_and_the_dtype_of_the_image(target, image):
    assert isinstance(target, Target)
    assert target.degree == 1
    torch.testing.assert_close(target(3 * image), 3 * target(image))
    assert target(image.float()).dtype == torch.float32
    assert target(image).shape == (2,)


@pytest.mark.parametrize("target", targets(), ids=lambda t: t.name)
def test_a_cropped_target_measures_the_same_on_the_cropped_image(target, image):
    box = Box((0, 1, 2), (5, 6, 7))
    assert torch.equal(target.crop(box)(image[(..., *box.slices)]), target(image))


@pytest.mark.parametrize("target", targets(), ids=lambda t: t.name)
def test_a_target_reads_nothing_outside_its_support(target, image):
    changed = torch.full_like(image, torch.nan)
    changed[(..., *target.support().slices)] = image[(..., *target.support().slices)]
    assert torch.equal(target(changed), target(image))


@pytest.mark.parametrize("target", targets(), ids=lambda t: t.name)
def test_a_crop_that_cuts_the_target_is_refused(target):
    with pytest.raises(InputError, match="does not fit in the crop"):
        target.crop(Box((2, 0, 0), SHAPE))


@pytest.mark.parametrize("target", targets(), ids=lambda t: t.name)
def test_an_image_on_another_grid_is_refused(target, image):
    with pytest.raises(GridMismatch, match="draw the region on the grid"):
        target(image[..., 1:])


def test_support_is_the_tight_bounding_box():
    assert [target.support() for target in targets()] == [BLOCK, AROUND, BLOCK]


def test_empty_regions_are_refused():
    empty = torch.zeros(SHAPE, dtype=torch.bool)
    with pytest.raises(EmptyRegion, match="'nothing' holds no voxel"):
        RegionMean(empty, "nothing")
    with pytest.raises(EmptyRegion, match="ring"):
        RegionContrast(mask_of(BLOCK), empty, "alone")
    with pytest.raises(EmptyRegion):
        WeightedSum(empty.double(), "nothing")


def test_a_ring_that_overlaps_its_region_is_refused():
    with pytest.raises(InputError, match="shares 12 voxels with its ring"):
        RegionContrast(mask_of(BLOCK), mask_of(AROUND), "overlap")


def test_boxes_join_clip_and_shift():
    other = Box((2, 0, 4), (5, 3, 5))
    assert BLOCK.joined(other) == Box((1, 0, 3), (5, 4, 6))
    assert BLOCK.clipped(other) == Box((2, 2, 4), (3, 3, 5))
    assert BLOCK.relative_to(AROUND) == Box((1, 1, 1), (3, 3, 4))
    assert (BLOCK.shape, BLOCK.voxels) == ((2, 2, 3), 12)
    assert AROUND.contains(BLOCK)
    assert not BLOCK.contains(AROUND)


def test_a_ring_does_not_change_for_the_rounding_of_a_spacing():
    mask = np.zeros((24, 24, 24), dtype=bool)
    mask[9:14, 9:14, 9:14] = True
    counts = set()
    for off in (-1e-8, 0.0, 1e-8):
        region = Region(mask, Grid(mask.shape, np.diag([1 + off, 1 + off, 1 + off, 1.0])), "cube")
        counts.add(int(ring(region, gap_mm=1.0, width_mm=3.0).mask.sum()))
    assert len(counts) == 1
