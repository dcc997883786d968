"""Grad-CAM: Captum's on the block's own grid, signed, in the right place, with its sum kept on the scan's voxels."""

import numpy as np
import pytest
import torch
from captum import attr
from torch import nn

from medinterp.attribution import BlockMap, ClassLogit, GradCam, GuidedGradCam, RegionMean, WeightedSum, block_maps
from medinterp.attribution.lattice import cells
from medinterp.errors import ConfigError, MethodNotValid
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward
from medinterp.testing.networks import random_network
from medinterp.volume import Grid

SHAPE = (32, 32, 32)
SIGMAS = {SCAN: torch.full((1, 1, 1, 1, 1), 0.7, dtype=torch.float64)}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SCANS = {SCAN: 3 + normal(1, 1, *SHAPE)}


def block_at(voxel, size=4):
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[tuple(slice(v, v + size) for v in voxel)] = True
    return RegionMean(mask, "block")


def everywhere():
    return RegionMean(torch.ones(SHAPE, dtype=torch.bool), "all")


@pytest.fixture
def network():
    return random_network().double()


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.mark.parametrize("name", ["stem", "body.down.0", "body.inner.inner", "head"])
def test_grad_cam_equals_captums_without_its_final_relu(network, name):
    target = everywhere()
    found = GradCam(name, pooled=True).block_maps(DenoiserForward(network), SCANS, SIGMAS, target)[SCAN]
    captum = attr.LayerGradCam(lambda image: target(network(image, SIGMAS[SCAN])), network.get_submodule(name))
    theirs = captum.attribute(SCANS[SCAN].clone().requires_grad_(), relu_attributions=False)
    assert relative(found.values, theirs) <= 1e-10
    assert float(found.values.min()) < 0 < float(found.values.max())


@pytest.mark.parametrize("name", ["stem", "body", "head"])
def test_unpooled_the_sum_is_what_flows_through_the_block(network, name):
    """The network adds what it removes to the scan, so everything but the scan's own mean flows through these."""
    target = block_at((12, 14, 16))
    found = GradCam(name)(DenoiserForward(network), SCANS, SIGMAS, target)
    through = found.value - float(target(SCANS[SCAN]))
    assert found.total() == pytest.approx(through, rel=1e-9)


def test_pooled_the_sum_is_another(network):
    """The control of the above: one weight a channel."""
    found = GradCam("body", pooled=True)(DenoiserForward(network), SCANS, SIGMAS, everywhere())
    through = found.value - float(everywhere()(SCANS[SCAN]))
    assert abs(found.total() - through) > 0.01 * abs(through)


def test_the_map_on_the_scan_keeps_its_sum_and_its_centre(network):
    forward, target = DenoiserForward(network), block_at((12, 14, 16))
    coarse = GradCam("body.inner").block_maps(forward, SCANS, SIGMAS, target)[SCAN]
    fine = GradCam("body.inner")(forward, SCANS, SIGMAS, target).maps[SCAN]
    assert coarse.exact
    assert fine.shape == SCANS[SCAN].shape
    assert float(fine.sum()) == pytest.approx(float(coarse.values.sum()), rel=1e-9)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_an_impulse_on_the_coarse_grid_lands_at_the_same_world_point(stride):
    affine = np.diag([0.9, 1.2, 2.0, 1.0])
    affine[:3, 3] = [-20, 5, 40]
    scan, shape = Grid(SHAPE, affine), tuple(n // stride for n in SHAPE)
    values = torch.zeros(1, 1, *shape, dtype=torch.float64)
    voxel = tuple(n // 2 for n in shape)
    values[(0, 0, *voxel)] = 1.0
    impulse = BlockMap(values, cells(SHAPE, shape), True, "block", 0)
    for fine in (impulse.on_scan(SHAPE), impulse.spread_over_scan(SHAPE)):
        weight = (fine[0, 0] / fine.sum()).numpy()
        position = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
        centre_mm = scan.to_world((position * weight[..., None]).reshape(-1, 3).sum(axis=0))
        assert np.linalg.norm(centre_mm - impulse.grid(scan).to_world(voxel)) <= 1e-3
    naive = nn.functional.interpolate(values, SHAPE, mode="trilinear", align_corners=True)[0, 0]
    shifted = scan.to_world((position * (naive / naive.sum()).numpy()[..., None]).reshape(-1, 3).sum(axis=0))
    assert np.linalg.norm(shifted - impulse.grid(scan).to_world(voxel)) > 0.05  # the control: corners aligned


def test_the_map_stays_near_a_small_region_where_a_pooled_one_is_refused(network):
    target = block_at((4, 4, 4), 2)
    fine = GradCam("body.inner.inner")(DenoiserForward(network), SCANS, SIGMAS, target).maps[SCAN].abs()
    assert float(fine[..., 24:, 24:, 24:].sum() / fine.sum()) <= 1e-3
    with pytest.raises(MethodNotValid, match="does not look"):
        GradCam("body.inner.inner", pooled=True)(DenoiserForward(network), SCANS, SIGMAS, target)


def test_each_call_of_a_block_can_be_asked_for(network):
    def twice(x, sigma):
        return network(network(x, sigma), 0.5 * sigma)

    forward, target = DenoiserForward(twice), block_at((12, 14, 16))
    maps = [GradCam("head", call=n).block_maps(forward, SCANS, SIGMAS, target)[SCAN] for n in (0, 1, -1)]
    assert (maps[0].call, maps[1].call, maps[2].call) == (0, 1, 1)
    assert torch.equal(maps[1].values, maps[2].values)
    assert relative(maps[0].values, maps[1].values) > 0.01
    with pytest.raises(ConfigError, match="ran 2 times"):
        GradCam("head", call=2).block_maps(forward, SCANS, SIGMAS, target)


def test_a_block_of_a_downstream_classifier_can_be_explained(network):
    head = nn.Sequential(nn.Conv3d(1, 3, 3, stride=4, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten()).double().eval()
    forward, target = DenoiserForward(network), ClassLogit(head, 2, SHAPE, "logit")
    found = GradCam("1:0").block_maps(forward, SCANS, SIGMAS, target)[SCAN]
    assert found.values.shape[2:] == (8, 8, 8)
    assert [float(s) for s in found.lattice.scale] == [4.0] * 3
    assert [float(o) for o in found.lattice.offset] == [0.0] * 3


def test_a_block_that_mixes_inputs_is_refused_and_separate_calls_are_kept_apart(network):
    scans, sigmas = {"a": SCANS[SCAN], "b": 2 * SCANS[SCAN]}, {"a": SIGMAS[SCAN], "b": SIGMAS[SCAN]}
    target = block_at((12, 14, 16))
    apart = GradCam("head")(lambda i, s: network(i["a"], s["a"]) - network(i["b"], s["b"]), scans, sigmas, target)
    assert relative(apart.maps["a"], apart.maps["b"]) > 0.01
    with pytest.raises(MethodNotValid, match="mixes"):
        GradCam("head")(lambda i, s: network(i["a"] + i["b"], s["a"]), scans, sigmas, target)


def test_an_unknown_block_lists_the_known_ones(network):
    with pytest.raises(ConfigError, match=r"stem, body\.down\.0"):
        GradCam("bottleneck")(DenoiserForward(network), SCANS, SIGMAS, block_at((12, 14, 16)))


def test_without_a_name_it_is_the_coarsest_block(network):
    found = GradCam().block_maps(DenoiserForward(network), SCANS, SIGMAS, block_at((12, 14, 16)))[SCAN]
    assert found.values.shape[2:] == (4, 4, 4)
    assert found.block == "body.inner.inner"


def test_guided_grad_cam_is_the_product_of_its_halves(network):
    from medinterp.attribution import GuidedBackprop

    forward, target = DenoiserForward(network), block_at((12, 14, 16))
    found = GuidedGradCam(GradCam("stem"))(forward, SCANS, SIGMAS, target).maps[SCAN]
    cam = GradCam("stem").block_maps(forward, SCANS, SIGMAS, target)[SCAN].on_scan(SHAPE)
    assert torch.equal(found, GuidedBackprop()(forward, SCANS, SIGMAS, target).maps[SCAN] * cam)


def test_features_are_those_before_an_activation_overwrites_them():
    convolution, act = nn.Conv3d(1, 2, 3, padding=1).double(), nn.ReLU(inplace=True)
    forward = DenoiserForward(lambda x, sigma: act(convolution(x)).sum(dim=1, keepdim=True))
    (found,) = block_maps(forward, SCANS, SIGMAS, "", WeightedSum(torch.ones(SHAPE, dtype=torch.float64), "sum"))
    assert torch.equal(found.values, convolution(SCANS[SCAN]).detach())
    assert float(found.values.min()) < 0
