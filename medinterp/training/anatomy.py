"""Synthetic anatomy without end: random label maps painted with random contrasts, textures and bias fields."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medinterp.training.draws import chance, seeded, smooth_field, uniform, whole
from medinterp.training.structures import plant_lesions, plant_vessels

_STREAM = 2  # keeps the phantoms' random numbers apart from the batches' with the same seed


def phantom(size: int, generator: torch.Generator) -> Float[Tensor, "I J K"]:
    """Draw a synthetic anatomy of ``size`` cubed voxels, intensities from 0 to 1.5.

    Regions are where one of several smooth random fields is largest; thin sheets (folds), vessels and lesions lie
    across them. Each region has its own intensity and texture. All is drawn on a grid twice as fine and averaged
    down, so borders carry partial volume. In a quarter of the draws one axis is up to four times coarser anatomy, as
    in scans of thick slices. Half of the draws have air around the body, exactly zero.

    Source:
        Billot et al., "SynthSeg", Med Image Anal 86 (2023): contrasts drawn at random over label maps carry over to
        contrasts never seen.
    """
    fine = (2 * size,) * 3
    stretch = _stretch(generator)
    labels, count = _regions(fine, stretch, generator)
    image = _paint(labels, count, stretch, generator)
    image = plant_vessels(image, whole(0, 6, generator), generator, widest=4.0)
    if chance(0.5, generator):
        body = smooth_field(fine, 2, generator)
        image = torch.where(body > uniform(0.3, 1.2, generator), 0.0, image)
    image = functional.avg_pool3d(image[None, None], 2)[0, 0]
    image = plant_lesions(image, uniform(0.02, 0.1, generator), whole(0, 8, generator), generator)
    bias = torch.exp(uniform(0.0, 0.3, generator) * smooth_field(image.shape, 2, generator))
    return (image * bias).clamp(0, 1.5)


def _stretch(generator: torch.Generator) -> tuple[int, int, int]:
    """Draw by how much finer the anatomy is along each axis, counted in voxels: (1, 1, 1) most of the time."""
    factors = [1, 1, 1]
    if chance(0.25, generator):
        factors[whole(0, 2, generator)] = whole(2, 4, generator)
    return factors[0], factors[1], factors[2]


def _cells(cells: float, stretch: tuple[int, int, int]) -> list[int]:
    return [max(1, round(cells * factor)) for factor in stretch]


def _regions(
    shape: tuple[int, int, int], stretch: tuple[int, int, int], generator: torch.Generator
) -> tuple[Tensor, int]:
    """Draw a label map and say how many labels it has."""
    bulk, sheets = whole(2, 5, generator), whole(0, 3, generator)
    highest = torch.full(shape, -torch.inf)
    labels = torch.zeros(shape, dtype=torch.uint8)
    for label in range(bulk):
        cells = _cells(2 * 10 ** uniform(0.0, 1.0, generator), stretch)
        level = smooth_field(shape, cells, generator) + uniform(-0.7, 0.3, generator)
        labels.masked_fill_(level > highest, label)
        highest = torch.maximum(highest, level)
    for label in range(bulk, bulk + sheets):
        level = smooth_field(shape, _cells(2 * 10 ** uniform(0.2, 1.1, generator), stretch), generator)
        inside = (level - uniform(-1.0, 1.0, generator)).abs() < uniform(0.04, 0.3, generator)
        labels.masked_fill_(inside, label)
    return labels, bulk + sheets


def _paint(labels: Tensor, count: int, stretch: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Give each label an intensity and its share of one random texture; a third of the labels have none."""
    value = 0.05 + 0.95 * torch.rand(count, generator=generator)
    value = value / value.max()  # bright tissue is 1, as in the scaled scans
    strength = (0.24 * torch.rand(count, generator=generator) - 0.08).clamp_min(0)
    texture = smooth_field(labels.shape, _cells(uniform(8.0, 56.0, generator), stretch), generator)
    index = labels.int()
    return value[index] * (1 + strength[index] * texture)


@dataclass(frozen=True)
class PhantomBank:
    """Phantoms drawn when first asked for and replaced little by little, so that the supply has no end.

    What a slot holds depends on the seed and the step's number alone, whoever asks and in whatever order.

    Args:
        seed: of the training.
        size: edge in voxels.
        slots: phantoms held at a time; each takes 4 bytes a voxel.
        lifetime: training steps after which a slot's phantom is replaced.
    """

    seed: int
    size: int = 88
    slots: int = 24
    lifetime: int = 960
    _kept: dict[int, tuple[int, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def pick(self, step: int, generator: torch.Generator) -> Float[Tensor, "I J K"]:
        """Return one of the phantoms that are current at a step."""
        slot = whole(0, self.slots - 1, generator)
        version = (step + slot * self.lifetime // self.slots) // self.lifetime  # staggered: not all on one step
        version_kept, kept = self._kept.get(slot, (-1, torch.empty(0)))
        if version_kept != version:
            kept = phantom(self.size, seeded(self.seed, _STREAM, slot, version))
            self._kept[slot] = (version, kept)
        return kept
