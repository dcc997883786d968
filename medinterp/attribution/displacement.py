"""How far the ledger depends on perfect registration: the credits again with a modality moved by one voxel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from medinterp.attribution.modality import Ledger

Shift: TypeAlias = tuple[int, int, int]
ShiftedLedger: TypeAlias = Callable[[str, Shift], Ledger]
"""The ledger with one modality moved by whole voxels along I, J and K."""

_SHIFTS: tuple[Shift, ...] = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
SENSITIVE = 0.1
"""Share of all credit that may change hands at one voxel of displacement before the ledger carries a warning."""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What one voxel of misregistration would do to the credits.

    Args:
        maps: for each modality the largest change of its credit at a voxel, over the moved modalities and directions.
        share: the worst case's summed change of credit over the summed credit: 0 means that registration does not
            matter, 0.1 that a tenth of all credit would change hands.
        target_share: the same for the measurement, when the ledger has one.
        worst: modality and direction of the worst case, in words.
    """

    maps: Mapping[str, Tensor]
    share: float
    target_share: float | None
    worst: str

    @property
    def warning(self) -> str | None:
        """What the reader has to know, None where the credits are steady."""
        if self.share <= SENSITIVE and (self.target_share is None or self.target_share <= SENSITIVE):
            return None
        measured = "" if self.target_share is None else f" and {100 * self.target_share:.0f} % of the measurement's"
        return (
            f"the credits depend on registration: one voxel of displacement ({self.worst}) would change "
            f"{100 * self.share:.0f} % of the credit{measured}; do not read the ledger finer than the registration is"
        )


def displacement_sensitivity(ledger: Ledger, shifted: ShiftedLedger, moved: Sequence[str]) -> Sensitivity:
    """Compare a ledger with those of every modality in ``moved`` displaced by one voxel in six directions."""
    names = list(ledger.credits)
    maps = {m: torch.zeros_like(ledger.total) for m in names}
    whole = sum(float(c.abs().sum()) for c in ledger.credits.values())
    share, target_share, worst = 0.0, 0.0, "none"
    measured = sum(abs(v) for v in ledger.target_credits.values())
    for name in moved:
        for shift in _SHIFTS:
            other = shifted(name, shift)
            changes = {m: (other.credits[m] - ledger.credits[m]).abs() for m in names}
            maps = {m: torch.maximum(maps[m], changes[m]) for m in names}
            here = sum(float(c.sum()) for c in changes.values()) / max(whole, 1e-300)
            if here > share:
                share, worst = here, f"{name} by {_words(shift)}"
            if measured > 0:
                apart = sum(abs(other.target_credits[m] - ledger.target_credits[m]) for m in names)
                target_share = max(target_share, apart / measured)
    return Sensitivity(maps, share, target_share if measured > 0 else None, worst)


def shift_voxels(image: Tensor, shift: Shift) -> Tensor:
    """Return an image moved by whole voxels; what comes in at the border repeats the outermost voxel."""
    for axis, step in zip((2, 3, 4), shift, strict=True):
        if step:
            place = torch.arange(image.shape[axis], device=image.device) - step
            image = image.index_select(axis, place.clamp(0, image.shape[axis] - 1))
    return image


def _words(shift: Shift) -> str:
    axis = next(n for n, step in enumerate(shift) if step)
    return f"{shift[axis]:+d} voxel along {'IJK'[axis]}"
