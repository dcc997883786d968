"""Growing a network: the function stays, the new parts learn, and what cannot grow is refused."""

import pytest
import torch

from medinterp.denoisers.network import BiasFreeUNet
from medinterp.errors import WeightsMismatch
from medinterp.testing.networks import random_network
from medinterp.training.growth import Size, fresh, grown, read_weights

SMALL = Size((4, 6, 8), (1, 2, 1))
IMAGE = torch.randn(2, 1, 24, 16, 32, generator=torch.Generator().manual_seed(0)) + 1
SIGMA = torch.full((1, 1, 1, 1, 1), 0.3)


@pytest.fixture(scope="module")
def small():
    return random_network(SMALL.widths, SMALL.blocks)


@pytest.mark.parametrize("blocks", [(1, 2, 1), (2, 2, 1), (3, 3, 4)])
def test_further_blocks_change_no_bit(small, blocks):
    larger = grown(small.state_dict(), Size(SMALL.widths, blocks), seed=1)
    assert Size.of(larger.state_dict()).blocks == blocks
    with torch.no_grad():
        assert torch.equal(small(IMAGE, SIGMA), larger(IMAGE, SIGMA))


@pytest.mark.parametrize("widths", [(5, 6, 8), (4, 9, 8), (4, 6, 11), (8, 12, 16)])
def test_further_channels_keep_the_function(small, widths):
    larger = grown(small.state_dict(), Size(widths, (2, 2, 2)), seed=1)
    with torch.no_grad():
        before, after = small(IMAGE, SIGMA), larger(IMAGE, SIGMA)
    # sums over more, zero, terms may be taken in another order
    assert torch.allclose(before, after, atol=1e-5)
    other = fresh(Size(widths, (2, 2, 2)), seed=1)
    assert not torch.allclose(before, other(IMAGE, SIGMA), atol=1e-2)  # control


def test_the_new_parts_receive_gradients_where_they_must(small):
    larger = grown(small.state_dict(), Size((6, 8, 10), (2, 3, 2)), seed=1)
    (larger(IMAGE, SIGMA) - 1).square().mean().backward()
    assert float(larger.head.weight.grad[:, 4:].abs().max()) > 0  # old outputs start to read the new channels
    assert float(larger.body.down[1].second.weight.grad.abs().max()) > 0
    assert float(larger.body.up[0].second.weight.grad.abs().max()) > 0


def test_growing_is_seeded_and_leaves_the_global_generator_alone(small):
    state = torch.random.get_rng_state()
    one, two, other = (grown(small.state_dict(), Size((6, 6, 8), (1, 2, 1)), seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.stem.weight, other.stem.weight)


@pytest.mark.parametrize("size", [Size((3, 6, 8), (1, 2, 1)), Size((4, 6, 8), (1, 1, 1)), Size((8, 8), (4, 4))])
def test_a_smaller_network_is_refused(small, size):
    with pytest.raises(WeightsMismatch, match="no number may become smaller"):
        grown(small.state_dict(), size, seed=0)


def test_sizes_are_read_off_weights():
    for size in (SMALL, Size((64, 96, 128), (2, 2, 1)), Size((4, 5, 6), (0, 1, 0))):
        assert Size.of(BiasFreeUNet(size.widths, size.blocks).state_dict()) == size


def test_weights_are_read_from_bundles_and_checkpoints(small, tmp_path):
    half = {name: value.half() for name, value in small.state_dict().items()}
    torch.save(half, tmp_path / "model.pt")
    torch.save({"average": half, "network": {}, "step": 3}, tmp_path / "checkpoint.pt")
    for name in ("model.pt", "checkpoint.pt"):
        assert Size.of(read_weights(tmp_path / name)) == SMALL


def test_what_holds_no_weights_is_refused_by_name(tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    for name in ("broken.pt", "absent.pt"):
        with pytest.raises(WeightsMismatch, match=name):
            read_weights(tmp_path / name)
    with pytest.raises(WeightsMismatch, match="no BiasFreeUNet"):
        grown({"conv.weight": torch.ones(1)}, SMALL, seed=0)
