"""Explaining on a crop: the same answer as on the whole volume, on odd shapes, near borders, in both precisions."""

import pytest
import torch

from medinterp.attribution import (
    Blurred,
    Box,
    CropOptions,
    InputXGradient,
    IntegratedGradients,
    NoiseResampled,
    RegionContrast,
    RegionMean,
    Saliency,
    explain_region,
)
from medinterp.attribution.crop import crop_box
from medinterp.denoisers.network import STRIDE, BiasFreeUNet, receptive_radius
from medinterp.errors import ConfigError, GridMismatch
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, GaussianFilter

SHAPE = (11, 9, 187)  # longer than twice the receptive radius along K, and no axis a multiple of the stride
MIDDLE, LOW, HIGH = (90, 94), (0, 3), (182, 187)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():  # the layers' own initialisation draws from the global generator
        torch.manual_seed(1)
        return BiasFreeUNet((2, 3, 4), (1, 1, 1)).requires_grad_(False)


def case(span, dtype=torch.float64, *, map_of_sigma=True):
    generator = torch.Generator().manual_seed(2)
    image = 1 + torch.rand((1, 1, *SHAPE), generator=generator, dtype=torch.float64).to(dtype)
    level = 0.1 + 0.1 * torch.rand((1, 1, *SHAPE), generator=generator, dtype=torch.float64).to(dtype)
    sigma = level if map_of_sigma else level[:, :, :1, :1, :1]
    mask, ring = torch.zeros(SHAPE, dtype=torch.bool), torch.zeros(SHAPE, dtype=torch.bool)
    mask[3:6, 2:5, span[0] : span[1]] = True
    ring[1:8, 1:7, max(span[0] - 2, 0) : span[1] + 2] = True
    return {SCAN: image}, {SCAN: sigma}, RegionContrast(mask, ring & ~mask, "block")


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("span", [MIDDLE, LOW, HIGH])
@pytest.mark.parametrize("map_of_sigma", [True, False])
def test_a_crop_of_the_receptive_field_equals_the_whole_volume(network, span, dtype, map_of_sigma):
    forward = DenoiserForward(network.to(dtype))
    inputs, sigmas, target = case(span, dtype, map_of_sigma=map_of_sigma)
    whole = InputXGradient()(forward, inputs, sigmas, target)
    crop = explain_region(InputXGradient(), forward, inputs, sigmas, target, radius=receptive_radius(network))
    assert crop.statistics["crop_voxels"] < inputs[SCAN].numel()
    assert crop.maps[SCAN].shape == inputs[SCAN].shape
    assert relative(crop.maps[SCAN], whole.maps[SCAN]) <= 1e-5
    # float32: a contrast loses a digit or two to the subtraction of two means
    assert abs(crop.value - whole.value) <= (1e-5 if dtype == torch.float32 else 1e-12) * abs(whole.value)
    assert abs(crop.noise_share[SCAN] - whole.noise_share[SCAN]) <= 1e-5 * abs(whole.value)
    assert crop.statistics["halo_error"] == 0


def test_a_crop_that_ignores_the_stride_must_fail(network):
    """The control: the same margin, started one voxel off the network's lattice."""
    forward, (inputs, sigmas, target) = DenoiserForward(network.double()), case(MIDDLE)
    whole = Saliency()(forward, inputs, sigmas, target)
    shifted = explain_region(
        Saliency(), forward, inputs, sigmas, target, radius=61, options=CropOptions(stride=1, measure_halo=False)
    )
    assert relative(shifted.maps[SCAN], whole.maps[SCAN]) > 1e-3


def test_a_blurred_baseline_widens_the_crop_so_that_the_answer_stays_the_same(network):
    forward, (inputs, sigmas, target) = DenoiserForward(network.double()), case(LOW)
    method = IntegratedGradients(Blurred(1.0), steps=2)
    whole = method(forward, inputs, sigmas, target)
    crop = explain_region(method, forward, inputs, sigmas, target, radius=receptive_radius(network))
    assert crop.statistics["crop_voxels"] < inputs[SCAN].numel()
    assert relative(crop.maps[SCAN], whole.maps[SCAN]) <= 1e-12


def test_a_baseline_that_looks_everywhere_is_explained_on_the_whole_volume():
    inputs, sigmas, target = case(MIDDLE)
    method = IntegratedGradients(NoiseResampled(torch.Generator().manual_seed(0)), steps=1)
    found = explain_region(method, DenoiserForward(GaussianFilter(1.0)), inputs, sigmas, target, radius=4)
    assert found.statistics["crop_voxels"] == inputs[SCAN].numel()


def test_without_a_radius_the_whole_volume_is_explained(network):
    forward, (inputs, sigmas, target) = DenoiserForward(network.double()), case(MIDDLE)
    whole = Saliency()(forward, inputs, sigmas, target)
    found = explain_region(Saliency(), forward, inputs, sigmas, target, radius=None)
    assert torch.equal(found.maps[SCAN], whole.maps[SCAN])


def test_the_error_of_a_smaller_halo_is_measured_and_falls_as_the_halo_grows(network):
    forward, (inputs, sigmas, target) = DenoiserForward(network.double()), case(MIDDLE)
    whole, errors = Saliency()(forward, inputs, sigmas, target), []
    for halo in (8, 24, 40):
        found = explain_region(Saliency(), forward, inputs, sigmas, target, radius=None, halo=halo)
        true_error = relative(found.maps[SCAN], whole.maps[SCAN])
        assert found.statistics["halo_error"] == pytest.approx(true_error, rel=1e-6)
        true_value_error = abs(found.value - whole.value) / abs(whole.value)
        assert found.statistics["halo_value_error"] == pytest.approx(true_value_error, rel=1e-6, abs=1e-12)
        assert found.evaluations == 2
        errors.append(true_error)
    assert errors[0] > errors[1] > errors[2] > 0


def test_where_the_exact_crop_is_much_larger_a_stride_more_is_the_reference(network):
    forward, (inputs, sigmas, target) = DenoiserForward(network.double()), case(MIDDLE)
    radius = receptive_radius(network)
    found = explain_region(Saliency(), forward, inputs, sigmas, target, radius=radius, halo=16)
    larger = crop_box(target.support(), 16 + STRIDE, STRIDE, SHAPE)
    assert found.statistics["halo_reference_voxels"] == larger.voxels
    assert 0 < found.statistics["halo_error"] < 0.5


def test_a_halo_that_was_not_measured_has_no_error_to_show(network):
    forward, (inputs, sigmas, target) = DenoiserForward(network.double()), case(MIDDLE)
    options = CropOptions(measure_halo=False)
    found = explain_region(Saliency(), forward, inputs, sigmas, target, radius=60, halo=8, options=options)
    assert "halo_error" not in found.statistics
    assert found.evaluations == 1


def test_boxes_start_and_end_on_the_stride_except_at_the_end_of_the_volume():
    assert crop_box(Box((20, 3, 30), (22, 5, 33)), 5, 8, (100, 100, 35)) == Box((8, 0, 24), (32, 16, 35))


def test_a_map_with_several_inputs_comes_back_for_each_on_the_full_grid():
    inputs, sigmas, _ = case(MIDDLE)
    inputs["b"], sigmas["b"] = inputs[SCAN] + 1, sigmas[SCAN][:, :, :1, :1, :1]
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[4, 4, 92] = True

    def forward(images, levels):
        return GaussianFilter(1.0)(images[SCAN] - images["b"], levels[SCAN])

    found = explain_region(Saliency(), forward, inputs, sigmas, RegionMean(mask, "voxel"), radius=4)
    expected = GaussianFilter(1.0).row(SHAPE, (4, 4, 92))
    assert torch.allclose(found.maps[SCAN][0, 0], expected, atol=1e-15)
    assert torch.allclose(found.maps["b"][0, 0], -expected, atol=1e-15)


def test_inputs_on_different_grids_are_refused():
    inputs, sigmas, target = case(MIDDLE)
    inputs["b"], sigmas["b"] = inputs[SCAN][..., 1:], sigmas[SCAN]
    with pytest.raises(GridMismatch, match="resample them onto one first"):
        explain_region(Saliency(), DenoiserForward(GaussianFilter(1.0)), inputs, sigmas, target, radius=4)


def test_a_target_outside_the_inputs_is_refused():
    inputs, sigmas, target = case(HIGH)
    inputs = {SCAN: inputs[SCAN][..., :150]}
    with pytest.raises(GridMismatch, match="outside the inputs"):
        explain_region(Saliency(), DenoiserForward(GaussianFilter(1.0)), inputs, sigmas, target, radius=4)


def test_a_noise_map_of_another_shape_is_refused():
    inputs, sigmas, target = case(MIDDLE)
    sigmas = {SCAN: sigmas[SCAN][..., :100]}
    with pytest.raises(GridMismatch, match="noise level of shape"):
        explain_region(Saliency(), DenoiserForward(GaussianFilter(1.0)), inputs, sigmas, target, radius=4)


def test_a_negative_margin_is_refused():
    inputs, sigmas, target = case(MIDDLE)
    with pytest.raises(ConfigError, match="margin of -1 voxels"):
        explain_region(Saliency(), DenoiserForward(GaussianFilter(1.0)), inputs, sigmas, target, radius=-1)
