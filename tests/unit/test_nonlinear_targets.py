"""Energies, edges, functions and network scores measure what they say, and carry gradients through the denoiser."""

import numpy as np
import pytest
import torch
from monai.networks.nets import BasicUNet, DenseNet

from medinterp.attribution import (
    Box,
    ClassLogit,
    ClassRegionScore,
    EdgeSharpness,
    RegionEnergy,
    RegionFunction,
    Saliency,
    Target,
    edge_sharpness,
)
from medinterp.errors import ConfigError, EmptyRegion, GridMismatch, InputError
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, PeronaMalikStep

SHAPE = (20, 16, 12)
BLOCK = Box((8, 6, 4), (13, 11, 9))


def block_mask(shape=SHAPE, box=BLOCK):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[box.slices] = True
    return mask


def spread(voxels, inside):
    return voxels[:, inside].std()


def targets():
    mask = block_mask()
    return [
        RegionEnergy(mask, "energy"),
        RegionFunction(spread, mask, "spread", "a.u."),
        edge_sharpness(mask.numpy(), (1.0, 1.0, 1.0), "edge", gap_mm=1.0, width_mm=1.5),
    ]


@pytest.fixture
def image():
    return torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("target", targets(), ids=lambda t: t.name)
def test_targets_follow_the_protocol_and_give_one_number_a_sample(target, image):
    assert isinstance(target, Target)
    assert not target.linear
    if target.degree is not None:
        torch.testing.assert_close(target(3 * image), 3**target.degree * target(image))
    assert target(image).shape == (2,)
    assert target(image.float()).dtype == torch.float32


@pytest.mark.parametrize("target", targets(), ids=lambda t: t.name)
def test_a_cropped_target_measures_the_same_and_nothing_outside_its_support(target, image):
    box = target.support()
    cropped = target.crop(box)(image[(..., *box.slices)])
    assert torch.allclose(cropped, target(image), rtol=1e-12)  # sums in another order
    changed = torch.full_like(image, torch.nan)
    changed[(..., *box.slices)] = image[(..., *box.slices)]
    assert torch.equal(target(changed), target(image))


@pytest.mark.parametrize("target", targets(), ids=lambda t: t.name)
def test_a_cut_region_or_another_grid_is_refused(target, image):
    with pytest.raises(InputError, match="does not fit in the crop"):
        target.crop(Box((9, 0, 0), SHAPE))
    with pytest.raises(GridMismatch, match="draw the region on the grid"):
        target(image[..., 1:])


def test_units_follow_from_that_of_the_image():
    energy, function, edge = targets()
    assert (energy.unit("HU"), energy.unit("1")) == ("HU²", "1")
    assert (function.unit("HU"), edge.unit("HU")) == ("a.u.", "1/mm")


def test_energy_is_the_mean_square_of_the_region(image):
    expected = image[:, 0][:, block_mask()].square().mean(1)
    assert torch.allclose(targets()[0](image), expected, rtol=1e-12)


def test_a_function_sees_the_regions_voxels_of_each_sample(image):
    expected = torch.stack([sample[0][block_mask()].std() for sample in image])
    assert torch.allclose(targets()[1](image), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("function", "what"),
    [(lambda v, m: 1.0, "float"), (lambda v, m: v, "shape"), (lambda v, m: v.argmax(), "shape")],
)
def test_a_function_that_does_not_return_one_number_is_refused(function, what, image):
    with pytest.raises(InputError, match=what):
        RegionFunction(function, block_mask(), "bad")(image)


# Edge sharpness


def ramp(shape, spacing, position_mm, width_mm, axis=0):
    """An image that rises from 0 to 1 over ``width_mm`` around ``position_mm`` along one axis."""
    at = (torch.arange(shape[axis], dtype=torch.float64) * spacing[axis] - position_mm) / width_mm + 0.5
    view = [1, 1, 1]
    view[axis] = -1
    return at.clamp(0, 1).reshape(view).expand(shape)[None, None]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("width_mm", [6.0, 9.0])
def test_a_linear_edge_of_w_millimetres_has_sharpness_one_over_w(spacing, width_mm):
    shape = (round(40 / spacing[0]), 6, 5)
    mask = np.zeros(shape, dtype=bool)
    half = shape[0] // 2
    mask[half:] = True
    position = (half - 0.5) * spacing[0]
    target = edge_sharpness(mask, spacing, "edge", gap_mm=width_mm / 2 + 1, width_mm=4.0)
    image = ramp(shape, spacing, position, width_mm)
    assert float(target(image)) == pytest.approx(1 / width_mm, rel=1e-6)  # the weights are kept in float32
    assert float(target(-300 * image + 50)) == pytest.approx(1 / width_mm, rel=1e-6)
    blurred = ramp(shape, spacing, position, 2 * width_mm)
    assert float(target(blurred)) < 0.8 / width_mm  # control: a wider edge must read as less sharp


def test_the_edge_of_a_ball_is_measured_within_a_tenth():
    axes = torch.meshgrid(*(torch.arange(33, dtype=torch.float64) - 16 for _ in range(3)), indexing="ij")
    radius = torch.sqrt(sum(axis**2 for axis in axes))
    image = torch.sigmoid((10 - radius) * 4 / 5)[None, None]  # slope 1/5 a millimetre in the middle of the edge
    target = edge_sharpness((radius <= 10).numpy(), (1.0, 1.0, 1.0), "ball", gap_mm=4.0, width_mm=4.0)
    assert float(target(image)) == pytest.approx(1 / 5, rel=0.1)  # the border layer averages over +-1 mm of a curve


def test_a_region_at_the_border_of_the_scan_has_no_edge_there():
    shape = (24, 8, 8)
    mask = np.zeros(shape, dtype=bool)
    mask[12:] = True
    target = edge_sharpness(mask, (1.0, 1.0, 1.0), "half", gap_mm=3.0, width_mm=3.0)
    assert int(target.slope.weights[-3:].count_nonzero()) == 0
    assert isinstance(target, EdgeSharpness)


def test_a_region_that_fills_the_scan_has_no_edge():
    with pytest.raises(EmptyRegion):
        edge_sharpness(np.ones((6, 6, 6), dtype=bool), (1.0, 1.0, 1.0), "all")


# Downstream networks


def segmenter():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BasicUNet(spatial_dims=3, in_channels=1, out_channels=3, features=(4, 4, 4, 4, 4, 4))
    return network.double().eval().requires_grad_(False)


def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DenseNet(3, 1, 4, init_features=4, growth_rate=2, block_config=(1, 1), bn_size=2)
    return network.double().eval().requires_grad_(False)


CUBE = (32, 32, 32)
INSIDE = block_mask(CUBE, Box((10, 12, 14), (15, 17, 18)))


def prepare(image):
    return (image - 3) / 2


def network_targets():
    return [
        ClassRegionScore(segmenter(), 2, INSIDE, "lesion", prepare),
        ClassLogit(classifier(), 1, CUBE, "class 1", prepare),
    ]


@pytest.fixture(scope="module")
def cube():
    return 3 + torch.randn(1, 1, *CUBE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_scores_are_those_of_the_network_called_directly(cube):
    score, logit = network_targets()
    expected = segmenter()(prepare(cube))[:, 2][:, INSIDE].mean(1)
    assert torch.allclose(score(cube), expected, rtol=1e-12)
    assert torch.equal(logit(cube), classifier()(prepare(cube))[:, 1])
    for target in (score, logit):
        assert isinstance(target, Target)
        assert (target.unit("HU"), target.linear) == ("1", False)


@pytest.mark.parametrize("target", network_targets(), ids=lambda t: type(t).__name__)
def test_the_gradient_of_a_score_goes_through_network_and_denoiser(target, cube):
    step, sigma = PeronaMalikStep(), torch.full((1, 1, 1, 1, 1), 0.5, dtype=torch.float64)
    found = Saliency()(DenoiserForward(step), {SCAN: cube}, {SCAN: sigma}, target)
    start = cube.clone().requires_grad_()
    (expected,) = torch.autograd.grad(target(step(start, sigma)).sum(), start)
    assert float((found.maps[SCAN] - expected).norm() / expected.norm()) <= 1e-12
    start = cube.clone().requires_grad_()
    (undenoised,) = torch.autograd.grad(target(start).sum(), start)
    assert float((found.maps[SCAN] - undenoised).norm() / undenoised.norm()) > 0.01  # control: without the denoiser


@pytest.mark.parametrize("target", network_targets(), ids=lambda t: type(t).__name__)
def test_a_network_reads_the_whole_image_and_refuses_a_crop(target):
    assert target.support() == Box((0, 0, 0), CUBE)
    assert target.crop(target.support()) is target
    with pytest.raises(InputError, match="reads the whole image"):
        target.crop(Box((0, 0, 0), (16, 16, 16)))


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(ConfigError, match="eval"):
        ClassLogit(classifier().train(), 0, CUBE, "class 0")


def test_outputs_of_another_kind_are_refused_with_the_way_out(cube):
    with pytest.raises(InputError, match="take the score of a region"):
        ClassLogit(segmenter(), 0, CUBE, "class 0")(cube)
    with pytest.raises(InputError, match="take the logit"):
        ClassRegionScore(classifier(), 0, INSIDE, "class 0")(cube)
    with pytest.raises(InputError, match="a class 7"):
        ClassRegionScore(segmenter(), 7, INSIDE, "class 7")(cube)
    with pytest.raises(InputError, match="wrap it in a function"):
        ClassLogit(lambda image: [image], 0, CUBE, "list")(cube)
