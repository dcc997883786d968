"""Small random networks for tests: reproducible without touching the global generator."""

import torch
from torch import nn

from medinterp.denoisers.network import BiasFreeUNet


def random_network(
    widths: tuple[int, int, int] = (4, 4, 4), blocks: tuple[int, int, int] = (1, 1, 1), *, seed: int = 0
) -> BiasFreeUNet:
    """Return a bias-free network with random, frozen weights; the default has 10 thousand of them."""
    with torch.random.fork_rng(devices=[]):  # the layers' own initialisation draws from the global generator
        network = BiasFreeUNet(widths, blocks)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        fan_in = parameter[0].numel()
        parameter.data = torch.randn(parameter.shape, generator=generator) * (1.0 / fan_in) ** 0.5
    return network.requires_grad_(False).eval()


def add_biases(network: BiasFreeUNet, *, seed: int = 0) -> BiasFreeUNet:
    """Give every convolution of a network a random bias, in place: the control that must fail the exact accounts."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            draw = 0.5 * torch.randn(layer.out_channels, generator=generator)
            layer.bias = nn.Parameter(draw.to(layer.weight), requires_grad=False)
    return network
