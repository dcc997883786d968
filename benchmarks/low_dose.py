"""Low-dose CT simulated in the projections, against a known truth: ``python -m benchmarks.low_dose --scan PATH``.

The scan is blurred until little of its own noise is left, and called clean; noise of a lower dose is drawn in its
projections and reconstructed with three kernels. Baselines are told the noise level that the simulation gives to soft
tissue, and take the setting that is best by truth. Ours is told nothing: once it takes the noise as white, once it
estimates the spectrum.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from benchmarks import baselines, report, scans
from benchmarks.kernels import denoise
from medinterp.training.low_dose import BODY_HU, SHARP, SMOOTH, STANDARD, LowDose
from medinterp.volume import Step, Volume

KERNELS = {"smooth": SMOOTH, "standard": STANDARD, "sharp": SHARP}
LEVELS_HU = (15.0, 40.0)
COMPARED = ("total variation (scikit-image)", "non-local means (dipy)", "wavelet (scikit-image)")
PEAK_HU = 2000.0
"""PSNR's peak: the span from air to dense bone, as is usual for CT; RMSE in HU is free of it."""
PROTOCOL = f"""PSNR in dB (RMSE in HU) over {BODY_HU[0]:.0f} to {BODY_HU[1]:.0f} HU, peak {PEAK_HU:.0f} HU. The clean
scan is the real one blurred in the plane; noise of a lower dose is drawn in its projections (Poisson and electronic)
and reconstructed with three kernels. Baselines are told the noise level of soft tissue and take the setting that is
best by truth; ours estimates level and spectrum from the noisy scan, and in the column before the last ignores the
spectrum."""
PLANE, SLICES = 192, 12
"""Voxels of the middle that is denoised and scored; the simulation sees whole slices."""


@dataclass(frozen=True)
class Case:
    """A clean scan, the same at a lower dose, and the level of the noise in soft tissue."""

    clean: Volume
    noisy: Volume
    sigma_hu: float

    def score(self, image: np.ndarray) -> str:
        """Return PSNR in dB and RMSE in HU over soft tissue."""
        truth = self.clean.voxels[0]
        body = (truth > BODY_HU[0]) & (truth < BODY_HU[1])
        rmse = float(np.sqrt(np.square(image[body].astype(np.float64) - truth[body]).mean()))
        return f"{20 * np.log10(PEAK_HU / rmse):.2f} ({rmse:.1f})"


def make_case(scan: Volume, kernel: str, sigma_hu: float, *, blur: float, seed: int) -> Case:
    """Blur a scan in the plane, add noise of a dose that gives soft tissue ``sigma_hu``, and cut out the middle."""
    start = max((scan.grid.shape[2] - SLICES) // 2, 0)
    hu = ndimage.gaussian_filter(scan.voxels[0][:, :, start : start + SLICES], (blur, blur, 0))
    scanner, spacing = LowDose(kernel=KERNELS[kernel]), scan.grid.spacing_mm
    slices = scanner.project(torch.from_numpy(hu), spacing)
    dose = scanner.dose_for(slices, sigma_hu=sigma_hu)
    noise = scanner.noise(slices, dose=dose, generator=torch.Generator().manual_seed(seed)).numpy()
    i, j, _ = scan.grid.shape
    grid = scan.grid.crop((0, 0, start), (i, j, hu.shape[2]))
    clean = Volume(hu[None], grid, scan.unit, scan.modality, scan.provenance)
    step = Step("simulate low dose", {"kernel": kernel, "sigma_hu": sigma_hu, "dose": dose, "seed": seed})
    box = (PLANE, PLANE, SLICES)
    return Case(scans.centre(clean, box), scans.centre(clean.derive(clean.voxels + noise, step), box), sigma_hu)


def best_of(name: str, case: Case) -> str:
    """Return a baseline's score at the setting that is best by truth."""
    noisy = case.noisy.voxels[0]
    found = [
        case.score(baselines.apply(setting, noisy, case.sigma_hu))
        for setting in baselines.settings(name, stabilized=False)
    ]
    return max(found, key=lambda text: float(text.split()[0]))


def row(case: Case, label: str, bundle: Path) -> list[str]:
    """Return one row: the noisy scan, every baseline, ours as if white, ours told the colour it estimated."""
    ours = [case.score(denoise(case.noisy, bundle, told=told)) for told in (False, True)]
    found = [label, case.score(case.noisy.voxels[0]), *(best_of(name, case) for name in COMPARED), ours[0]]
    return [*found, f"**{ours[1]}**"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write it to docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.low_dose", description=__doc__)
    parser.add_argument("--scan", type=Path, required=True, help="CT in HU with square pixels")
    parser.add_argument("--blur", type=float, default=0.8, help="sd in pixels of the blur that makes it clean")
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--bundle", type=Path, default=Path("pipelines/ct_denoise"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print only; leave docs/benchmarks.md alone")
    given = parser.parse_args(arguments)
    scan, name = scans.read(given.scan), scans.stem(given.scan)
    rows = []
    for kernel in given.kernels:
        for sigma_hu in LEVELS_HU:
            case = make_case(scan, kernel, sigma_hu, blur=given.blur, seed=given.seed)
            rows.append(row(case, f"{kernel} kernel, {sigma_hu:.0f} HU", given.bundle))
            print(*rows[-1], flush=True)
    text = "\n\n".join(
        [
            f"## Low-dose CT: {name}",
            f"`python -m benchmarks.low_dose --scan {name} --blur {given.blur:g} --seed {given.seed}`",
            f"{' x '.join(map(str, case.clean.grid.shape))} voxels. {' '.join(PROTOCOL.split())}",
            report.table(["noise", "noisy", *COMPARED, "ours, as if white", "**ours, colour told**"], rows),
            report.versions("medinterp", "torch", "scikit-image", "dipy", "PyWavelets"),
        ]
    )
    print(text)
    if not given.dry:
        report.write_section(f"low dose {name}", text)


if __name__ == "__main__":
    main()
