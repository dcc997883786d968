"""A look inside the network by every door: the same files, in their place, labelled, and refused where it must be."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from typer.testing import CliRunner

import medinterp
from medinterp.catalogue import find_bundle
from medinterp.cli import app
from medinterp.errors import ConfigError, GridMismatch, MethodNotValid
from tests.integration.scans import write_scan

_BLOCK = "body.inner.up.0.relu"
_TARGET = "sphere:3,-4,2,5"


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.nii.gz")


@pytest.fixture(scope="module")
def by_python(scan: Path) -> Path:
    return medinterp.features(scan, scan.parent / "python", kind="pca", block=_BLOCK, count=2).folder


def _files(folder: Path) -> dict[str, str]:
    """Return the hash of every volume, sidecar, table and picture."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "run.json")
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def _values(path: Path) -> NDArray[np.float64]:
    return np.asarray(nibabel.load(path).get_fdata())


def _mask(scan: Path, name: str, inside: NDArray[np.bool_]) -> Path:
    path = scan.parent / f"{name}.nii.gz"
    nibabel.Nifti1Image(inside.astype(np.uint8), nibabel.load(scan).affine).to_filename(path)
    return path


def _bright(scan: Path) -> NDArray[np.bool_]:
    return np.asarray(_values(scan) > 40)


def test_the_command_line_writes_the_files_of_python(scan: Path, by_python: Path) -> None:
    command = [
        "features",
        str(scan),
        "-o",
        str(scan.parent / "cli"),
        "--kind",
        "pca",
        "--block",
        _BLOCK,
        "--count",
        "2",
    ]
    done = CliRunner().invoke(app, [*command, "--progress", "none"])
    assert done.exit_code == 0, done.output
    assert _files(scan.parent / "cli") == _files(by_python)
    assert "explained_share" in done.output
    assert "No tissue classes" in done.output


def test_the_bundle_configuration_writes_the_files_of_python(scan: Path, by_python: Path) -> None:
    bundle = find_bundle("mri_denoise")
    arguments = {
        "config_file": str(bundle / "configs" / "features.json"), "bundle_root": str(bundle), "dataset_dir": str(scan),
        "output_dir": str(scan.parent / "monai"), "kind": "pca", "block": _BLOCK, "count": "2",
    }  # fmt: skip
    command = [sys.executable, "-m", "monai.bundle", "run"]
    for key, value in arguments.items():
        command += [f"--{key}", value]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert _files(scan.parent / "monai") == _files(by_python)


@pytest.mark.parametrize("bundle", ["mri_denoise", "ct_denoise"])
def test_a_bundle_configuration_names_every_option(bundle: str) -> None:
    config = json.loads((find_bundle(bundle) / "configs" / "features.json").read_text())
    assert {f"@{key}" for key in medinterp.FeatureOptions.__dataclass_fields__} <= set(config["run"].values())


def test_a_component_lies_in_its_place_on_both_grids(scan: Path, by_python: Path) -> None:
    fine = nibabel.load(by_python / "nifti" / "scan_desc-pcacomponent1_map.nii.gz")
    coarse = nibabel.load(by_python / "nifti" / "scan_space-block_desc-pcacomponent1_map.nii.gz")
    original = nibabel.load(scan)
    assert fine.shape == original.shape
    assert np.allclose(fine.affine, original.affine, atol=1e-3)  # float32 headers
    assert np.allclose(coarse.header.get_zooms(), 4 * np.array(original.header.get_zooms()), rtol=1e-5)
    # the first of the block's voxels stands for the scan's first four, whose centre is 1.5 voxels from the first
    assert np.allclose(coarse.affine[:3, 3], apply_affine(original.affine, [1.5, 1.5, 1.5]), atol=1e-3)
    index = np.indices(fine.shape).reshape(3, -1).T
    place = apply_affine(np.linalg.inv(coarse.affine) @ fine.affine, index)
    sampled = map_coordinates(coarse.get_fdata(), place.T, order=1, mode="nearest").reshape(fine.shape)
    # an independent linear interpolation by the two headers alone, whose affines are float32
    assert np.allclose(sampled, fine.get_fdata(), atol=1e-4 * np.abs(sampled).max())


def test_table_sidecar_and_record_say_what_it_is_and_what_it_is_not(scan: Path, by_python: Path) -> None:
    sidecar = json.loads((by_python / "nifti" / "scan_space-block_desc-pcacomponent1_map.json").read_text())
    assert (sidecar["Block"], sidecar["Seed"], sidecar["Unit"]) == (_BLOCK, 0, "a.u.")
    assert sidecar["DoesNotMean"].startswith("Along what a block's features vary most")
    assert sidecar["BlockPlaceExact"] is True
    with (by_python / "features.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["component"] for row in rows] == ["1", "2"]
    assert 0 < float(rows[1]["explained_share"]) <= float(rows[0]["explained_share"]) < 1
    record = json.loads((by_python / "run.json").read_text())
    assert record["features"]["kind"] == record["parameters"]["kind"] == "pca"
    assert record["features"]["rows"][0]["stability"] > 0.9  # one strongest component of a blob
    assert {entry["path"] for entry in record["files"]} == set(_files(by_python))
    assert str(scan.parent) not in json.dumps(record)


def test_activations_near_a_target_are_those_of_the_whole_scan_and_zero_elsewhere(scan: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"block": "body.up", "channels": (0, 5)}
    whole = medinterp.features(scan, tmp_path / "whole", **options)
    near = medinterp.features(scan, tmp_path / "near", targets=(_TARGET,), margin_mm=3.0, **options)
    name = "nifti/scan_desc-activationschannel5_map.nii.gz"
    everywhere, around = _values(whole.folder / name), _values(near.folder / name)
    computed = around != 0
    assert 0 < computed.mean() < 0.2
    inner = np.argwhere(computed)
    core = tuple(slice(low + 2, high - 1) for low, high in zip(inner.min(axis=0), inner.max(axis=0), strict=True))
    # two voxels from the border interpolation no longer meets what was not computed
    assert np.allclose(around[core], everywhere[core], atol=1e-3 * np.abs(everywhere).max())
    row = near.result.rows[0]
    assert {"mean_in_target", "mean_around", "standing_out_sd"} <= set(row)
    assert any("within 3 mm of the target" in note for note in near.result.notes)


def test_parts_are_nowhere_negative(scan: Path, tmp_path: Path) -> None:
    study = medinterp.features(scan, tmp_path / "out", kind="nmf", block=_BLOCK, count=2)
    assert _values(study.folder / "nifti" / "scan_desc-nmfpart1_map.nii.gz").min() >= 0
    with pytest.raises(medinterp.errors.InputError, match="ends in a ReLU"):
        medinterp.features(scan, tmp_path / "signed", kind="nmf", block="body.up", count=2)


def test_a_concept_that_the_block_knows_is_scored_and_its_map_sums_to_the_score(scan: Path, tmp_path: Path) -> None:
    mask = _mask(scan, "bright", _bright(scan))
    study = medinterp.features(
        scan, tmp_path / "out", kind="concepts", concepts=(f"bright={mask}",), targets=(_TARGET,), block="body.up",
        permutations=39,
    )  # fmt: skip
    (row,) = study.result.rows
    assert row["p_separability"] == 1 / 40
    total = _values(study.folder / "nifti" / "scan_space-block_desc-conceptsbrightsensitivity_map.nii.gz").sum()
    assert total == pytest.approx(row["sensitivity"], rel=1e-4)  # stored as float32
    assert str(mask) not in (study.folder / "run.json").read_text()


def test_a_concept_that_is_drawn_at_random_must_be_refused(scan: Path, tmp_path: Path) -> None:
    mask = _mask(scan, "chance", np.random.default_rng(3).random(nibabel.load(scan).shape) > 0.5)
    with pytest.raises(MethodNotValid, match="does not tell the concept 'chance' from the same mask at random places"):
        medinterp.features(
            scan, tmp_path / "out", kind="concepts", concepts=(f"chance={mask}",), targets=(_TARGET,), block="body.up",
            permutations=39,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_stimulus_is_labelled_wherever_it_is_seen_and_lies_in_no_patient(scan: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"kind": "stimulus", "channels": (3,), "block": "body.down.0", "size": 16}
    study = medinterp.features(scan, tmp_path / "out", ascent_steps=2, **options)
    (volume,) = study.folder.rglob("*.nii.gz")
    assert volume.name == "stimulus-not-anatomy_desc-channel3_stimulus.nii.gz"
    assert volume.with_name(volume.name.replace(".nii.gz", ".json")).read_text().count("not anatomy") >= 2
    assert b"stimulus, not anatomy" in nibabel.load(volume).header["descrip"].tobytes()
    assert nibabel.load(volume).affine[:3, 3] == pytest.approx(0)
    again = medinterp.features(scan, tmp_path / "again", ascent_steps=2, **options)
    other = medinterp.features(scan, tmp_path / "other", ascent_steps=2, seed=1, **options)
    assert _files(again.folder) == _files(study.folder)
    assert not np.array_equal(_values(next(other.folder.rglob("*.nii.gz"))), _values(volume))


def test_blocks_are_listed_without_an_output(scan: Path) -> None:
    done = CliRunner().invoke(app, ["features", str(scan), "--list-blocks"])
    assert done.exit_code == 0, done.output
    line = next(line for line in done.output.splitlines() if line.startswith(f"{_BLOCK} "))
    assert line.split() == [_BLOCK, "ReLU", "112", "4.4", "x", "4.4", "x", "6", "1", "exact"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--block", "tail"], 4, "no block 'tail' returned a feature map; there are:"),
        (["--channel", "500"], 4, "channel 500 of the block"),
        (["--kind", "pca", "--count", "500"], 4, "500 components"),
        (["--target", "auto"], 4, "features take one --target"),
        (["--kind", "stimulus", "--channel", "0", "--target", _TARGET], 4, "leave --target out"),
        (["--target", "sphere:900,0,0,3"], 3, "sphere"),
    ],
)
def test_bad_questions_give_one_line(scan: Path, tmp_path: Path, options: list[str], code: int, words: str) -> None:
    done = CliRunner().invoke(app, ["features", str(scan), "-o", str(tmp_path / "out"), "--progress", "none", *options])
    assert (done.exit_code, done.output.count("\n")) == (code, 1), done.output
    assert words in done.output
    assert not (tmp_path / "out").exists()


def test_masks_on_another_grid_and_concepts_without_a_target_are_refused(scan: Path, tmp_path: Path) -> None:
    other = write_scan(tmp_path / "other.nii.gz", shift_mm=2.0)
    good = _mask(scan, "good", _bright(scan))
    with pytest.raises(GridMismatch, match="the mask of 'far'"):
        medinterp.features(scan, tmp_path / "out", kind="concepts", concepts=(f"far={other}",), targets=(_TARGET,))
    with pytest.raises(ConfigError, match="concepts need a --target"):
        medinterp.features(scan, tmp_path / "out", kind="concepts", concepts=(f"good={good}",))
