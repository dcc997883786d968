"""Denoising against a known truth: ``python -m benchmarks.denoising --scan PATH --noise 0.09``.

Rician noise of sigma = noise x the clean scan's maximum is added with a seed. Foreground is where the clean scan
exceeds a tenth of its maximum, and the maximum is PSNR's peak. Every baseline is told sigma and takes the setting that
is best by truth, once as it is and once between the variance-stabilising transform and its exact inverse (VST). Ours
has no setting, and is run once with the estimated sigma and once with the true one.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import log10
from pathlib import Path

import numpy as np
import torch

from benchmarks import baselines, report, scans
from benchmarks.baselines import Setting
from benchmarks.isolated import Run, measure
from medinterp.assessment.fidelity import FOREGROUND_SHARE, psnr, ssim
from medinterp.bundle import load_pipeline
from medinterp.denoisers.base import scalar_sigma
from medinterp.noise.estimate import Auto
from medinterp.volume import Volume

CROP = (128, 128, 64)
SEARCH = (96, 96, 64)
CORRECTED = " + VST"


@dataclass(frozen=True)
class Case:
    """A clean scan, the same with noise, and what the noise is."""

    name: str
    clean: Volume
    noisy: Volume
    noise: float
    peak: float

    @property
    def sigma(self) -> float:
        """Noise standard deviation in the scan's unit."""
        return self.noise * self.peak

    def score(self, image: np.ndarray) -> tuple[float, float]:
        """Return foreground PSNR in dB and SSIM."""
        truth = self.clean.voxels[0]
        mask = truth > FOREGROUND_SHARE * self.peak
        return psnr(image, truth, mask, peak=self.peak), ssim(image, truth, mask, peak=self.peak)


def make_case(path: Path, noise: float, *, crop: bool, seed: int = 0) -> Case:
    """Read a scan, add noise to the whole of it, and cut the middle out of both if asked to."""
    clean = scans.read(path)
    peak = float(clean.voxels.max())
    noisy = scans.with_rician(clean, noise * peak, seed)
    if crop:
        clean, noisy = scans.centre(clean, CROP), scans.centre(noisy, CROP)
    return Case(scans.stem(path), clean, noisy, noise, peak)


def best_setting(name: str, case: Case, *, stabilized: bool) -> Setting:
    """Return the setting of highest foreground PSNR on the middle of the scan."""
    middle = replace(case, clean=scans.centre(case.clean, SEARCH), noisy=scans.centre(case.noisy, SEARCH))

    def score(setting: Setting) -> float:
        return middle.score(baselines.apply(setting, middle.noisy.voxels[0], case.sigma))[0]

    return max(baselines.settings(name, stabilized=stabilized), key=score)


def run_bundle(folder: Path, noisy: np.ndarray, sigma: float) -> np.ndarray:
    """Denoise (I, J, K) as the bundle's pipeline does; loading is included."""
    image = torch.from_numpy(np.array(noisy))[None, None]
    with torch.inference_mode():
        return load_pipeline(folder).denoise(image, scalar_sigma(sigma, image), seed=0)[0, 0].numpy()


def _row(name: str, setting: str, case: Case, run: Run) -> list[str]:
    decibel, similarity = case.score(run.result)
    return [name, setting, f"{decibel:.2f}", f"{similarity:.3f}", f"{run.seconds:.1f}", f"{run.peak_gb:.1f}"]


def self_check(case: Case) -> str:
    """Return the line that shows the convention is kept: Gaussian noise must read -20 log10(noise) dB."""
    found, _ = case.score(scans.with_gaussian(case.clean, case.sigma, seed=0).voxels[0])
    wanted = -20 * log10(case.noise)
    return f"Self-check: the same sigma as Gaussian noise reads {found:.2f} dB; -20 log10 p is {wanted:.2f}."


def compare(case: Case, bundle: Path, *, threads: int, repeats: int) -> list[list[str]]:
    """Return the table's rows: the noisy scan, every baseline at its best, ours with sigma estimated and given."""
    noisy = case.noisy.voxels[0]
    decibel, similarity = case.score(noisy)
    rows = [["noisy", "", f"{decibel:.2f}", f"{similarity:.3f}", "", ""]]
    for stabilized, name in product((False, True), baselines.BASELINES):
        setting = best_setting(name, case, stabilized=stabilized)
        run = measure(baselines.apply, setting, noisy, case.sigma, threads=threads, repeats=repeats)
        rows.append(_row(f"{name}{CORRECTED * stabilized}", str(setting), case, run))
    estimate = Auto()(case.noisy)
    for sigma, told in ((estimate.sigma, "sigma estimated"), (case.sigma, "sigma given")):
        run = measure(run_bundle, bundle, noisy, sigma, threads=threads, repeats=repeats)
        rows.append(_row(f"**medinterp {bundle.name}, one step**", told, case, run))
    return rows


def margins(rows: list[list[str]]) -> str:
    """Say by how much ours, with sigma estimated, beats the best baselines with and without Rician correction."""
    corrected = [row for row in rows[1:-2] if row[0].endswith(CORRECTED)]
    plain = [row for row in rows[1:-2] if not row[0].endswith(CORRECTED)]
    best = [max(group, key=lambda row: float(row[2])) for group in (plain, corrected)]
    words = [f"{float(rows[-2][2]) - float(row[2]):+.2f} dB against {row[0]}" for row in best]
    return f"Ours (sigma estimated): {words[0]}, the best filter as it is, and {words[1]}, the best with VST."


def describe(case: Case, rows: list[list[str]], command: str) -> str:
    """Return the section: command, conventions, table, margin, versions."""
    estimate = Auto()(case.noisy)
    head = ["method", "setting", "PSNR, dB", "SSIM", "s", "peak GB"]
    size = " x ".join(str(n) for n in case.clean.grid.shape)
    packages = ("medinterp", "torch", "SimpleITK", "scikit-image", "PyWavelets", "dipy")
    return "\n\n".join(
        [
            f"## Denoising: {case.name}, {100 * case.noise:g} % Rician",
            f"`{command}`",
            f"{size} voxels. Sigma {case.sigma:.4g}, given to the baselines, each at its best setting by truth; "
            f"estimated {estimate.sigma:.4g} ({estimate.low:.4g} to {estimate.high:.4g}). {self_check(case)}",
            report.table(head, rows),
            f"{margins(rows)} Median seconds of a call, loading included; peak memory of its process. "
            f"{report.versions(*packages)}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write it to docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.denoising", description=__doc__)
    parser.add_argument("--scan", type=Path, default=scans.SYNTHETIC, help="clean scan; a synthetic head without it")
    parser.add_argument("--noise", type=float, default=0.09, help="sigma as a share of the clean scan's maximum")
    parser.add_argument("--bundle", type=Path, default=Path("pipelines/mri_denoise"))
    parser.add_argument("--crop", action="store_true", help=f"the middle {CROP} voxels only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5, help="calls whose median time is given")
    given = parser.parse_args(arguments)
    case = make_case(given.scan, given.noise, crop=given.crop)
    rows = compare(case, given.bundle, threads=given.threads, repeats=given.repeats)
    command = f"python -m benchmarks.denoising --scan {case.name} --noise {given.noise:g}{' --crop' * given.crop}"
    text = describe(case, rows, f"{command} --threads {given.threads} --repeats {given.repeats}")
    print(text, flush=True)
    report.write_section(f"denoising {case.name} {given.noise:g}", text)


if __name__ == "__main__":
    main()
