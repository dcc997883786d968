"""Make the README's pictures from a scan: ``python docs/make_images.py SCAN.nii.gz`` (9 % Rician noise is added)."""

import sys
import tempfile
from pathlib import Path

import numpy as np

import medinterp
from medinterp import io
from medinterp.export.mosaic import close_up, comparison
from medinterp.export.overlay import make_overlay
from medinterp.testing.phantoms import add_rician

IMAGES = Path(__file__).parent / "images"


def main(scan: Path) -> None:
    """Add noise, run, and keep two pictures of the result."""
    clean = io.read(scan)
    level = float(np.percentile(clean.voxels[clean.voxels > 0.1 * clean.voxels.max()], 98))
    noisy = add_rician(clean.voxels[0], 0.09 * level, np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noisy.nii.gz"
        io.write_nifti(clean.derive(noisy[None], medinterp.Step("noise")), path, description="noisy", sidecar={})
        x, y, z = clean.grid.to_world((np.array(clean.grid.shape) - 1) * [0.6, 0.5, 0.62])
        options = {"targets": (f"voxel:{x},{y},{z}",), "methods": ("saliency",), "halo": 24}
        study = medinterp.run(path, Path(folder) / "out", **options)
    one, explained = study.result.inputs["scan"], study.result.explanations[0]
    overlay = make_overlay(
        one.shown, explained.maps["scan"], name="saliency", description="weights of one voxel", signed=True
    )
    IMAGES.mkdir(exist_ok=True)
    if one.denoised is not None and one.removed is not None:
        picture = comparison(one.scan, one.denoised, one.removed)
        (IMAGES / "before_after.png").write_bytes(picture.png)
    close = close_up(overlay, method="Equivalent filter of one voxel", region=explained.region)
    (IMAGES / "explanation.png").write_bytes(close.png)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
