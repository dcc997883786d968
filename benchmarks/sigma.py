"""Errors of noise estimates: ``python -m benchmarks.sigma SCAN...`` adds Rician noise and asks every method.

Two truths are printed. Against the added noise, an estimate that also sees the scan's own noise reads high at low
levels; against the total, sqrt(added² + own²), with the scan's own noise as FlatWindows reads it, it should not.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import report, scans
from medinterp.noise.estimate import FlatWindows, HaarMad, PatchPca
from medinterp.volume import Step, Volume

LEVELS = (0.02, 0.03, 0.05, 0.09, 0.15)


def _skimage(volume: Volume) -> float:
    from skimage.restoration import estimate_sigma

    return float(estimate_sigma(volume.voxels[0]))


def _dipy(volume: Volume) -> float:
    from dipy.denoise.noise_estimate import estimate_sigma

    return float(estimate_sigma(volume.voxels[0], N=1)[0])


METHODS: dict[str, Callable[[Volume], float]] = {
    "medinterp FlatWindows (default)": lambda volume: FlatWindows()(volume).sigma,
    "medinterp PatchPca": lambda volume: PatchPca()(volume).sigma,
    "medinterp HaarMad": lambda volume: HaarMad()(volume).sigma,
    "scikit-image estimate_sigma": _skimage,
    "dipy estimate_sigma, N=1": _dipy,
}


@dataclass(frozen=True)
class Reading:
    """One method's answer to one noisy scan; sigmas as shares of the bright tissue."""

    scan: str
    method: str
    level: float
    masked: bool
    total: float
    found: float
    seconds: float
    covered: bool


def read_scan(path: Path) -> Iterator[Reading]:
    """Ask every method about one scan at every level, with and without its background set to zero."""
    volume = scans.read(path)
    bright, mask = scans.bright_level(volume), scans.body_mask(volume)
    own = FlatWindows()(volume).sigma / bright
    for level in LEVELS:
        noisy = scans.with_rician(volume, level * bright, seed=1)
        total = float(np.hypot(level, own))
        for masked in (False, True):
            given = noisy.derive(noisy.voxels * mask, Step("mask")) if masked else noisy
            interval = FlatWindows()(given)
            covered = interval.low <= total * bright <= interval.high
            for name, method in METHODS.items():
                begun = time.perf_counter()
                found = method(given) / bright
                seconds = time.perf_counter() - begun
                yield Reading(scans.stem(path), name, level, masked, total, found, seconds, covered)


def _cell(readings: Sequence[Reading], *, added: bool) -> str:
    errors = [100 * (r.found / (r.level if added else r.total) - 1) for r in readings]
    return f"{np.median(errors):+.0f} [{min(errors):+.0f}, {max(errors):+.0f}]"


def summary(readings: Sequence[Reading]) -> str:
    """Return the table: median error in % and its range over the scans."""
    rows = []
    for name in METHODS:
        for masked in (False, True):
            mine = [r for r in readings if r.method == name and r.masked == masked]
            for added in (False, True):
                cells = [_cell([r for r in mine if r.level == level], added=added) for level in LEVELS]
                background = "zeroed" if masked else "kept"
                seconds = f"{np.median([r.seconds for r in mine]):.1f}"
                rows.append([name, background, "added" if added else "total", *cells, seconds])
    head = ["method", "background", "against", *(f"{100 * level:.0f} %" for level in LEVELS), "s"]
    return report.table(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write it to docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sigma", description=__doc__)
    parser.add_argument("scans", nargs="+", type=Path)
    paths = parser.parse_args(arguments).scans
    readings = [reading for path in paths for reading in read_scan(path)]
    names = sorted({reading.scan for reading in readings})
    ours = [reading for reading in readings if "default" in reading.method]
    text = "\n\n".join(
        [
            "## Noise estimation",
            f"`python -m benchmarks.sigma {' '.join(names)}`",
            "Error of sigma in %: median [least, largest] over the scans; Rician noise as a share of the bright "
            "tissue. Total: added and the scan's own noise, as FlatWindows reads it in the clean scan.",
            summary(readings),
            f"The default's 95 % interval held the total in {100 * np.mean([r.covered for r in ours]):.0f} % of "
            f"{len(ours)} readings. {report.versions('medinterp', 'scikit-image', 'dipy', 'numpy')}.",
        ]
    )
    print(text)
    report.write_section("sigma", text)


if __name__ == "__main__":
    main()
