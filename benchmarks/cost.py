"""Time and memory of the command line on a 256 x 256 x 170 scan, start-up included."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.report import table, versions, write_section
from medinterp.io import write_nifti
from medinterp.testing.phantoms import add_rician, head
from medinterp.volume import Grid, Provenance, Source, Volume

SHAPE = (256, 256, 170)
SPACING_MM = (0.9, 0.9, 1.2)
TARGET = "sphere:20,-20,30,4"
CASES = (
    ("denoise", ["denoise"]),
    ("explain one region, exact crop", ["explain", "--target", TARGET]),
    ("explain one region, halo 24", ["explain", "--target", TARGET, "--halo", "24"]),
    ("explain one region, halo 16", ["explain", "--target", TARGET, "--halo", "16"]),
)


def make_scan(path: Path) -> None:
    """Write the synthetic head at full resolution with 7 % Rician noise."""
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = np.array([0.0, -14.0, 10.0]) - affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    grid = Grid(SHAPE, affine)
    coarse = Grid((128, 128, 85), affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    clean = head("T1", coarse).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    noisy = add_rician(clean, 28.0, np.random.default_rng(0)).astype(np.float32)
    volume = Volume(noisy[None], grid, "a.u.", "MR", Provenance(Source("memory")))
    write_nifti(volume, path, description="synthetic head", sidecar={})


def run_case(command: list[str], scan: Path, output: Path) -> list[str]:
    """Run one command and return wall seconds, compute seconds, peak memory and the crop's measured error."""
    verb, *options = command
    begun = time.perf_counter()
    line = [sys.executable, "-m", "medinterp", verb, str(scan), "-o", str(output), "--progress", "none", *options]
    subprocess.run(line, check=True, capture_output=True, env={**os.environ})
    wall = time.perf_counter() - begun
    record = json.loads((output / "run.json").read_text())
    errors = [m["statistics"].get("halo_error") for e in record["explanations"] for m in e["maps"].values()]
    error = f"{errors[0]:.1e}" if errors and errors[0] is not None else ""
    compute = record["seconds"]["denoise"] + record["seconds"]["explain"]
    return [f"{wall:.1f}", f"{compute:.1f}", f"{record['peak_memory_gb']:.2f}", error]


def main() -> None:
    """Run every case once and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.nii.gz"
        make_scan(scan)
        rows = [
            [name, *run_case(command, scan, Path(folder) / f"out{number}")]
            for number, (name, command) in enumerate(CASES)
        ]
    head_row = ["command", "s, whole", "s, compute", "peak GB", "map error of the crop"]
    text = "\n".join(
        [
            "## Time and memory on 256 x 256 x 170 voxels",
            "",
            "`python -m benchmarks.cost`",
            "",
            "Whole: from the shell, start-up, reading, certificate and every export included; one run each.",
            "",
            table(head_row, rows),
            "",
            versions("torch", "monai", "captum"),
        ]
    )
    write_section("cost", text)


if __name__ == "__main__":
    main()
