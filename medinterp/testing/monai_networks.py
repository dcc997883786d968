"""Small instances of the networks people bring: nine of MONAI's and our own, with random weights, ready to explain."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medinterp.testing.attribution_oracles import SCAN
from medinterp.testing.networks import random_network

Build = Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class NetworkCase:
    """A network as the forward of one scan.

    Args:
        name: of the network.
        network: in evaluation mode, its weights frozen.
        shape: voxels it can take.
        call: calls the network on an image and its noise level.
    """

    name: str
    network: nn.Module
    shape: tuple[int, int, int]
    call: Callable[[nn.Module, Tensor, Tensor], Tensor]

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        """Return the output as an image; a classifier's scores as channels of one voxel."""
        output = self.call(self.network, inputs[SCAN], sigmas[SCAN])
        return output.reshape(*output.shape, *[1] * (5 - output.ndim))

    def scan(self, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return a scan of the right size and its noise level."""
        generator = torch.Generator().manual_seed(seed)
        image = 3 + torch.randn((1, 1, *self.shape), generator=generator)
        return {SCAN: image}, {SCAN: torch.full((1, 1, 1, 1, 1), 0.7)}


def _alone(network: nn.Module, image: Tensor, sigma: Tensor) -> Tensor:
    output: Tensor = network(image)
    return output


def _with_time(network: nn.Module, image: Tensor, sigma: Tensor) -> Tensor:
    output: Tensor = network(image, torch.full((len(image),), 3, device=image.device))
    return output


def _with_sigma(network: nn.Module, image: Tensor, sigma: Tensor) -> Tensor:
    output: Tensor = network(image, sigma)
    return output


def _recipes() -> Mapping[str, tuple[Build, int | tuple[int, int, int], Callable[..., Tensor]]]:
    from monai.networks import nets  # slow to import

    volume: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1}
    return {
        "UNet": (lambda: nets.UNet(**volume, channels=(4, 8, 8), strides=(2, 2), num_res_units=1), 16, _alone),
        "SegResNet": (lambda: nets.SegResNet(3, 8, 1, 1, blocks_down=(1, 1), blocks_up=(1,)), 16, _alone),
        "DynUNet": (
            lambda: nets.DynUNet(3, 1, 1, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 8)), 16, _alone,
        ),
        "BasicUNet": (lambda: nets.BasicUNet(**volume, features=(4, 4, 4, 8, 8, 4)), 32, _alone),
        "DenseNet121": (
            lambda: nets.DenseNet121(3, 1, 2, init_features=8, growth_rate=4, block_config=(2, 2, 2, 2)), 32, _alone,
        ),
        "ResNet-3D": (
            lambda: nets.ResNet("basic", (1, 1, 1, 1), (8, 8, 16, 16), n_input_channels=1, num_classes=2), 32, _alone,
        ),
        "VNet": (lambda: nets.VNet(3, 1, 1), 16, _alone),
        "SwinUNETR": (
            lambda: nets.SwinUNETR(1, 1, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=4),
            (64, 32, 32), _alone,
        ),
        "DiffusionModelUNet": (
            lambda: nets.DiffusionModelUNet(
                **volume, num_res_blocks=(1, 1), channels=(8, 8), attention_levels=(False, True),
                norm_num_groups=4, num_head_channels=8,
            ),
            16, _with_time,
        ),
        "BiasFreeUNet": (random_network, 16, _with_sigma),
    }  # fmt: skip


def network_cases(*names: str, seed: int = 0) -> Iterator[NetworkCase]:
    """Yield the networks of these names, or all ten, one after the other, with random weights.

    What begins as zero is filled as well, as training would: biases and running means, without which a classifier is
    homogeneous by accident, and the last layer of a diffusion network, without which its every map is exactly zero.
    """
    recipes = _recipes()
    for name in names or recipes:
        build, size, call = recipes[name]
        with torch.random.fork_rng(devices=[]):  # the layers' own initialisation draws from the global generator
            torch.manual_seed(seed)
            network = build()
        _fill_zeros(network, torch.Generator().manual_seed(seed))
        shape = (size, size, size) if isinstance(size, int) else size
        yield NetworkCase(name, network.eval().requires_grad_(False), shape, call)


def _fill_zeros(network: nn.Module, generator: torch.Generator) -> None:
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point() and not tensor.any() and tensor.ndim:
            scale = 0.1 if tensor.ndim == 1 else tensor[0].numel() ** -0.5
            tensor.data = scale * torch.randn(tensor.shape, generator=generator)
