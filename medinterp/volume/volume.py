"""A scan or a map: immutable voxels on a grid, with unit, modality and provenance."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Shaped

from medinterp.errors import GridMismatch, InputError, NonFiniteInput
from medinterp.volume.grid import Grid
from medinterp.volume.provenance import Provenance, Step


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan or a map.

    Args:
        voxels: values (C, I, J, K), converted to float32 and made read-only.
        grid: where the voxels are.
        unit: unit of the values ("HU", "a.u.", "1" for a ratio).
        modality: DICOM modality of the scan ("MR", "CT").
        provenance: source and steps.

    Raises:
        InputError: the voxels do not fit the grid.
        NonFiniteInput: a value is NaN or infinite.
    """

    voxels: Float32[np.ndarray, "C I J K"]
    grid: Grid
    unit: str
    modality: str
    provenance: Provenance

    def __post_init__(self) -> None:
        voxels = np.array(self.voxels, dtype=np.float32, order="C")
        if voxels.ndim != 4 or voxels.shape[1:] != self.grid.shape:
            raise InputError(f"voxels of shape {voxels.shape} on a grid of {self.grid.shape}: expected (C, I, J, K)")
        bad = voxels.size - int(np.isfinite(voxels).sum())
        if bad:
            raise NonFiniteInput(
                f"{bad} of {voxels.size} voxels are NaN or infinite; replace or mask them before running medinterp"
            )
        voxels.setflags(write=False)
        object.__setattr__(self, "voxels", voxels)

    def derive(self, voxels: Shaped[np.ndarray, "C I J K"], step: Step, *, unit: str | None = None) -> "Volume":
        """Return new values on the same grid: the only way from Volume to Volume that keeps the grid."""
        kept = self.unit if unit is None else unit
        return Volume(np.asarray(voxels, dtype=np.float32), self.grid, kept, self.modality, self.provenance.then(step))

    def require_same_grid(self, other: "Volume", what: str) -> None:
        """Raise GridMismatch, naming ``what`` the other volume is, unless both share one grid."""
        why = self.grid.mismatch(other.grid)
        if why is not None:
            raise GridMismatch(
                f"{what} is on another grid than the scan: {why}; resample it onto the scan first (medinterp never "
                "resamples silently)"
            )
