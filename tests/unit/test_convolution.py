"""A convolution in two halves is the convolution, and only small batches of one are halved."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from medinterp.denoisers import convolution
from medinterp.denoisers.convolution import Convolution, in_one_piece


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("size", range(1, 8))
def test_a_convolution_in_halves_is_the_convolution(size, biased):
    generator = torch.Generator().manual_seed(0)
    layer = Convolution(3, 5).double().requires_grad_(False)
    x = torch.randn(1, 3, size, 4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    if biased:  # as controls make it, to see what is lost with a bias
        layer.bias = nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64), requires_grad=False)
    whole = functional.conv3d(x, layer.weight, layer.bias, padding=1)
    weights = torch.randn(whole.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad((whole * weights).sum(), x)
    (found,) = torch.autograd.grad((layer(x) * weights).sum(), x)
    assert torch.allclose(layer(x), whole, rtol=1e-12, atol=1e-12)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_only_small_batches_of_one_are_halved(monkeypatch):
    layer, batches = Convolution(2, 2), []
    plain = functional.conv3d
    monkeypatch.setattr(functional, "conv3d", lambda x, *a, **k: batches.append(len(x)) or plain(x, *a, **k))
    monkeypatch.setattr(convolution, "SMALL", 2 * 6 * 6)
    for batch, size in ((1, 6), (1, 7), (3, 6)):
        layer(torch.ones(batch, 2, size, size, size))
    with in_one_piece():
        layer(torch.ones(1, 2, 6, 6, 6))
    assert batches == [2, 1, 3, 1]
