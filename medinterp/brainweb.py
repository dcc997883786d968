"""The literature's denoising benchmark on the BrainWeb T1 phantom, by its protocol: ours beside what was published."""

import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float32

from medinterp import io
from medinterp.assessment.fidelity import psnr, ssim
from medinterp.bundle import load_pipeline
from medinterp.catalogue import find_bundle
from medinterp.denoisers.base import scalar_sigma
from medinterp.errors import InputError, ModelError
from medinterp.noise.models import add_gaussian, add_rician
from medinterp.progress import OnStep, StepInfo, ignore

PHANTOM: Final = "t1_icbm_normal_1mm_pn0_rf0"
PHANTOM_SHAPE: Final = (181, 217, 181)
PERCENT: Final = (1, 3, 5, 7, 9)
FOREGROUND: Final = 10.0
"""Of 255: brighter voxels are the head, in the authors' own evaluation of the method that the protocol began with."""
SSIM_RANGE: Final = 255.0
CHECK_DB: Final = 0.05
"""How near the noisy Gaussian row must come to -20 log10 p."""
PUBLISHED: Final[dict[str, dict[int, float]]] = {
    "ODCT3D (2012)": {3: 37.38, 5: 34.70, 7: 32.90, 9: 31.53},
    "PRI-NLM3D (2012)": {3: 38.28, 5: 35.42, 7: 33.47, 9: 31.98},
    "BM4D (2013)": {3: 38.35, 5: 35.84, 7: 34.17, 9: 32.88},
    "PRI-NL-PCA (2015)": {3: 39.34, 5: 36.58, 7: 34.74, 9: 33.28},
}
PUBLISHED_SSIM: Final[dict[str, dict[int, float]]] = {"BM4D (2013)": {3: 0.975, 5: 0.959, 7: 0.942, 9: 0.924}}

Image3D = Float32[np.ndarray, "I J K"]


@dataclass(frozen=True)
class Row:
    """One line of the table: foreground PSNR in dB, and SSIM, by percent of noise."""

    method: str
    decibels: dict[int, float]
    similarities: dict[int, float]


@dataclass(frozen=True)
class Verdict:
    """What the benchmark found.

    Args:
        rows: Gaussian and Rician noise as they are, then ours, then what was published.
        is_phantom: whether the file is named and shaped as the phantom; what was published is listed only then.
    """

    rows: tuple[Row, ...]
    is_phantom: bool

    def describe(self) -> str:
        """Return the table and what it stands for."""
        head = "".join(f"{f'{p} %':>16}" for p in PERCENT)
        lines = [f"{'foreground PSNR in dB / SSIM':<34}{head}"]
        lines += [f"{row.method:<34}" + "".join(f"{_cell(row, p):>16}" for p in PERCENT) for row in self.rows]
        lines.append("sigma = p x the phantom's maximum, given to all; foreground brighter than 10; peak = maximum")
        size = " x ".join(map(str, PHANTOM_SHAPE))
        lines.append(
            "dated rows: as published, Rician noise, Manjon et al. 2015, Table 9"
            if self.is_phantom
            else f"not {PHANTOM} of {size} voxels: its dB cannot be compared with published ones, which are left out"
        )
        return "\n".join(lines)


def bench_brainweb(t1: Path, *, bundle: str = "mri_denoise", seed: int = 0, on_step: OnStep = ignore) -> Verdict:
    """Denoise the BrainWeb T1 phantom at 1, 3, 5, 7 and 9 % of Rician noise and score it as the literature does.

    Foreground is what is brighter than 10 of 255; the peak is the phantom's maximum; SSIM has a Gaussian window of
    3 x 3 x 3 voxels (sd 1.5) and the range 255. At every level the conventions check themselves: the same sigma as
    Gaussian noise must read -20 log10 p dB.

    Args:
        t1: the phantom, as .rawb (or .rawb.gz) from BrainWeb, or as NIfTI.
        bundle: name or folder.
        seed: of the noise.
        on_step: told after every level.

    Raises:
        InputError: the file cannot be read, or is no image of 0 to 255.
        ModelError: the noisy Gaussian row is not what it must be.

    Source:
        Manjon et al., Medical Image Analysis 22 (2015), Table 9 (PRI-NL-PCA); Manjon et al., Medical Image Analysis 16
        (2012) (ODCT3D, PRI-NLM3D); Maggioni et al., IEEE TIP 22 (2013) (BM4D); phantom: brainweb.bic.mni.mcgill.ca.
    """
    clean = read_phantom(t1)
    mask = clean > FOREGROUND
    gaussian, rician, ours = (
        Row(method, {}, {})
        for method in ("noisy, Gaussian", "noisy, Rician", f"medinterp {Path(bundle).name}, one step")
    )
    pipeline = load_pipeline(find_bundle(bundle))
    x0 = torch.from_numpy(clean)[None, None]
    for done, percent in enumerate(PERCENT):
        on_step(StepInfo("bench", done, len(PERCENT), f"{percent} %"))
        sigma = scalar_sigma(percent / 100 * float(clean.max()), x0)
        generator = torch.Generator().manual_seed(seed + percent)
        _score(gaussian, percent, add_gaussian(x0, sigma, generator=generator), clean, mask)
        _check(gaussian.decibels[percent], percent)
        noisy = add_rician(x0, sigma, generator=generator)
        _score(rician, percent, noisy, clean, mask)
        with torch.no_grad():  # a table, not an algorithm: nothing here is explained
            denoised = pipeline.denoise(noisy, sigma, seed=seed, graph=False)
        _score(ours, percent, denoised, clean, mask)
    on_step(StepInfo("bench", len(PERCENT), len(PERCENT)))
    is_phantom = clean.shape == PHANTOM_SHAPE and t1.name.startswith(PHANTOM)
    published = tuple(Row(name, known, PUBLISHED_SSIM.get(name, {})) for name, known in PUBLISHED.items())
    return Verdict((gaussian, rician, ours, *(published if is_phantom else ())), is_phantom)


def read_phantom(path: Path) -> Image3D:
    """Return the phantom's values, 0 to 255.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    values = _read_rawb(path) if ".rawb" in path.name else io.read(path).voxels[0].copy()
    if not (values.min() >= 0 and FOREGROUND < values.max() <= SSIM_RANGE):
        raise InputError(
            f"values from {values.min():g} to {values.max():g}: expected the phantom's own, from 0 to at most 255"
        )
    return values


def _read_rawb(path: Path) -> Image3D:
    count = math.prod(PHANTOM_SHAPE)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(count + 1)
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or "it is damaged"  # without the path, which may name somebody
        raise InputError(f"the phantom cannot be read: {why}") from error
    if len(content) != count:
        raise InputError(f"a .rawb file of other than {count} bytes: expected {PHANTOM}.rawb, one byte for each voxel")
    return np.frombuffer(content, np.uint8).reshape(PHANTOM_SHAPE, order="F").astype(np.float32)


def _score(row: Row, percent: int, image: torch.Tensor, clean: Image3D, mask: Bool[np.ndarray, "I J K"]) -> None:
    values = image[0, 0].numpy()
    row.decibels[percent] = psnr(values, clean, mask)
    row.similarities[percent] = ssim(values, clean, mask, peak=SSIM_RANGE, radius=1)


def _check(found: float, percent: int) -> None:
    wanted = -20 * math.log10(percent / 100)
    if abs(found - wanted) > CHECK_DB:
        raise ModelError(
            f"Gaussian noise of {percent} % reads {found:.2f} dB instead of {wanted:.2f}: too few voxels brighter than "
            f"{FOREGROUND:g}, or another peak; nothing measured here could be compared"
        )


def _cell(row: Row, percent: int) -> str:
    known: Sequence[str] = [
        *([f"{row.decibels[percent]:.2f}"] if percent in row.decibels else []),
        *([f"{row.similarities[percent]:.3f}"] if percent in row.similarities else []),
    ]
    return " / ".join(known) or "-"
