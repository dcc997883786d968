"""Significance from the command line: planted effects are found in mm, copies and strangers are refused."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from medinterp.cli import app
from medinterp.errors import GridMismatch, InputError, UnitMismatch
from medinterp.map_significance import find_significance

SHAPE, SPACING_MM = (10, 10, 10), 2.0
EFFECT = (slice(3, 6), slice(3, 6), slice(3, 6))


def write(path: Path, seed: int, *, effect: float = 6.0, spacing_mm: float = SPACING_MM, unit: str = "a.u.") -> Path:
    voxels = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    voxels[EFFECT] += effect
    voxels[:, :, 8:] = 0  # nothing was computed there
    image = nibabel.Nifti1Image(voxels, np.diag([spacing_mm] * 3 + [1.0]))
    image.set_sform(image.affine, code=1)
    image.to_filename(path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"Modality": "MR", "Unit": unit}))
    return path


@pytest.fixture
def maps(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{seed}.nii.gz", seed) for seed in range(12)]


def test_a_planted_effect_is_found_with_its_extent_in_millimetres(maps: list[Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    done = CliRunner().invoke(app, ["significance", *map(str, maps), "-o", str(study), "--flips", "200"])
    assert done.exit_code == 0, done.output
    assert "never 'important'" in done.output
    with (study / "clusters.tsv").open() as file:
        first = next(csv.DictReader(file, delimiter="\t"))
    assert float(first["volume_mm3"]) == pytest.approx(27 * SPACING_MM**3)
    assert all(3 <= float(first[f"peak_{axis}_mm"]) / SPACING_MM <= 5 for axis in "xyz")
    record = json.loads((study / "run.json").read_text())
    assert record["significance"]["voxels"] == 10 * 10 * 8
    assert len(set(record["maps_sha256"])) == len(maps)
    effect = nibabel.load(study / "maps_desc-effect_map.nii.gz").get_fdata()
    assert effect[EFFECT].mean() == pytest.approx(6, rel=0.25)  # 7 % too large of 12 maps; standard error 5 %
    assert nibabel.load(study / "maps_desc-familywise_map.nii.gz").get_fdata()[EFFECT].all()


def test_maps_without_effect_must_show_nothing_where_single_voxels_would(tmp_path: Path) -> None:
    maps = [write(tmp_path / f"{seed}.nii.gz", seed, effect=0.0) for seed in range(12)]
    found = find_significance(maps, tmp_path / "study", flips=200)
    t = nibabel.load(found.folder / "maps_desc-t_map.nii.gz").get_fdata()
    assert found.numbers.familywise_voxels == found.numbers.false_discovery_voxels == 0
    assert (np.abs(t) > 2.2).sum() > 10  # 5 % of 800 voxels by chance
    assert not found.clusters.segmentation.segments


def test_copies_few_maps_other_grids_and_other_units_are_refused(maps: list[Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    with pytest.raises(InputError, match="at least 6"):
        find_significance(maps[:5], study)
    with pytest.raises(InputError, match="maps 1 and 13 are the same"):
        find_significance([*maps, maps[0]], study)
    with pytest.raises(GridMismatch, match="map 13"):
        find_significance([*maps, write(tmp_path / "other.nii.gz", 20, spacing_mm=1.9)], study)
    with pytest.raises(UnitMismatch, match="map 13"):
        find_significance([*maps, write(tmp_path / "other.nii.gz", 20, unit="HU")], study)
    assert not study.exists()
