"""Scans for the benchmarks: where they are, how they are cut and how noise is added."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from medinterp import io
from medinterp.testing.phantoms import head
from medinterp.volume import Grid, Provenance, Source, Step, Volume

SYNTHETIC = Path("synthetic_head")
"""Name that stands for the noise-free synthetic head, for who has no real scans."""


def named_scans(names: Sequence[str]) -> list[Path]:
    """Return the scans of these file stems below the folder MEDINTERP_REAL_DATA; the synthetic head without it."""
    root = os.environ.get("MEDINTERP_REAL_DATA")
    if root is None:
        return [SYNTHETIC]
    return [path for path in sorted(Path(root).rglob("*.nii.gz")) if stem(path) in names]


def stem(path: Path) -> str:
    """Return a scan's name without folder and suffix."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def centre(volume: Volume, shape: tuple[int, int, int]) -> Volume:
    """Return the box of at most ``shape`` voxels in the middle."""
    size = tuple(min(a, b) for a, b in zip(shape, volume.grid.shape, strict=True))
    start = tuple((a - b) // 2 for a, b in zip(volume.grid.shape, size, strict=True))
    box = tuple(slice(a, a + b) for a, b in zip(start, size, strict=True))
    i, j, k = start
    grid = volume.grid.crop((i, j, k), (size[0], size[1], size[2]))
    provenance = volume.provenance.then(Step("crop", {"start": start, "shape": size}))
    return Volume(volume.voxels[(slice(None), *box)], grid, volume.unit, volume.modality, provenance)


def read(path: Path) -> Volume:
    """Read a scan, or draw the synthetic head (T1, 1.25 mm)."""
    if path != SYNTHETIC:
        return io.read(path)
    affine = np.diag([1.25, 1.25, 1.25, 1.0])
    affine[:3, 3] = -1.25 * (np.array([128, 160, 128]) - 1) / 2
    grid = Grid((128, 160, 128), affine)
    return Volume(head("T1", grid)[None], grid, "a.u.", "MR", Provenance(Source("memory")))


def with_rician(volume: Volume, sigma: float, seed: int) -> Volume:
    """Return the magnitude of the scan with Gaussian noise in both channels."""
    generator = np.random.default_rng(seed)
    real, imaginary = (sigma * generator.standard_normal(volume.voxels.shape, dtype=np.float32) for _ in range(2))
    noisy = np.hypot(volume.voxels + real, imaginary)
    return volume.derive(noisy, Step("add Rician noise", {"sigma": sigma, "seed": seed}))


def with_gaussian(volume: Volume, sigma: float, seed: int) -> Volume:
    """Return the scan with white Gaussian noise."""
    noise = sigma * np.random.default_rng(seed).standard_normal(volume.voxels.shape, dtype=np.float32)
    return volume.derive(volume.voxels + noise, Step("add Gaussian noise", {"sigma": sigma, "seed": seed}))


def bright_level(volume: Volume) -> float:
    """Return the bright tissue's level: the 98th percentile of what exceeds a tenth of the 99.9th."""
    voxels = volume.voxels
    return float(np.quantile(voxels[voxels > 0.1 * np.quantile(voxels, 0.999)], 0.98))


def body_mask(volume: Volume) -> np.ndarray:
    """Return the head: what exceeds a tenth of the bright level, opened and filled."""
    return ndimage.binary_fill_holes(
        ndimage.binary_opening(volume.voxels[0] > 0.1 * bright_level(volume), iterations=2)
    )
