"""The demo: the main path on the synthetic head of sample_data, compared with its known truth."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medinterp import io
from medinterp.app import Study, run
from medinterp.assessment.fidelity import foreground_mask, psnr
from medinterp.errors import InputError
from medinterp.options import RunOptions
from medinterp.progress import OnStep
from medinterp.volume import Region, Volume, ring

_INSTALLED = Path(__file__).parent / "_sample_data"
_CHECKOUT = Path(__file__).parent.parent / "sample_data"
_MODALITIES = ("t1", "t2")


def sample_folder() -> Path:
    """Return the folder of the synthetic head.

    Raises:
        InputError: it was not installed.
    """
    for root in (_INSTALLED, _CHECKOUT):
        if (root / "head" / "truth.json").is_file():
            return root / "head"
    raise InputError("sample_data is not installed; run the demo from a checkout or reinstall medinterp")


def run_demo(output: str | Path, *, overwrite: bool, on_step: OnStep) -> str:
    """Denoise, fuse and explain the synthetic head's T1 and T2, and return what was recovered against the truth."""
    head = sample_folder()
    truth = json.loads((head / "truth.json").read_text(encoding="utf-8"))
    x, y, z = truth["lesion"]["centre_mm"]
    options = RunOptions(
        targets=(f"sphere:{x},{y},{z},{truth['lesion']['radius_mm']}",),
        methods=("input_x_gradient", "equivalent_filter"),
        measure="contrast",
        resample=True,  # the synthetic scans share one patient space by construction
        overwrite=overwrite,
    )
    study = run({m: head / "dicom" / m for m in _MODALITIES}, output, options=options, on_step=on_step)
    rows = [_row(m, study, head, truth) for m in _MODALITIES]
    heading = f"{'':<6}{'PSNR before':>12}{'after':>8}{'lesion contrast before':>25}{'after':>8}{'truth':>8}"
    return "\n".join([study.summary(), "", "Against the known truth:", heading, *rows])


def _row(modality: str, study: Study, head: Path, truth: Mapping[str, Any]) -> str:
    one = study.result.inputs[modality]
    clean = io.read(head / "truth" / f"{modality}_truth.nii.gz")
    lesion = io.read(head / "truth" / f"{modality}_lesion.nii.gz")
    region = Region(lesion.voxels[0] > 0.5, clean.grid, "lesion")
    tissue = foreground_mask(clean.voxels[0])
    before, after = (psnr(v.voxels[0], clean.voxels[0], tissue) for v in (one.scan, one.shown))
    noisy, denoised, true = (_contrast(v, region) for v in (one.scan, one.shown, clean))
    return f"{modality:<6}{before:>9.1f} dB{after:>5.1f} dB{noisy:>25.1f}{denoised:>8.1f}{true:>8.1f}"


def _contrast(volume: Volume, region: Region) -> float:
    around = ring(region, gap_mm=2.0, width_mm=5.0)
    return float(np.mean(volume.voxels[0][region.mask]) - np.mean(volume.voxels[0][around.mask]))
