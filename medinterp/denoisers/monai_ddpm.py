"""Any MONAI diffusion network with its noise scheduler, as a denoiser (x, sigma) to E[x0 | x]."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from medinterp.denoisers.base import one_level
from medinterp.denoisers.focus import Triple
from medinterp.denoisers.intensity import FixedIntensity, Intensity
from medinterp.denoisers.noise_table import NoiseTable
from medinterp.denoisers.tiled import Span, spans
from medinterp.denoisers.weights import WEIGHTS_FILE, load_weights
from medinterp.errors import ConfigError, InputError, NonFinite

ROUNDING = 1e-6
"""A noise level this little beyond the table's ends is the end itself, rounded to float32."""
Box: TypeAlias = tuple[Triple, Triple]
"""First voxel, and one past the last, along I, J and K."""
ALL_AXES = (1, 2, 3, 4)
"""All but the batch: the noise level is one number for an image."""
PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class Windows:
    """Show the network one window of the scan at a time, as it was trained: memory of one window, whatever the scan.

    A voxel's value then depends on its own window and halo only (and on the intensity scale, which is the whole
    scan's). That is another function than the network on the whole scan, since GroupNorm and attention see less; it
    is the one that is run, and the one that is explained.

    Args:
        size: voxels along each axis that one window answers for; a multiple of the network's stride.
        halo: voxels of surroundings on every side.
    """

    size: int = 64
    halo: int = 16

    def along(self, length: int, stride: int) -> list[Span]:
        """Return the windows along one axis; they begin on multiples of the stride.

        Raises:
            ConfigError: the axis would be cut between two positions of the network's coarsest level.
        """
        return spans(length, self.size, self.halo, stride)


class DiffusionDenoiser(nn.Module):
    """A diffusion network as a denoiser, by an exact change of variables; trainable, and without state.

    The scan x = x0 + sigma n, in the network's intensity unit, is the network's own noisy state times sqrt(1 +
    sigma^2). So the state is entered at the scan's own noise and nothing is added to it; the timestep follows from
    sigma; and the network's answer (noise, clean image or velocity) is turned into E[x0 | x]. The scaling is exact at
    every sigma. Only the label, the timestep, is interpolated between the integers the network may have been trained
    at; at an integer timestep a step of ``Heun(correct=False)`` is the scheduler's own DDIM step, and one of
    ``ReverseSDE(jacobian_products=0)`` its DDPM step, without their clipping, which has no gradient.

    The noise must be of one level over the volume: such a network takes one timestep. GroupNorm and attention let
    every voxel depend on every other: there is no receptive radius, and another crop or window gives another answer.

    Args:
        network: called as ``network(state, timesteps)``, as ``DiffusionModelUNet`` is; a second half of its output
            channels (a learned variance) is not used.
        scheduler: the scheduler the network was trained with; only its table and ``prediction_type`` are read.
        intensity: which unit of the network a scan's unit is; by default the same.
        timesteps: "continuous", or "nearest" for a network that takes integers only; the label's noise level is then
            wrong by up to ``NoiseTable.rounding_error`` (20 % at the lowest levels of a linear schedule).
        stride: voxels between two positions of the coarsest level; the border is repeated up to a multiple of it.
            By default read from a ``DiffusionModelUNet``.
        checkpoint: keep only the network's input for the backward pass, and compute the rest again when it comes: the
            memory of one evaluation (of one window) instead of all of them, for about 1.4 times the time.
        windows: show the network one window at a time; None for the whole scan at once.

    Raises:
        ConfigError: the scheduler has no table, or predicts something unknown.
    """

    def __init__(
        self,
        network: nn.Module,
        scheduler: Any,
        intensity: Intensity = FixedIntensity(),  # noqa: B008 - frozen
        *,
        timesteps: str = "continuous",
        stride: int | None = None,
        checkpoint: bool = False,
        windows: Windows | None = None,
    ) -> None:
        super().__init__()
        self.prediction = str(getattr(scheduler, "prediction_type", "none"))
        if self.prediction not in PREDICTIONS:
            raise ConfigError(
                f"a scheduler for '{self.prediction}': expected one that predicts {', '.join(PREDICTIONS)}"
            )
        if timesteps not in ("continuous", "nearest"):
            raise ConfigError(f"timesteps '{timesteps}': choose continuous or nearest")
        self.network = network
        self.table = NoiseTable.of(scheduler)
        self.intensity = intensity
        self.rounded = timesteps == "nearest"
        levels = len(getattr(network, "block_out_channels", (1,)))
        self.stride = 2 ** (levels - 1) if stride is None else stride
        self.checkpoint = checkpoint
        self.windows = windows

    def forward(
        self,
        x: Float[Tensor, "B C I J K"],
        sigma: Float[Tensor, "#B #C #I #J #K"] | None = None,
        box: Box | None = None,
    ) -> Float[Tensor, "B C I J K"]:
        """Return E[x0 | x], in the unit of ``x``.

        Args:
            x: noisy image, any size.
            sigma: noise standard deviation in the unit of ``x``; one level per image, as a number or a constant map.
                Without it (the single-tensor call that MONAI's tools make) it is estimated from the finest diagonal
                detail, and moved into the range the network knows.
            box: first voxel, and one past the last, of the only part of the estimate that will be looked at. Windows
                that do not touch it are left out, and outside of it is no estimate.

        Raises:
            InputError: the level varies over space, or is not one the network was trained at.
        """
        level = self._blind_level(x) if sigma is None else one_level(sigma, over=ALL_AXES)
        units = self.intensity(x, level)
        image, noise = (x - units.offset) / units.scale, level / units.scale
        self._check_range(noise, units.scale)
        shrink = (1 + noise.square()).rsqrt()
        answer = self._see(shrink * image, noise, box)
        if self.prediction == "epsilon":
            estimate = image - noise * answer
        elif self.prediction == "sample":
            estimate = answer
        else:
            estimate = shrink.square() * image - noise * shrink * answer
        return units.offset + units.scale * estimate

    def sigma_range(self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"]) -> tuple[float, float]:
        """Return the lowest and highest noise level that all of these images can be denoised at, in their unit."""
        scale = self.intensity(x, one_level(sigma, over=ALL_AXES)).scale
        low, high = self.table.range
        return low * float(scale.max()), high * float(scale.min())

    def _check_range(self, noise: Tensor, scale: Tensor) -> None:
        low, high = self.table.range
        if bool(((noise >= low * (1 - ROUNDING)) & (noise <= high * (1 + ROUNDING))).all()):
            return
        level = noise * scale
        raise InputError(
            f"a noise level of {float(level.min()):.4g} to {float(level.max()):.4g}: this network was trained from "
            f"{low * float(scale.max()):.4g} to {high * float(scale.min()):.4g} (in the scan's unit). Below, take "
            "fewer steps or a schedule that ends higher (KarrasSchedule(end=...)); above, use another model; if both "
            "seem wrong, the intensity scaling does not fit the scan"
        )

    def _see(self, state: Tensor, noise: Tensor, box: Box | None) -> Tensor:
        """Return the network's answer to its state (B, C, I, J, K), whole or window by window; zero outside a box."""
        if self.windows is None:
            return self._answer(state, noise)
        shape = state.shape[2:]
        first, stop = ((0, 0, 0), shape) if box is None else box
        axes = [
            [cut for cut in self.windows.along(length, self.stride) if cut.core_start < high and cut.core_stop > low]
            for length, low, high in zip(shape, first, stop, strict=True)
        ]
        cores = []
        for i, j, k in product(*axes):
            seen = self._answer(state[:, :, i.start : i.stop, j.start : j.stop, k.start : k.stop], noise)
            cores.append(seen[:, :, _core(i), _core(j), _core(k)])
        for dim in (4, 3, 2):  # the last axis varies fastest; concatenation, unlike assignment, suits every transform
            count = len(axes[dim - 2])
            cores = [torch.cat(cores[n : n + count], dim=dim) for n in range(0, len(cores), count)]
        ends = [(axis[0].core_start, length - axis[-1].core_stop) for axis, length in zip(axes, shape, strict=True)]
        return functional.pad(cores[0], [margin for end in reversed(ends) for margin in end])

    def within(self, box: Box) -> Callable[[Tensor, Tensor], Tensor]:
        """Return this denoiser for those who will look at a box of its estimate only: cheaper, and the same there."""
        return partial(self, box=box)

    def _answer(self, state: Tensor, noise: Tensor) -> Tensor:
        """Return what the network says of a state at a noise level in its own unit."""
        timestep = self.table.timestep(noise.reshape(-1).expand(len(state)))
        precise = torch.promote_types(state.dtype, torch.float32)  # bfloat16 cannot tell timestep 513 from 514
        label = timestep.round().long() if self.rounded else timestep.to(precise)
        shape = state.shape[2:]
        pad = [p for size in reversed(shape) for p in (0, -size % self.stride)]
        padded = functional.pad(state, pad, mode="replicate") if any(pad) else state
        if self.checkpoint:
            answer = checkpoint(self._call, padded, label, use_reentrant=False, preserve_rng_state=False)
        else:
            answer = self._call(padded, label)
        return answer[:, : state.shape[1], : shape[0], : shape[1], : shape[2]]

    def _call(self, state: Tensor, label: Tensor) -> Tensor:
        with _differentiable_attention(state):
            answer: Tensor = self.network(state, label)
        return answer

    def _blind_level(self, x: Tensor) -> Tensor:
        finest = x
        for axis in (2, 3, 4):
            finest = finest.diff(dim=axis) / 2**0.5 if x.shape[axis] > 1 else finest
        level = (finest.abs().flatten(1).median(dim=1).values / 0.6745).reshape(-1, 1, 1, 1, 1)
        scale = self.intensity(x, level).scale
        low, high = self.table.range
        return torch.minimum(torch.maximum(level, low * scale), high * scale)


def _core(cut: Span) -> slice:
    return slice(cut.core_start - cut.start, cut.core_stop - cut.start)


def _differentiable_attention(state: Tensor) -> AbstractContextManager[None]:
    """Choose the plain attention under forward-mode differentiation: torch's fused one has no such rule."""
    if forward_ad.unpack_dual(state).tangent is None:  # type: ignore[no-untyped-call]
        return nullcontext()
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


class PretrainedDiffusion:
    """A bundle's diffusion network with its weights, as a ``Denoiser``; parameters frozen, gradients to inputs flow.

    Every part is a literal in a bundle's configuration: ``network`` a ``DiffusionDenoiser`` of a
    ``monai.networks.nets.DiffusionModelUNet``, a ``monai.networks.schedulers.DDPMScheduler`` and an intensity.

    Args:
        network: the wrapped network. The weights are the inner, MONAI network's, so that MONAI can use them alone.
        bundle_root: folder of the bundle; its ``configs/metadata.json`` holds the weights' hash under
            ``medinterp.weights_sha256``.
        weights: the state dict's path inside the bundle.
    """

    radius: None = None
    """Every voxel can influence every other: there is no receptive radius, and no crop is exact."""

    def __init__(self, network: DiffusionDenoiser, bundle_root: str, weights: str = str(WEIGHTS_FILE)) -> None:
        root = Path(bundle_root)
        metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
        expected = metadata.get("medinterp", {}).get("weights_sha256")
        self.weights_sha256 = load_weights(network.network, root / weights, expected_sha256=expected)
        self.network = network.eval().requires_grad_(False)

    def to(self, device: torch.device) -> "PretrainedDiffusion":
        """Move the network; returns itself."""
        self.network.to(device)
        return self

    def within(self, box: Box) -> Callable[[Tensor, Tensor], Tensor]:
        """Return this denoiser for those who will look at a box of its estimate only: cheaper, and the same there."""
        return partial(self, box=box)

    def sigma_range(self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"]) -> tuple[float, float]:
        """Return the lowest and highest noise level that all of these images can be denoised at, in their unit."""
        return self.network.sigma_range(x, sigma)

    def __call__(
        self,
        x: Float[Tensor, "B C I J K"],
        sigma: Float[Tensor, "#B #C #I #J #K"],
        *,
        cond: Tensor | None = None,
        box: Box | None = None,
    ) -> Float[Tensor, "B C I J K"]:
        """Return E[x0 | x], in the unit of ``x``; ``cond`` is accepted and unused, ``box`` as in the network.

        Raises:
            InputError: the level varies over space, or is not one the network was trained at.
            NonFinite: the network returned NaN or infinity.
        """
        estimate: Tensor = self.network(x, sigma, box)
        if not torch.isfinite(estimate).all():
            raise NonFinite("the network returned NaN or infinity; does the bundle's intensity scaling fit this scan?")
        return estimate
