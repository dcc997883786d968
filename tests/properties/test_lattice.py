"""Where feature voxels lie: the centre that follows from the operations is the centre of what the voxel looks at."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from medinterp.attribution.activations import block_maps
from medinterp.attribution.lattice import Lattice, cells
from medinterp.attribution.trace import trace
from medinterp.denoisers.network import ResidualBlock
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward
from medinterp.testing.networks import random_network
from medinterp.volume import Grid

SIGMA = {SCAN: torch.full((1, 1, 1, 1, 1), 0.5, dtype=torch.float64)}


def oblique_grid(shape):
    """A grid with three angles, unequal spacing and an origin away from the scanner's."""
    rotation = np.linalg.qr(np.array([[1.0, 0.3, -0.2], [-0.25, 1.0, 0.4], [0.1, -0.35, 1.0]]))[0]
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array([0.9, 1.1, 2.5])
    affine[:3, 3] = [-83.0, 41.5, 12.25]
    return Grid(shape, affine)


def symmetric(network):
    """Give a bias-free network weights that look evenly around every voxel: what it sees then has a centre."""
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.first.weight.data.zero_()  # only the skip is left
    network.stem.weight.data.fill_(0)
    network.stem.weight.data[:, 0, 1, 1, 1] = 1.0
    for level in (network.body, network.body.inner):
        level.shrink.weight.data.fill_(0.1)
    return network.double()


def centre_seen(features, voxel, image):
    """The centre of mass of what one feature voxel looks at, in voxels of the scan."""
    (seen,) = torch.autograd.grad(features[(0, slice(None), *voxel)].sum(), image, retain_graph=True)
    weight = seen[0, 0].abs()
    position = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=weight.dtype) for n in weight.shape], indexing="ij"))
    return ((position * weight).flatten(1).sum(1) / weight.sum()).numpy()


@pytest.mark.parametrize(("block", "stride"), [("stem", 2), ("body.shrink", 4), ("body.inner.shrink", 8)])
def test_a_feature_voxel_lies_where_it_looks_to_a_micrometre(block, stride):
    shape = (48, 48, 48)
    scan, network = oblique_grid(shape), symmetric(random_network())
    image = (3 + torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)).detach()
    (found,) = block_maps(DenoiserForward(network), {SCAN: image}, SIGMA, block)
    outputs = []
    handle = network.get_submodule(block).register_forward_hook(lambda module, given, output: outputs.append(output))
    image.requires_grad_()
    network(image, SIGMA[SCAN])
    handle.remove()
    voxel = tuple(n // 2 for n in found.values.shape[2:])
    seen_mm = scan.to_world(centre_seen(outputs[0], voxel, image))
    assert found.exact
    assert np.linalg.norm(found.grid(scan).to_world(voxel) - seen_mm) <= 1e-3
    assert found.lattice.offset == (Fraction(stride - 1, 2),) * 3
    without_offset = scan.affine @ np.diag([stride, stride, stride, 1.0])  # the control: scaling alone
    assert np.linalg.norm(without_offset[:3, :3] @ voxel + without_offset[:3, 3] - seen_mm) > 0.5


def convolution(kernel, stride, padding, dilation):
    layer = nn.Conv3d(1, 1, kernel, stride, padding, dilation, bias=False)
    layer.weight.data.fill_(1.0)
    return layer


def transposed(kernel, stride, padding):
    layer = nn.ConvTranspose3d(1, 1, kernel, stride, min(padding, (kernel - 1) // 2), bias=False)
    layer.weight.data.fill_(1.0)
    return layer


LAYERS = st.one_of(
    st.builds(convolution, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)),
    st.builds(transposed, st.integers(2, 4), st.integers(1, 2), st.integers(0, 1)),
    st.builds(nn.AvgPool3d, st.integers(1, 3), st.integers(1, 2)),
    st.builds(nn.ReplicationPad3d, st.integers(0, 2)),
    st.builds(nn.ConstantPad3d, st.tuples(*[st.integers(0, 2)] * 6), st.just(0.0)),
    st.just(nn.Upsample(scale_factor=2, mode="trilinear")),
    st.just(nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True)),
)


@settings(max_examples=25, deadline=None)
@given(layers=st.lists(LAYERS, min_size=1, max_size=3))
def test_the_centre_follows_through_any_chain_of_layers(layers):
    network = nn.Sequential(*layers).double().requires_grad_(False)
    image = torch.ones(1, 1, 25, 25, 25, dtype=torch.float64)
    found = trace(DenoiserForward(lambda x, sigma: network(x)), {SCAN: image}, SIGMA)
    image.requires_grad_()
    features = network(image)
    voxel = tuple(n // 2 for n in features.shape[2:])
    (looked_at,) = torch.autograd.grad(features[(0, slice(None), *voxel)].sum(), image, retain_graph=True)
    reached = looked_at[0, 0].nonzero()
    assume(
        len(reached) > 0 and reached.min() > 0 and reached.max() < 24
    )  # cut off at the border, its centre is another
    near = features.detach().clone().requires_grad_()
    lattice = found.output_lattice
    expected = np.array([float(s) * v + float(o) for s, v, o in zip(lattice.scale, voxel, lattice.offset, strict=True)])
    interpolates = any(isinstance(layer, nn.Upsample | nn.ConvTranspose3d) for layer in layers)
    # an interpolated voxel or one of a transposed convolution sees whole voxels only, to either side of its centre
    slack = max(float(s) for s in (Fraction(1), *lattice.scale)) + 3 if interpolates else 1e-6
    assert near.shape == features.shape
    assert np.abs(centre_seen(features, voxel, image) - expected).max() <= slack


def test_interpolating_upsampling_keeps_the_place_of_a_linear_ramp():
    """A ramp is reproduced by linear interpolation, so that its values say where the voxels are."""
    ramp = torch.arange(9, dtype=torch.float64)[None, None, :, None, None].expand(1, 1, 9, 9, 9).contiguous()
    for corners in (False, True):
        layer = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=corners)
        found = trace(DenoiserForward(lambda x, sigma, layer=layer: layer(x)), {SCAN: ramp}, SIGMA)
        scale, offset = float(found.output_lattice.scale[0]), float(found.output_lattice.offset[0])
        inner = slice(2, -2)  # the border is repeated
        expected = scale * torch.arange(18, dtype=torch.float64) + offset
        assert torch.allclose(found.output[0, 0, inner, 4, 4], expected[inner], atol=1e-12)


def test_a_transposed_convolution_undoes_the_place_of_a_strided_one():
    down, up = nn.Conv3d(1, 1, 2, 2, bias=False), nn.ConvTranspose3d(1, 1, 2, 2, bias=False)
    image = torch.ones(1, 1, 8, 8, 8)
    found = trace(lambda inputs, sigmas: up(down(inputs[SCAN])), {SCAN: image}, SIGMA)
    assert found.output_lattice == Lattice()


def test_paths_that_are_half_a_voxel_apart_say_so():
    down, up = nn.Conv3d(1, 1, 3, 2, 1, bias=False), nn.Upsample(scale_factor=2, mode="trilinear")
    image = torch.ones(1, 1, 8, 8, 8)
    found = trace(lambda inputs, sigmas: inputs[SCAN] + up(down(inputs[SCAN])), {SCAN: image}, SIGMA)
    assert found.output_lattice.spread == Fraction(1, 4)
    assert found.output_lattice.offset == (Fraction(-1, 4),) * 3


@pytest.mark.parametrize("move", [lambda x: x.flip(2), lambda x: x.roll(3, 2), lambda x: x.transpose(2, 3)])
def test_what_moves_voxels_loses_their_place(move):
    found = trace(lambda inputs, sigmas: move(inputs[SCAN]), {SCAN: torch.ones(1, 1, 8, 8, 8)}, SIGMA)
    assert found.depends
    assert found.output_lattice is None


def test_slices_and_strided_slices_shift_the_place():
    found = trace(lambda inputs, sigmas: inputs[SCAN][..., 3:, 1::2, :-2], {SCAN: torch.ones(1, 1, 9, 9, 9)}, SIGMA)
    assert found.output_lattice == Lattice(
        (Fraction(1), Fraction(2), Fraction(1)), (Fraction(3), Fraction(1), Fraction(0))
    )


def test_cells_have_their_centre_between_voxels():
    assert cells((16, 8, 8), (4, 4, 8)) == Lattice(
        (Fraction(4), Fraction(2), Fraction(1)), (Fraction(3, 2), Fraction(1, 2), Fraction(0))
    )
    assert cells((10, 8, 8), (4, 4, 8)) is None
