"""Fusion rules on one table: ``python -m benchmarks.fusion [--real T1 T2 ...]``.

Each pair of contrasts of the noise-free synthetic head, and real scans on one grid, are brought to the fuser's scale
and fused by every rule. Columns of the classic literature stand beside the least over the modalities, which a copy of
one input cannot win. Edge recall: share of a modality's edges at which the fused image has one at least half as strong.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks import report, scans
from benchmarks.fusion_baselines import RULES
from medinterp import io
from medinterp.assessment.fusion_metrics import fusion_metrics
from medinterp.fusing import AIR_HU
from medinterp.fusion.fusers import Fuser, Scaled, VarianceWeighted, bring_to_scale
from medinterp.fusion.gradient_domain import GradientDomain
from medinterp.testing.fusion_oracles import beyond_range, edge_recall, invented_steps, two_boxes
from medinterp.testing.phantoms import head
from medinterp.volume import Grid

SHAPE, SPACING_MM = (100, 124, 92), 1.6
PAIRS = (("T1", "T2"), ("T1", "CT"))
SIGMAS = {"CT": 16.0}
USUAL_SIGMA = 20.0
FUSERS: Mapping[str, Fuser] = {
    "**variance-weighted**": VarianceWeighted(),
    "**gradient domain**": GradientDomain(),
    "**gradient domain, within each voxel's range**": GradientDomain(within_range=True),
}
CLASSIC = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM", "CC")
HEAD = ["rule", "least Qabf", "least VIF", "least SSIM", "least CC", "edge recall", "step from nothing", "beyond range",
        *CLASSIC]  # fmt: skip


def synthetic(names: Sequence[str]) -> tuple[dict[str, Scaled], tuple[float, float, float]]:
    """Return noise-free contrasts of the synthetic head in the fused image's scale, and their spacing."""
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = -SPACING_MM * (np.array(SHAPE) - 1) / 2
    grid = Grid(SHAPE, affine)
    images = {m: _tensor(head(m, grid)) for m in names}
    sigmas = {m: torch.full((1, 1, 1, 1, 1), SIGMAS.get(m, USUAL_SIGMA)) for m in names}
    return _scaled(images, sigmas), grid.spacing_mm


def real(paths: Sequence[Path]) -> tuple[dict[str, Scaled], tuple[float, float, float]]:
    """Return real scans on one grid in the fused image's scale, taken as they are, with their estimated noise."""
    from medinterp.noise.estimate import Auto

    volumes = {scans.stem(path): io.read(path) for path in paths}
    first = next(iter(volumes.values()))
    for name, volume in volumes.items():
        first.require_same_grid(volume, name)
    sigmas = {m: torch.full((1, 1, 1, 1, 1), Auto()(v).sigma) for m, v in volumes.items()}
    return _scaled({m: _tensor(v.voxels[0]) for m, v in volumes.items()}, sigmas), first.grid.spacing_mm


def _tensor(voxels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(voxels, dtype=np.float32))[None, None]


def _scaled(images: Mapping[str, torch.Tensor], sigmas: Mapping[str, torch.Tensor]) -> dict[str, Scaled]:
    coverage = {m: torch.ones_like(image) for m, image in images.items()}
    return bring_to_scale(images, sigmas, coverage, {m: AIR_HU for m in images if m == "CT"})


def rows(modalities: Mapping[str, Scaled], spacing_mm: tuple[float, float, float]) -> list[list[str]]:
    """Return a row for every rule."""
    arrays = {m: part.image[0, 0].numpy() for m, part in modalities.items()}
    made = {name: rule(list(arrays.values())) for name, rule in RULES.items()}
    for name, fuser in FUSERS.items():
        parts = {m: fuser.prepare(part, spacing_mm) for m, part in modalities.items()}
        made[name] = fuser.join(parts).image[0, 0].numpy()
    return [_row(name, fused, arrays) for name, fused in made.items()]


def _row(name: str, fused: np.ndarray, arrays: Mapping[str, np.ndarray]) -> list[str]:
    found = fusion_metrics(fused, arrays)
    images = {m: _tensor(a) for m, a in arrays.items()}
    recall = [f"{edge_recall(_tensor(fused), image):.2f}" for image in images.values()]
    least = [f"{found.least[m]:.3f}" for m in ("Qabf", "VIF", "SSIM", "CC")]
    beyond = f"{100 * beyond_range(_tensor(fused), images):.0f} %"
    invented = f"{100 * invented_steps(_tensor(fused), images):.1f} %"
    row = [name, *least, " / ".join(recall), invented, beyond, *(f"{found.classic[m]:.3g}" for m in CLASSIC)]
    print(*row, sep="; ", flush=True)
    return row


def boxes() -> list[list[str]]:
    """Return rows on two boxes, each in one modality alone: recall of private edges, and edges that nobody has."""
    images = two_boxes(48)
    modalities = _scaled(images, {m: torch.full((1, 1, 1, 1, 1), 0.02, dtype=torch.float64) for m in images})
    own = {m: part.image for m, part in modalities.items()}
    made = {n: torch.from_numpy(rule([x[0, 0].numpy() for x in own.values()]))[None, None] for n, rule in RULES.items()}
    for name, fuser in FUSERS.items():
        made[name] = fuser.join({m: fuser.prepare(p, (1.0, 1.0, 1.0)) for m, p in modalities.items()}).image
    return [
        [name, " / ".join(f"{edge_recall(fused, x):.2f}" for x in own.values()),
         f"{100 * invented_steps(fused, own):.1f} %", f"{100 * beyond_range(fused, own):.1f} %"]
        for name, fused in made.items()
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write them to docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fusion", description=__doc__)
    parser.add_argument("--real", type=Path, nargs="+", metavar="SCAN", help="real scans on one grid")
    given = parser.parse_args(arguments)
    command = "python -m benchmarks.fusion"
    columns = ["rule", "edge recall", "step from nothing", "beyond range"]
    parts = ["### Two boxes, each in one modality alone", report.table(columns, boxes())]
    for names in PAIRS:
        parts += [f"### {' and '.join(names)} of the synthetic head", report.table(HEAD, rows(*synthetic(names)))]
    if given.real:
        stems = [scans.stem(path) for path in given.real]
        command += f" --real {' '.join(stems)}"
        parts += [f"### {', '.join(stems)}", report.table(HEAD, rows(*real(given.real)))]
    note = (
        "Least: over the modalities, of measures that compare the fused image with one of them. Step from nothing: "
        "the largest step to a neighbour where no input has any, as a share of the range. Beyond range: how far "
        "the fused image leaves the range of its inputs at most, as a share of it. The classic columns are means or "
        "sums over the modalities (MI, SCD, VIF, Qabf, SSIM, CC), or do not look at them at all (EN, SD, SF)."
    )
    text = "\n\n".join(
        ["## Fusion rules", f"`{command}`", note, *parts, report.versions("medinterp", "torch", "scipy")]
    )
    report.write_section("fusion", text)


if __name__ == "__main__":
    main()
