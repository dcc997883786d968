"""How the network is run in training: in float32, or its convolutions in bfloat16 where that pays."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medinterp.denoisers.network import BiasFreeUNet
from medinterp.errors import ConfigError, DeviceError

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainingInferer:
    """Call a network with an image and its noise level on a device; the role MONAI calls an inferer.

    In bfloat16 only the learned convolutions of a ``BiasFreeUNet`` are, not its Haar bands: an intensity of 1 is
    rounded by up to 0.004 there, a third of the smallest noise trained on. Another network is autocast as a whole.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        precision: "float32", "bfloat16", or "auto": bfloat16 on a GPU, float32 on a CPU.
    """

    device: str = "cpu"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision '{self.precision}': expected one of {', '.join(PRECISIONS)}")
        if self.place.type == "cuda" and not torch.cuda.is_available():
            raise DeviceError(f"device '{self.device}' was asked for, and torch finds no GPU; give 'cpu'")

    @property
    def place(self) -> torch.device:
        """The torch device."""
        return torch.device(self.device)

    @property
    def in_bfloat16(self) -> bool:
        """Whether convolutions run in bfloat16."""
        return self.precision == "bfloat16" or (self.precision == "auto" and self.place.type == "cuda")

    def __call__(
        self, inputs: Float[Tensor, "B C I J K"], network: nn.Module, sigma: Float[Tensor, "#B 1 #I #J #K"]
    ) -> Float[Tensor, "B C I J K"]:
        """Return the network's estimate of the clean image in float32."""
        if not self.in_bfloat16:
            estimate: Tensor = network(inputs, sigma)
            return estimate
        if not isinstance(network, BiasFreeUNet):
            with torch.autocast(self.place.type, dtype=torch.bfloat16):
                return network(inputs, sigma).float()
        features = network.features(inputs, sigma)
        with torch.autocast(self.place.type, dtype=torch.bfloat16):
            removed = network.head(network.body(network.stem(features)))
        return network.subtract(inputs, removed.float())
