"""Small scans on disk for the integration tests."""

from pathlib import Path

import nibabel
import numpy as np

_NEARLY_AXES = np.array([[-1.0, 0.1, 0.0], [0.1, 1.0, 0.14], [0.02, -0.14, 1.0]])


def write_scan(
    path: Path, *, shape: tuple[int, int, int] = (32, 30, 24), nan_voxels: int = 0, shift_mm: float = 0.0, seed: int = 0
) -> Path:
    """Write a noisy blob, centred at the origin plus the shift, on an anisotropic, oblique grid; return the path."""
    generator = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    clean = 100.0 * (radius < 0.8) + 60.0 * (radius < 0.35)
    noisy = np.hypot(clean + generator.normal(0, 6, shape), generator.normal(0, 6, shape)).astype(np.float32)
    noisy.flat[:nan_voxels] = np.nan
    q, _ = np.linalg.qr(_NEARLY_AXES)  # orthogonal axes: a NIfTI qform cannot hold a shear
    affine = np.eye(4)
    affine[:3, :3] = q * np.array([1.1, 1.1, 1.5])
    affine[:3, 3] = shift_mm - affine[:3, :3] @ (np.array(shape) - 1) / 2
    image = nibabel.Nifti1Image(noisy, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path
