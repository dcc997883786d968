"""Measures become targets and views by name; removed noise, differences and variances are what they say."""

import numpy as np
import pytest
import torch

from medinterp import registry
from medinterp.attribution import (
    Custom,
    Difference,
    FeatureAblation,
    Measure,
    RegionMean,
    Removed,
    Saliency,
    Target,
    Variance,
    Zero,
    block_supervoxels,
    parse_measure,
)
from medinterp.attribution.measures import ClassScore, Contrast, PosteriorVariance, ReferenceDifference, RemovedEnergy
from medinterp.denoisers.classical import HeatEquation
from medinterp.errors import ConfigError, GridMismatch, InputError, MethodNotValid, PluginError
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, GaussianFilter, PeronaMalikStep, ReluNetwork
from medinterp.testing.oracles import LinearGaussian, linear_gaussian
from medinterp.volume import Grid, sphere

SHAPE = (16, 16, 16)
GRID = Grid(SHAPE, np.diag([1.0, 1.0, 1.0, 1.0]))
REGION = sphere(GRID, (8.0, 8.0, 8.0), 3.0)
SIGMA = {SCAN: torch.full((1, 1, 1, 1, 1), 0.7, dtype=torch.float64)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scan(seed=0):
    return {SCAN: 3 + torch.randn(1, 1, *SHAPE, generator=seeded(seed), dtype=torch.float64)}


def first_voxel(voxels, inside):
    return voxels[0, 0, 0, 0]


def test_every_registered_measure_is_one_and_knows_its_name():
    for name in registry.names("targets"):
        kind = registry.load("targets", name)
        assert issubclass(kind, Measure)
        assert kind.name == name


@pytest.mark.parametrize(
    "text",
    ["mean", "contrast:gap_mm=1,width_mm=2", "edge_sharpness:gap_mm=1,width_mm=2", "removed_energy",
     "reference_difference:reference=heat", "posterior_variance:stride=4",
     "custom:function=tests.unit.test_measures:first_voxel,function_unit=HU,linear=true"],
)  # fmt: skip
def test_a_measure_in_text_becomes_a_target_and_a_forward_that_can_be_explained(text):
    measure = parse_measure(text)
    target, forward = measure.target(REGION), measure.view(DenoiserForward(PeronaMalikStep()))
    assert isinstance(target, Target)
    assert measure.unit("HU")
    found = Saliency()(forward, scan(), SIGMA, target)
    assert np.isfinite(found.value)


def test_text_sets_options_with_their_types():
    assert parse_measure("contrast:gap_mm=1,width_mm=2.5") == Contrast(1.0, 2.5)
    assert parse_measure("posterior_variance:stride=4") == PosteriorVariance(stride=4)
    assert parse_measure("removed_energy:input_name=t1") == RemovedEnergy("t1")
    custom = parse_measure("custom:function=tests.unit.test_measures:first_voxel,linear=yes")
    assert isinstance(custom, Custom)
    assert custom.linear
    assert isinstance(parse_measure("reference_difference:reference=heat").reference, HeatEquation)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("beauty", PluginError, "known are"),
        ("contrast:gap=1", ConfigError, "the options are gap_mm, width_mm"),
        ("contrast:gap_mm=1,gap_mm=2", ConfigError, "written once"),
        ("contrast:gap_mm", ConfigError, "name=value"),
        ("contrast:gap_mm=wide", ConfigError, "not a float"),
        ("contrast:width_mm=0", ConfigError, "positive"),
        ("custom", ConfigError, "needs function"),
        ("custom:function=no.such.module:f", PluginError, "package.module:attribute"),
        ("custom:function=tests.unit.test_measures:first_voxel,linear=maybe", ConfigError, "not a bool"),
    ],
)
def test_text_that_is_wrong_is_refused_and_says_how_it_is_written(text, error, message):
    with pytest.raises(error, match=message):
        parse_measure(text)


def test_probes_that_a_crop_would_move_are_refused():
    with pytest.raises(ConfigError, match="choose one of"):
        PosteriorVariance(stride=3).view(DenoiserForward(PeronaMalikStep()))


def test_units_and_linearity_are_those_of_the_measurement():
    found = {name: registry.load("targets", name) for name in registry.names("targets")}
    linear = {"mean", "contrast"}
    for name in ("mean", "contrast", "edge_sharpness", "removed_energy", "posterior_variance"):
        assert found[name]().linear == (name in linear)
    units = {name: found[name]().unit("HU") for name in ("mean", "edge_sharpness", "removed_energy")}
    assert units == {"mean": "HU", "edge_sharpness": "1/mm", "removed_energy": "HU²"}
    assert PosteriorVariance().unit("1") == "1"
    assert ClassScore(lambda image: image).unit("HU") == "1"


# Views


def test_what_was_removed_has_the_gradient_of_scan_minus_image_on_both_ways():
    blur = GaussianFilter(1.0)
    measure, inputs = RemovedEnergy(), scan()
    found = Saliency()(measure.view(DenoiserForward(blur)), inputs, SIGMA, measure.target(REGION))
    removed = inputs[SCAN] - blur(inputs[SCAN], SIGMA[SCAN])
    inside = torch.from_numpy(REGION.mask.copy())
    assert found.value == pytest.approx(float(removed[0, 0][inside].square().mean()), rel=1e-12)
    weights = 2 * removed * inside / inside.sum()
    expected = weights - blur(weights, SIGMA[SCAN])  # the blur is its own transpose
    assert float((found.maps[SCAN] - expected).norm() / expected.norm()) <= 1e-12
    held = -blur(weights, SIGMA[SCAN])  # control: a scan taken for constant must give another map
    assert float((found.maps[SCAN] - held).norm() / held.norm()) > 0.1
    assert found.explained == "what was removed by: one denoising step"


def test_the_difference_to_a_reference_is_zero_for_the_reference_itself():
    heat = HeatEquation()
    measure, inputs = ReferenceDifference(heat), scan()
    itself = measure.view(DenoiserForward(heat))(inputs, SIGMA)
    assert not itself.any()
    other = measure.view(DenoiserForward(PeronaMalikStep()))(inputs, SIGMA)
    assert torch.equal(other, PeronaMalikStep()(inputs[SCAN], SIGMA[SCAN]) - heat(inputs[SCAN], SIGMA[SCAN]))


def test_a_reference_of_unknown_reach_makes_the_reach_unknown():
    assert ReferenceDifference(PeronaMalikStep()).radius(5) is None
    assert RemovedEnergy().radius(5) == 5
    assert Contrast().radius(None) is None


def short_range_world(size=16):
    """A linear Gaussian world whose correlations fall off within a few voxels (oracle 4)."""
    k2 = (2 * torch.pi * torch.fft.fftfreq(size, dtype=torch.float64)).square()
    spectrum = (1 + 0.5 * (k2[:, None, None] + 0.6 * k2[None, :, None] + 1.6 * k2[None, None, :])) ** -1.5
    return LinearGaussian(torch.full((1, 1, size, size, size), 3.0, dtype=torch.float64), spectrum)


@pytest.mark.parametrize(("stride", "tolerance"), [(2, 0.07), (4, 0.03), (8, 0.01)])  # measured 2.8, 2.4 and 0.8 %
def test_the_posterior_variance_is_that_of_the_linear_gaussian_world(stride, tolerance):
    world = short_range_world()
    measure, truth = PosteriorVariance(stride=stride), world.mmse(0.7)
    inputs = {SCAN: world.draw(1, seeded())}
    image = measure.view(DenoiserForward(world))(inputs, SIGMA)
    assert float((image - truth).square().mean() ** 0.5) / truth <= tolerance


def test_few_probes_must_fail_where_correlations_reach_across_the_image():
    world = linear_gaussian(16)
    image = Variance(DenoiserForward(world), stride=2)({SCAN: world.draw(1, seeded())}, SIGMA)
    assert float((image - world.mmse(0.7)).abs().mean()) > 0.2 * world.mmse(0.7)


def test_the_variance_of_a_piecewise_linear_network_has_no_gradient_but_can_be_perturbed():
    network, inputs = DenoiserForward(ReluNetwork(seeded())), scan()
    measure = PosteriorVariance()
    forward, target = measure.view(network), measure.target(REGION)
    try:
        gradient = Saliency()(forward, inputs, SIGMA, target).maps[SCAN]
        assert not gradient.any()
    except MethodNotValid:
        pass
    found = FeatureAblation(block_supervoxels(GRID, 8.0), Zero())(forward, inputs, SIGMA, target)
    assert found.maps[SCAN].any()


def test_views_need_to_know_which_of_several_inputs_is_meant():
    two, levels = {"a": scan()[SCAN], "b": scan(1)[SCAN]}, {"a": SIGMA[SCAN], "b": SIGMA[SCAN]}
    forward = lambda inputs, sigmas: inputs["a"]  # noqa: E731
    with pytest.raises(InputError, match="name one of a, b"):
        Removed(forward)(two, levels)
    with pytest.raises(InputError, match="no input 'c'"):
        Removed(forward, "c")(two, levels)
    assert torch.equal(Removed(forward, "b")(two, levels), two["b"] - two["a"])


def test_images_of_other_shapes_cannot_be_compared():
    cut = DenoiserForward(lambda x, sigma: x[..., 1:])
    with pytest.raises(GridMismatch, match="cannot be compared"):
        Difference(cut, DenoiserForward(PeronaMalikStep()))(scan(), SIGMA)


def test_fused_minus_single_is_a_difference_of_two_forwards():
    inputs, levels = {"a": scan()[SCAN], "b": scan(1)[SCAN]}, {"a": SIGMA[SCAN], "b": SIGMA[SCAN]}
    fused = lambda i, s: 0.25 * i["a"] + 0.75 * i["b"]  # noqa: E731
    single = lambda i, s: i["b"]  # noqa: E731
    target = RegionMean(torch.from_numpy(REGION.mask.copy()), "block")
    found = Saliency()(Difference(fused, single), inputs, levels, target)
    count = int(REGION.mask.sum())
    assert float(found.maps["a"].sum()) == pytest.approx(0.25)
    assert float(found.maps["b"].max()) == pytest.approx(0.0)
    assert float(found.maps["b"].min()) == pytest.approx(-0.25 / count)
