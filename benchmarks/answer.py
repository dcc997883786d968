"""How long a researcher waits: three maps of one measurement on a 256 x 256 x 170 scan, cold and warm."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.cost import make_scan
from benchmarks.report import table, versions, write_section

METHODS = ("saliency", "input_x_gradient", "equivalent_filter")
TARGETS = ("sphere:20,-20,30,4", "voxel:-30,10,20")
HALOS = (None, 32, 24, 16, 12)
REPEATS = 3


def answer(scan: str, target: str, halo: int | None) -> None:
    """Explain as a script does, cold and then warm, and print seconds and the error of the smaller halo as JSON.

    Run in a process of its own, so that the first answer pays for start-up, imports, weights, reading and noise.
    """
    from medinterp import io  # loaded here: cold means that nothing was loaded before
    from medinterp.bundle import load_pipeline
    from medinterp.catalogue import find_bundle
    from medinterp.cli_process import keep_freed_memory
    from medinterp.options import RunOptions
    from medinterp.preparation import build_explanations

    keep_freed_memory()
    opened = load_pipeline(find_bundle("mri_denoise")).open("scan", io.read(Path(scan)))
    asked = build_explanations(RunOptions(methods=METHODS, targets=(target,), halo=halo))
    found = opened(asked)
    first = time.time()
    warm = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        found = opened(asked)
        warm.append(time.perf_counter() - begun)
    error = max(one.attributions["scan"].statistics["halo_error"] for one in found)
    print(json.dumps({"answered": first, "warm": sorted(warm)[REPEATS // 2], "error": error}))


def main() -> None:
    """Ask every question in a process of its own and write the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.nii.gz"
        make_scan(scan)
        for target in TARGETS:
            for halo in HALOS:
                begun = time.time()
                call = f"from benchmarks.answer import answer; answer({str(scan)!r}, {target!r}, {halo!r})"
                done = subprocess.run([sys.executable, "-c", call], check=True, capture_output=True, text=True)
                said = json.loads(done.stdout.splitlines()[-1])
                kept = "all that matters" if halo is None else f"{halo} voxels"
                rows.append(
                    [target.split(":")[0], kept, f"{said['answered'] - begun:.1f}", f"{said['warm']:.2f}",
                     f"{said['error']:.1e}"]
                )  # fmt: skip
    text = "\n".join(
        [
            "## Three maps of one measurement, from Python",
            "",
            "`python -m benchmarks.answer`",
            "",
            f"{', '.join(METHODS)} of one region of a 256 x 256 x 170 scan, certificates included, nothing written. "
            "Cold: from the start of the interpreter, with imports, weights, reading and noise estimate. Warm: asked "
            "again of the open scan, median of three. Error: of the map, measured against a larger crop.",
            "",
            table(["region", "surroundings", "s, cold", "s, warm", "map error"], rows),
            "",
            versions("torch", "captum"),
        ]
    )
    write_section("answer", text)


if __name__ == "__main__":
    main()
