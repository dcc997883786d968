"""Registration against known motion: ``python -m benchmarks.registration [--real REFERENCE SCAN]``.

The scans of sample_data lie in one patient space. The second is moved by a known rigid motion about a random axis and
in a random direction; the error of a point is how far the transform found puts it from where the motion did, over
points of the reference's tissue (target registration error). Inverse consistency is that of the forward and the
backward registration, and needs no truth.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import report, scans
from medinterp import io
from medinterp.demo import sample_folder
from medinterp.fusion.registration import register, tissue_points
from medinterp.testing.motion import move, random_motion
from medinterp.volume import Volume

PAIRS = (("t1", "ct"), ("t1", "t2"))
MOTIONS = ((0.0, 0.0), (10.0, 15.0), (20.0, 30.0), (20.0, 30.0), (20.0, 30.0))
HEAD = ["reference, scan", "turned, deg", "shifted, mm", "median TRE, mm", "largest TRE, mm",
        "inverse consistency, median mm", "information, bits", "CPU s"]  # fmt: skip


def known(reference: Volume, scan: Volume, words: str, degrees: float, shift_mm: float, seed: int) -> list[str]:
    """Move a scan by a random rigid motion, register it, and return the table's row."""
    points = tissue_points(reference)
    motion = random_motion(degrees, shift_mm, points.mean(axis=0), np.random.default_rng(seed))
    begun = time.process_time()
    found = register(reference, move(scan, motion), "rigid", seed=0)
    seconds = time.process_time() - begun
    error = found.transform.distance_mm(motion, points)
    row = [words, f"{degrees:g}", f"{shift_mm:g}", f"{np.median(error):.2f}", f"{error.max():.2f}",
            f"{found.consistency.median_mm if found.consistency else 0:.2f}",
            f"{found.information_before:.2f} to {found.information_after:.2f}", f"{seconds:.0f}"]  # fmt: skip
    print(*row, sep="; ", flush=True)
    return row


def real(reference: Path, scan: Path) -> list[list[str]]:
    """Register two real scans, rigidly and affinely, and return the rows."""
    fixed, moving = io.read(reference), io.read(scan)
    rows = []
    for kind in ("rigid", "affine"):
        begun = time.process_time()
        found = register(fixed, moving, kind, seed=0)
        seconds = time.process_time() - begun
        assert found.consistency is not None
        rows.append(
            [f"{scans.stem(reference)}, {scans.stem(scan)}, {kind}", f"{found.transform.angle_deg:.2f} found",
             f"{found.shift_mm:.2f} found", "", "", f"{found.consistency.median_mm:.2f}",
             f"{found.information_before:.2f} to {found.information_after:.2f}", f"{seconds:.0f}"]
        )  # fmt: skip
        print(*rows[-1], sep="; ", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write it to docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registration", description=__doc__)
    parser.add_argument("--real", type=Path, nargs=2, metavar=("REFERENCE", "SCAN"), help="two real scans")
    given = parser.parse_args(arguments)
    head = {m: io.read(sample_folder() / f"{m}.nii.gz") for m in ("t1", "t2", "ct")}
    rows = [
        known(head[a], head[b], f"{a}, {b}", degrees, shift_mm, seed)
        for a, b in PAIRS
        for seed, (degrees, shift_mm) in enumerate(MOTIONS)
    ]
    command = "python -m benchmarks.registration"
    if given.real:
        rows += real(*given.real)
        command += " --real " + " ".join(scans.stem(path) for path in given.real)
    text = "\n\n".join(
        [
            "## Registration: known motion of sample_data",
            f"`{command}`",
            report.table(HEAD, rows),
            f"Both directions are searched; seconds of processor time are of both, on one thread. "
            f"{report.versions('medinterp', 'SimpleITK')}.",
        ]
    )
    print(text, flush=True)
    report.write_section("registration", text)


if __name__ == "__main__":
    main()
