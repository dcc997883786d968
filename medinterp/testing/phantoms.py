"""A synthetic head with known truth: its image in each modality on any grid, its lesion, and its noise."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from medinterp.errors import InputError
from medinterp.testing.anatomy import LESION, Field, Tissue, layers, waves
from medinterp.volume import Grid, Provenance, Source, Step, Volume

FRAME_UID = "2.25.282374049872930458761230984756120398475"
UNITS: Mapping[str, str] = MappingProxyType({"T1": "a.u.", "T2": "a.u.", "FLAIR": "a.u.", "CT": "HU"})
DICOM_MODALITIES: Mapping[str, str] = MappingProxyType({"T1": "MR", "T2": "MR", "FLAIR": "MR", "CT": "CT"})

# One row a tissue: T1-weighted gradient echo, T2-weighted spin echo, FLAIR (arbitrary units), CT (HU). Calcium is in
# the CT alone: in MR it takes the value of the white matter around it, so it is a structure private to one modality.
_TABLE = {
    Tissue.AIR: (0, 0, 0, -1000),
    Tissue.SKIN: (230, 130, 140, 30),
    Tissue.FAT: (430, 300, 280, -90),
    Tissue.MUSCLE: (210, 85, 110, 40),
    Tissue.BONE: (18, 12, 12, 1100),
    Tissue.MARROW: (250, 160, 150, 700),
    Tissue.CSF: (80, 480, 30, 6),
    Tissue.GREY: (265, 265, 240, 39),
    Tissue.WHITE: (400, 180, 185, 29),
    Tissue.DEEP_GREY: (305, 225, 215, 37),
    Tissue.PALLIDUM: (355, 160, 175, 36),
    Tissue.STEM: (370, 200, 200, 30),
    Tissue.DURA: (190, 70, 110, 55),
    Tissue.BLOOD: (60, 25, 30, 50),
    Tissue.VITREOUS: (75, 490, 40, 8),
    Tissue.LESION: (310, 370, 370, 17),
    Tissue.CALCIFICATION: (400, 180, 185, 260),
}
INTENSITIES: Mapping[str, Mapping[Tissue, float]] = MappingProxyType(
    {name: MappingProxyType({t: float(row[n]) for t, row in _TABLE.items()}) for n, name in enumerate(UNITS)}
)
BIAS = 0.1
TEXTURE = 0.02
_CHUNK = 200_000


def head(modality: str, grid: Grid) -> Float32[np.ndarray, "I J K"]:
    """Return the noise-free image of the synthetic head on a grid.

    Every voxel is the mean over sub-samples at most 1.1 mm apart (at least 2x2x2), so borders carry partial volume.
    MR images carry a smooth receive field of up to 10 % either way and a faint texture; CT only the texture, in HU.

    Args:
        modality: "T1", "T2", "FLAIR" (a.u.) or "CT" (HU).
        grid: where to image; any orientation, spacing or shear.

    Raises:
        InputError: an unknown modality.
    """
    if modality not in INTENSITIES:
        raise InputError(f"the phantom has no modality '{modality}': expected one of {', '.join(INTENSITIES)}")
    counts = [max(2, int(np.ceil(mm / 1.1))) for mm in grid.spacing_mm]
    width = float(np.mean([mm / n for mm, n in zip(grid.spacing_mm, counts, strict=True)]))
    offsets = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in counts), indexing="ij"), axis=-1)
    offsets = offsets.reshape(-1, 3)
    index = np.stack(np.unravel_index(np.arange(np.prod(grid.shape)), grid.shape), axis=-1)
    image = np.empty(len(index), dtype=np.float32)
    step = max(1, _CHUNK // len(offsets))
    for start in range(0, len(index), step):
        sub = (index[start : start + step, None] + offsets).reshape(-1, 3)
        values = _paint(modality, grid.to_world(sub).astype(np.float32), width)
        image[start : start + step] = values.reshape(-1, len(offsets)).mean(axis=1)
    return image.reshape(grid.shape)


def _paint(modality: str, points: Field, width_mm: float) -> Field:
    """Lay the tissues over one another at points (N, 3), each border a ramp ``width_mm`` wide."""
    table = INTENSITIES[modality]
    image = np.full(len(points), table[Tissue.AIR], dtype=np.float32)
    for tissue, distance in layers(points):
        cover = np.clip(0.5 - distance / np.float32(width_mm), 0, 1)
        image += cover * (np.float32(table[tissue]) - image)
    texture = TEXTURE * (waves(71, 9.0, 12, spread=0.5)(points) + waves(72, 28.0, 6)(points)) / np.sqrt(2)
    if UNITS[modality] == "HU":
        return image + 40 * texture.astype(np.float32) * np.clip((image + 100) / 100, 0, 1)
    return image * (1 + texture) * (1 + bias_field(points))


def bias_field(points: Float32[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N"]:
    """Return the relative receive field of the MR images, within ±10 %, at points in RAS mm."""
    return np.float32(BIAS) * np.tanh(waves(81, 260.0, 4)(points))


def lesion(grid: Grid) -> Bool[np.ndarray, "I J K"]:
    """Return the voxels whose centres lie in the lesion."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    return np.linalg.norm(grid.to_world(index) - np.asarray(LESION.centre_mm), axis=-1) <= LESION.radius_mm
