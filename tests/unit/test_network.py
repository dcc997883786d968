"""The bias-free U-Net: its receptive radius is what its gradients reach, no more and no less."""

import pytest
import torch

from medinterp.denoisers.network import STRIDE, BiasFreeUNet, receptive_radius
from medinterp.testing.networks import random_network


def measured_reach(network, length, voxel):
    """Return how far along the first axis the gradient of one output voxel is not zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, length, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    sigma = torch.rand(1, 1, length, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    touched = torch.zeros(length, dtype=torch.bool)
    for gradient in torch.autograd.grad(network(x, sigma)[0, 0, voxel].sum(), (x, sigma)):
        touched |= (gradient[0, 0] != 0).any(dim=2).any(dim=1)
    where = touched.nonzero().flatten()
    return max(voxel - int(where[0]), int(where[-1]) - voxel)


@pytest.mark.parametrize("blocks", [(1, 0, 0), (1, 1, 1), (2, 1, 0), (1, 2, 1)])
def test_receptive_radius_is_the_reach_of_the_gradient(blocks):
    network = random_network((3, 3, 3), blocks).double()
    radius = receptive_radius(network)
    length = 2 * radius + 4 * STRIDE
    reach = max(measured_reach(network, length, radius + 2 * STRIDE + offset) for offset in range(STRIDE))
    assert reach == radius - 1


def test_default_network_reaches_72_voxels():
    assert receptive_radius(BiasFreeUNet((2, 2, 2), (1, 2, 1))) == 72


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 15, 17), (1, 1, 1), (3, 40, 2)])
def test_any_size_keeps_its_shape(shape):
    x = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    assert random_network()(x, torch.ones(1, 1, 1, 1, 1)).shape == x.shape


def test_single_tensor_call_estimates_the_noise_level():
    x = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0]).reshape(
        2, 1, 1, 1, 1
    )
    network = random_network()
    told = network(x, torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1, 1))
    assert float((network(x) - told).norm() / told.norm()) < 0.02  # the median of 4096 details: 2 % noise level error
    far = network(x, torch.tensor([3.0, 1.0]).reshape(2, 1, 1, 1, 1))
    assert float((network(x) - far).norm() / told.norm()) > 0.02  # control


def test_wrong_number_of_levels_is_refused():
    with pytest.raises(ValueError, match="three of each"):
        BiasFreeUNet((4, 4), (1, 1))


@pytest.mark.parametrize("offset", [60.0, -60.0])
def test_far_from_zero_an_offset_passes_through_unchanged(offset: float) -> None:
    # air is -1000 in HU: an intensity far below zero must be treated as one far above, not as one never seen
    generator = torch.Generator().manual_seed(3)
    network = BiasFreeUNet((8, 8, 8), (1, 1, 1)).double()
    x = torch.randn(1, 1, 24, 24, 24, generator=generator, dtype=torch.float64)
    sigma = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    removed = x - network(x + offset, sigma) + offset
    # with |local mean| above four sigma everywhere the features are the same to rounding
    assert torch.allclose(removed, x - network(x + 200.0, sigma) + 200.0, atol=1e-9)
