"""``medinterp significance``: maps of repeats or subjects in; which voxels differ from zero, as volumes, out."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medinterp import io
from medinterp.assessment.significance import Significance, SignificanceNumbers, sign_flip_test
from medinterp.catalogue import versions
from medinterp.errors import InputError, UnitMismatch
from medinterp.export.overlay import Clusters, search_clusters
from medinterp.export.record import write_dataset_description, write_run_json
from medinterp.export.room import expected_bytes
from medinterp.export.study import StudyFolder
from medinterp.io.nifti import write_nifti
from medinterp.volume import Step, Volume

FEWEST = 6
"""Maps: fewer have too few sign patterns for a level of 5 %."""
ALPHA, FLIPS = 0.05, 1000
_NAME = "maps"


@dataclass(frozen=True, eq=False)
class SignificanceStudy:
    """What was found, and where it was written.

    Args:
        folder: with the volumes, the cluster table and the record.
        numbers: of the test.
        clusters: of the voxels found with errors counted over the whole map; those of largest total t.
    """

    folder: Path
    numbers: SignificanceNumbers
    clusters: Clusters

    def summary(self) -> str:
        """Return what the command line prints."""
        found = self.numbers
        level = f"{100 * found.alpha:g} %"
        lines = [
            f"{found.repeats} maps, {found.voxels} voxels tested against zero by {found.flips} sign patterns",
            f"{found.familywise_voxels} voxels beyond |t| = {found.threshold_t:.2f}: maps without effect show one in "
            f"{level} of cases",
            f"{found.false_discovery_voxels} voxels at a false discovery rate of {level}",
        ]
        if found.median_effect is not None:
            lines.append(f"median effect (mean over standard deviation) {found.median_effect:.2f}")
        lines += [
            f"cluster {s.label}: {s.volume_mm3:.0f} mm³ at {', '.join(f'{p:.1f}' for p in s.peak_mm)} mm, "
            f"t = {s.peak_value:.1f}"
            for s in self.clusters.segmentation.segments[:5]
        ]
        return "\n".join([*lines, "'not zero', never 'important'", str(self.folder)])


def find_significance(
    maps: Sequence[str | Path],
    output: str | Path,
    *,
    alpha: float = ALPHA,
    flips: int = FLIPS,
    seed: int = 0,
    overwrite: bool = False,
) -> SignificanceStudy:
    """Test maps against zero, voxel by voxel, and write t, effect sizes and what was found as volumes.

    Voxels that are zero in every map are left out: nothing was computed there.

    Args:
        maps: files on one grid, of independent repeats or subjects; those of subjects in one template space.
        output: folder to make.
        alpha: level of the familywise error and of the false discovery rate.
        flips: sign patterns.
        seed: of the sign patterns.
        overwrite: replace a folder that medinterp wrote.

    Raises:
        InputError: there are too few maps, one is given twice, or all are zero.
        GridMismatch: they are on different grids.
        UnitMismatch: they have different units.
        ConfigError: the level or the number of sign patterns is out of range.
        OutputError: the folder exists, or cannot be written.
    """
    volumes = _read(maps)
    first = volumes[0]
    stacked = torch.from_numpy(np.stack([volume.voxels[0] for volume in volumes]))
    inside = (stacked != 0).any(dim=0)
    if not bool(inside.any()):
        raise InputError(f"the {len(volumes)} maps are zero everywhere: there is nothing to test")
    generator = torch.Generator().manual_seed(seed)
    tested = sign_flip_test(stacked[:, inside], generator=generator, alpha=alpha, flips=flips)
    written = {
        name: _embedded(first, values, inside, words, unit)
        for name, values, words, unit in _volumes(stacked[:, inside].mean(dim=0), tested)
    }
    strong = first.derive(written["t"].voxels * written["familywise"].voxels, Step("significant t"), unit="1")
    clusters = search_clusters(strong, threshold=0.0)
    room = expected_bytes(0, len(written) * first.voxels.size)
    with StudyFolder(Path(output), overwrite=overwrite, expected_bytes=room) as study:
        for name, volume in written.items():
            path = study.path / f"{_NAME}_desc-{name}_map.nii.gz"
            write_nifti(volume, path, description=volume.provenance.steps[-1].name, sidecar={"ResearchUseOnly": True},
                        signed=name in ("mean", "t", "effect"))  # fmt: skip
        _write_clusters(clusters, study.path / "clusters.tsv")
        write_dataset_description(study.path, version=versions()["medinterp"])
        record = {
            "parameters": {"alpha": alpha, "flips": flips, "seed": seed},
            "maps_sha256": [volume.provenance.source.sha256 for volume in volumes],
            "significance": asdict(tested.numbers()),
            "versions": versions(),
        }
        write_run_json(study.path, record)
    return SignificanceStudy(study.destination, tested.numbers(), clusters)


def _read(maps: Sequence[str | Path]) -> list[Volume]:
    """Return the maps, of which none is another's copy."""
    if len(maps) < FEWEST:
        raise InputError(
            f"{len(maps)} maps: expected at least {FEWEST} of independent repeats or subjects; fewer have too few sign "
            "patterns for a level of 5 %"
        )
    volumes = [io.read(Path(path)) for path in maps]
    seen: dict[str, int] = {}
    for number, volume in enumerate(volumes, start=1):
        volumes[0].require_same_grid(volume, f"map {number}")
        if volume.voxels.shape[0] != 1:
            raise InputError(f"map {number} has {volume.voxels.shape[0]} channels: expected one")
        if volume.unit != volumes[0].unit:
            raise UnitMismatch(f"map {number} is in '{volume.unit}', map 1 in '{volumes[0].unit}': expected one unit")
        other = seen.setdefault(volume.provenance.source.sha256, number)
        if other != number:
            raise InputError(f"maps {other} and {number} are the same: a copy is no independent repeat; leave it out")
    return volumes


def _volumes(mean: Tensor, tested: Significance) -> Iterator[tuple[str, Tensor, str, str]]:
    """Yield name, values of the voxels tested, what they are, and their unit ("" for the maps' own)."""
    level = f"{100 * tested.alpha:g} %"
    yield "mean", mean, "mean over maps", ""
    yield "t", tested.t, "one-sample t statistic over maps", "1"
    yield "effect", tested.effect, "effect size: mean over standard deviation", "1"
    yield "familywise", tested.familywise, f"1 where not zero, {level} error over the whole map", "1"
    yield "falsediscovery", tested.false_discovery, f"1 where not zero, false discovery rate {level}", "1"


def _embedded(like: Volume, values: Tensor, inside: Tensor, words: str, unit: str) -> Volume:
    voxels = torch.zeros(inside.shape)
    voxels[inside] = values.to(torch.float32)
    return like.derive(voxels.numpy()[None], Step(words), unit=unit or like.unit)


def _write_clusters(clusters: Clusters, path: Path) -> None:
    """Write place, extent and largest t of each cluster as tab-separated values."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["cluster", "sign", "peak_x_mm", "peak_y_mm", "peak_z_mm", "peak_t", "volume_mm3"])
        for s in clusters.segmentation.segments:
            place = [f"{p:.3f}" for p in s.peak_mm]
            table.writerow([s.label, f"{s.sign:+d}", *place, f"{s.peak_value:.6g}", f"{s.volume_mm3:.6g}"])
