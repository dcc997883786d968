"""Training pairs: views of real scans and synthetic anatomy, with planted structures and simulated noise."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.errors import ConfigError
from medinterp.training.anatomy import PhantomBank
from medinterp.training.corruption import Corruption
from medinterp.training.draws import chance, uniform, whole
from medinterp.training.structures import plant_lesions, plant_vessels
from medinterp.training.views import Views, random_contrast


@dataclass(frozen=True)
class TrainingScan:
    """A scan to cut patches from: voxels (I, J, K) scaled to about [0, 1] and the noise it has of its own."""

    voxels: Float[Tensor, "I J K"]
    own_sigma: float
    weight: float = 1.0


@dataclass(frozen=True)
class Batch:
    """One training batch: clean and noisy images (B, 1, I, J, K) and the sigma map the network is told."""

    clean: Tensor
    noisy: Tensor
    sigma: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(*(part.to(device, non_blocking=True) for part in (self.clean, self.noisy, self.sigma)))

    def pin_memory(self) -> "Batch":
        """Return the batch in memory from which copies to a GPU need not be waited for; called by torch's loader."""
        return Batch(*(part.pin_memory() for part in (self.clean, self.noisy, self.sigma)))


@runtime_checkable
class BatchSource(Protocol):
    """Where training batches come from: MRI here, CT beside it, anything of yours."""

    def draw(self, batch: int, size: int, generator: torch.Generator, *, step: int = 0) -> Batch:
        """Return ``batch`` samples of ``size`` cubed, the same for the same generator state and step."""
        ...


@dataclass(frozen=True)
class PatchSource:
    """Draw MRI training batches from scans and phantoms.

    Args:
        scans: real scans to cut from.
        phantoms: synthetic anatomy, or none.
        phantom_share: share of samples cut from phantoms; all of them where no scan is clean or large enough.
        own_noise_ratio: a scan is used only at noise levels this many times its own noise.
        lesions: share of samples with one to four lesions planted.
        vessels: share of samples with one or two vessels planted.
        views: how volumes are cut and shown.
        corruption: how noise is drawn.
    """

    scans: Sequence[TrainingScan]
    phantoms: PhantomBank | None = None
    phantom_share: float = 0.15
    own_noise_ratio: float = 2.5
    lesions: float = 0.3
    vessels: float = 0.05
    views: Views = field(default_factory=Views)
    corruption: Corruption = field(default_factory=Corruption)

    def draw(self, batch: int, size: int, generator: torch.Generator, *, step: int = 0) -> Batch:
        """Return ``batch`` samples of ``size`` cubed.

        Raises:
            ConfigError: no scan is clean and large enough, and there are no phantoms.
        """
        samples = [self._sample(size, generator, step) for _ in range(batch)]
        return Batch(*(torch.stack(parts)[:, None] for parts in zip(*samples, strict=True)))

    def _sample(self, size: int, generator: torch.Generator, step: int) -> tuple[Tensor, Tensor, Tensor]:
        level = self.corruption.level(generator)
        volume, own = self._volume(size, level, generator, step)
        steep = level >= 4 * self.own_noise_ratio * own  # a steep curve would make the scan's own noise count
        clean = random_contrast(self.views.draw(volume, size, generator), generator, steep=steep)
        if chance(self.lesions, generator):
            clean = plant_lesions(clean, level, whole(1, 4, generator), generator)
        if chance(self.vessels, generator):
            clean = plant_vessels(clean, whole(1, 2, generator), generator)
        brightness = uniform(0.5, 1.2, generator)
        clean = clean * brightness
        sigma = self.corruption.sigma_map(level * brightness, clean.shape, generator)
        noisy = self.corruption.apply(clean, sigma, generator)
        return clean, noisy, self.corruption.told(sigma, generator)

    def _volume(self, size: int, level: float, generator: torch.Generator, step: int) -> tuple[Tensor, float]:
        """Pick a volume for this noise level and say how much noise it has of its own."""
        fit = [s for s in self.scans if s.own_sigma * self.own_noise_ratio <= level and min(s.voxels.shape) >= size]
        synthetic = chance(self.phantom_share, generator) or not fit
        if synthetic and self.phantoms is not None and self.phantoms.size >= size:
            return self.phantoms.pick(step, generator), 0.0
        if not fit:
            raise ConfigError(
                f"no training scan is both {size} voxels along every axis and clean enough for noise of {level:.3f} "
                "of bright tissue; add scans, allow phantoms in the corpus, or train on smaller patches"
            )
        weights = torch.tensor([scan.weight for scan in fit])
        scan = fit[int(torch.multinomial(weights, 1, generator=generator))]
        return scan.voxels, scan.own_sigma
