"""How true ``--dry-run`` is: planned against measured seconds and peak memory, each in a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.cost import make_scan
from benchmarks.report import table, versions, write_section

REGION = ["--target", "sphere:20,-20,30,4"]
FULL = ["--halo", "16", "--certificate", "full"]
CASES = (
    ("denoise", ["denoise"]),
    ("denoise, 2 GB at most", ["denoise", "--max-memory", "2"]),
    ("saliency, exact crop", ["explain", *REGION, "--method", "saliency"]),
    ("saliency, halo 16", ["explain", *REGION, "--method", "saliency", "--halo", "16"]),
    ("integrated gradients, halo 24", ["explain", *REGION, "--method", "integrated_gradients", "--halo", "24"]),
    ("occlusion, windows of 8 mm", ["explain", *REGION, "--method", "occlusion:window_mm=8"]),
    (
        "saliency, full certificate",
        ["explain", *REGION, "--method", "saliency", *FULL],
    ),
)
PLAN = """
import json, sys
from medinterp import cli
from medinterp.planning import plan as real
import medinterp.planning
def plan(*args):
    found = real(*args)
    print(json.dumps([found.seconds, found.explaining_seconds or 0.0, found.peak_gb]))
    return found
medinterp.planning.plan = plan
cli.app(sys.argv[1:])
"""


def planned(command: list[str]) -> tuple[float, float]:
    """Return the seconds and gigabytes that the dry run of a command foretells."""
    call = [sys.executable, "-c", PLAN, *command, "--dry-run"]
    denoising, explaining, peak = json.loads(
        subprocess.run(call, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    )
    return denoising + explaining, peak


def measured(command: list[str], output: Path) -> tuple[float, float]:
    """Return the seconds and gigabytes that the command then takes."""
    call = [sys.executable, "-m", "medinterp", *command, "--progress", "none"]
    subprocess.run(call, check=True, capture_output=True)
    record = json.loads((output / "run.json").read_text())
    return record["seconds"]["denoise"] + record["seconds"]["explain"], record["peak_memory_gb"]


def main() -> None:
    """Plan and run every case and write the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.nii.gz"
        make_scan(scan)
        for number, (name, (verb, *options)) in enumerate(CASES):
            output = Path(folder) / f"out{number}"
            command = [verb, str(scan), "-o", str(output), *options]
            (seconds, peak), (took, held) = planned(command), measured(command, output)
            rows.append(
                [name, f"{seconds:.1f}", f"{took:.1f}", f"{seconds / took - 1:+.0%}", f"{peak:.2f}", f"{held:.2f}",
                 f"{peak / held - 1:+.0%}"]
            )  # fmt: skip
            print(rows[-1], flush=True)
    head_row = ["command", "s, planned", "s, measured", "", "GB, planned", "GB, measured", ""]
    text = "\n".join(
        [
            "## What a dry run foretells",
            "",
            "`python -m benchmarks.plans`",
            "",
            "256 x 256 x 170 voxels. Seconds of denoising and explaining, without start-up, reading and export.",
            "",
            table(head_row, rows),
            "",
            versions("torch"),
        ]
    )
    write_section("plans", text)


if __name__ == "__main__":
    main()
