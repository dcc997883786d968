"""A block read piece by piece: the same features, in the same place, as of the whole scan at once."""

import pytest
import torch

from medinterp.attribution import Box, block_maps
from medinterp.attribution.block_reader import BlockReader
from medinterp.denoisers.network import receptive_radius
from medinterp.errors import ConfigError, DeviceError
from medinterp.testing.networks import random_network

SHAPE = (176, 20, 17)
"""Longer than two receptive radii along one axis; the others end off the stride, where the network pads."""


@pytest.fixture(scope="module")
def network():
    return random_network()


@pytest.fixture(scope="module")
def scan():
    return 3 + torch.randn((1, 1, *SHAPE), generator=torch.Generator().manual_seed(0))


def reader(network, image, *, radius=None, limit=None, sigma=None):
    level = torch.full((1, 1, 1, 1, 1), 0.7) if sigma is None else sigma
    return BlockReader(lambda x, s: network(x["scan"], s["scan"]), "scan", image, level, radius, max_voxels=limit)


BLOCKS = ["body.down.0.relu", "body.inner.inner", "body.up"]


@pytest.mark.parametrize("block", BLOCKS)
def test_pieces_hold_the_features_of_the_whole_at_its_places(network, scan, block):
    sigma = 0.5 + torch.rand((1, 1, *SHAPE), generator=torch.Generator().manual_seed(1))
    whole = reader(network, scan, sigma=sigma)
    radius = receptive_radius(network)
    limit = (radius + 96) * SHAPE[1] * SHAPE[2]
    steps = []
    pieces = reader(network, scan, radius=radius, limit=limit, sigma=sigma).read(block, on_step=steps.append)
    expected = whole.read(block)
    assert steps[-1].total > 1
    assert pieces.lattice == expected.lattice
    # float32 sums in another order
    assert torch.allclose(pieces.values, expected.values, atol=1e-5)


def test_too_thin_surroundings_must_change_the_features(network, scan):
    thin = reader(network, scan, radius=8, limit=64 * SHAPE[1] * SHAPE[2]).read("body.inner.inner")
    expected = reader(network, scan).read("body.inner.inner")
    assert not torch.allclose(thin.values, expected.values, atol=1e-3)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_box_holds_its_part_of_the_whole(network, scan, block):
    whole = reader(network, scan).read(block)
    part = reader(network, scan, radius=receptive_radius(network)).read(block, box=Box((83, 3, 2), (101, 12, 9)))
    assert part.lattice.scale == whole.lattice.scale
    shift = [
        (a - b) / s for a, b, s in zip(part.lattice.offset, whole.lattice.offset, whole.lattice.scale, strict=True)
    ]
    at = tuple(slice(int(s), int(s) + n) for s, n in zip(shift, part.values.shape[2:], strict=True))
    assert all(s.denominator == 1 for s in shift)
    assert torch.allclose(part.values, whole.values[(..., *at)], atol=1e-5)
    scale = float(whole.lattice.scale[0])
    first, last = (float(part.lattice.offset[0]) + scale * n for n in (0, part.values.shape[2] - 1))
    assert first <= 83 + scale / 2
    assert last >= 100 - scale / 2


def test_it_reads_what_the_exhaustive_function_reads(network, scan):
    forward = reader(network, scan).forward
    (known,) = block_maps(forward, {"scan": scan}, {"scan": torch.full((1, 1, 1, 1, 1), 0.7)}, "body.inner.down.0")
    found = reader(network, scan).read("body.inner.down.0")
    assert torch.equal(found.values, known.values)
    assert found.lattice == known.lattice


def test_nothing_after_the_block_is_computed(network, scan):
    ran = []
    handle = network.head.register_forward_pre_hook(lambda *_: ran.append("head"))
    opened = reader(network, scan, radius=receptive_radius(network))
    opened.choose("body.down.0")
    ran.clear()
    opened.read("body.down.0")
    assert not ran
    opened.read("head")
    assert ran == ["head"]
    handle.remove()


def test_blocks_are_listed_with_channels_voxels_and_calls(network, scan):
    listed = {info.name: info for info in reader(network, scan, radius=receptive_radius(network)).blocks()}
    assert set(listed) <= {name for name, _ in network.named_modules()}
    coarse = listed["body.inner.inner"]
    assert (coarse.voxels, coarse.exact, coarse.calls) == ((8.0, 8.0, 8.0), True, 1)
    assert listed["body.down.0.relu"].rectified
    assert not coarse.rectified


def test_the_default_is_the_coarsest_block_and_for_parts_the_last_that_has_no_sign(network, scan):
    opened = reader(network, scan)
    assert opened.choose(None).startswith("body.inner.inner")
    assert opened.choose(None, rectified=True) == "body.inner.inner.down.0.relu"


def test_wrong_questions_are_refused(network, scan):
    opened = reader(network, scan, radius=receptive_radius(network))
    with pytest.raises(ConfigError, match="no block 'tail'"):
        opened.choose("tail")
    with pytest.raises(ConfigError, match=r"call 1 of the block 'body.up', which ran 1 times"):
        opened.read("body.up", 1)
    with pytest.raises(ConfigError, match=r"channel 999 .* expected 0 to"):
        opened.read("head").channel(999)
    with pytest.raises(DeviceError, match="allow more memory"):
        reader(network, scan, radius=receptive_radius(network), limit=1000).read("head")
