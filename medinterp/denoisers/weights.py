"""Pretrained denoisers: a network, its weights, and the check that they belong together."""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medinterp.denoisers.base import Denoiser
from medinterp.denoisers.focus import Triple
from medinterp.denoisers.network import BiasFreeUNet, receptive_radius
from medinterp.denoisers.streamed import Streamed
from medinterp.denoisers.tiled import BYTES_PER_VOXEL
from medinterp.errors import BundleError, NonFinite, WeightsMismatch

WEIGHTS_FILE = Path("models") / "model.pt"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def load_weights(network: nn.Module, path: Path, *, expected_sha256: str | None = None) -> str:
    """Load a state dict into a network and return the file's SHA-256; half-precision storage becomes float32.

    Raises:
        BundleError: the file is missing.
        WeightsMismatch: the hash differs from the expected one, or the names or shapes are another network's.
    """
    if not path.is_file():
        raise BundleError(f"no weights at {path.parent.name}/{path.name} in the bundle; run 'make train' or reinstall")
    digest = file_sha256(path)
    if expected_sha256 is not None and digest != expected_sha256:
        raise WeightsMismatch(
            f"{path.name} has SHA-256 {digest[:12]}..., the bundle's metadata says {expected_sha256[:12]}...; "
            "the weights were changed or only half copied: restore the bundle"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsMismatch(f"{path.name} is no readable state dict; it may be half copied: restore it") from error
    try:
        network.load_state_dict({name: value.float() for name, value in state.items()})
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise WeightsMismatch(f"{path.name} does not fit {type(network).__name__}: {detail}") from error
    return digest


class PretrainedDenoiser:
    """A bundle's network with its weights, as a ``Denoiser``; parameters are frozen, gradients to inputs flow.

    Args:
        network: module called as ``network(x, sigma)``.
        bundle_root: folder of the bundle; its ``models/model.pt`` holds the weights and, under the key
            ``medinterp.weights_sha256`` of ``configs/metadata.json``, their hash.
    """

    def __init__(self, network: nn.Module, bundle_root: str) -> None:
        root = Path(bundle_root)
        metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
        expected = metadata.get("medinterp", {}).get("weights_sha256")
        self.weights_sha256 = load_weights(network, root / WEIGHTS_FILE, expected_sha256=expected)
        # convolutions run nearly twice as fast on a CPU with channels last, in either direction
        self.network = network.eval().requires_grad_(False)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # torch does not declare it

    @property
    def radius(self) -> int | None:
        """Voxels around an output voxel that can influence it; None for a network that sees the whole volume."""
        return receptive_radius(self.network) if isinstance(self.network, BiasFreeUNet) else None

    def to(self, device: torch.device) -> "PretrainedDenoiser":
        """Move the network; returns itself."""
        self.network.to(device)
        return self

    def within(self, box: tuple[Triple, Triple]) -> Denoiser:
        """Return a denoiser whose estimate is this one's inside a box of voxels and nothing outside, for less work.

        Args:
            box: first voxel, and one past the last, along I, J and K.
        """
        return _Checked(self.network.within(box)) if isinstance(self.network, BiasFreeUNet) else self

    @property
    def bytes_per_voxel(self) -> int:
        """Memory that an estimate without a graph takes for each voxel."""
        streamed = self._streamed()
        return BYTES_PER_VOXEL if streamed is None else streamed.bytes_per_voxel

    def without_graph(self) -> Denoiser:
        """Return a denoiser with the same estimate to rounding, made in less time and memory, that has no gradient."""
        streamed = self._streamed()
        return self if streamed is None else _Checked(streamed)

    def _streamed(self) -> Streamed | None:
        """Return our network slab by slab, where it is our network and runs on a CPU."""
        if not isinstance(self.network, BiasFreeUNet) or self.network.haar.device.type != "cpu":
            return None
        return Streamed(self.network)

    def __call__(
        self,
        x: Float[Tensor, "B C I J K"],
        sigma: Float[Tensor, "#B #C #I #J #K"],
        *,
        cond: Tensor | None = None,
    ) -> Float[Tensor, "B C I J K"]:
        """Return E[x0 | x], in the unit of ``x``; ``cond`` is accepted and unused.

        Raises:
            NonFinite: the network returned NaN or infinity.
        """
        return _require_finite(self.network(x, sigma))


@dataclass(frozen=True, eq=False)
class _Checked:
    """A denoiser without conditions whose estimate is refused when it is not finite."""

    denoiser: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, sigma: Tensor, *, cond: Tensor | None = None) -> Tensor:
        return _require_finite(self.denoiser(x, sigma))


def _require_finite(estimate: Tensor) -> Tensor:
    if not torch.isfinite(estimate).all():
        raise NonFinite("the network returned NaN or infinity; are the scan's values within +-1e30?")
    return estimate
