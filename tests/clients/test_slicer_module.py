"""The Slicer module's logic in Slicer's core: it asks medinterp itself, and shows the answer in its place."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import medinterp
from tests.clients.conftest import missing
from tests.integration.scans import write_scan

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    if importlib.util.find_spec("slicer") is None:
        missing("slicer-core")
    work = tmp_path_factory.mktemp("slicer")
    scan = write_scan(work / "scan.nii.gz", shape=(32, 28, 24))
    image = nibabel.load(scan)
    distance = np.linalg.norm(
        np.moveaxis(np.indices(image.shape), 0, -1) @ image.affine[:3, :3].T + image.affine[:3, 3], axis=-1
    )
    mask = nibabel.Nifti1Image((distance <= 4).astype(np.uint8), image.affine)
    mask.to_filename(work / "mask.nii.gz")
    second, study = write_scan(work / "second.nii.gz", shape=(32, 28, 24), seed=1), work / "with_states"
    medinterp.run(scan, study, sampler="ode", steps=3, trajectory=True, targets=("sphere:0,0,0,4",), export="slicer")
    program = Path(sys.executable).with_name("medinterp")
    files = [program, scan, second, work / "mask.nii.gz", study, work]
    call = [sys.executable, "-m", "tests.clients.slicer_module_probe", *files]
    done = subprocess.run(
        list(map(str, call)), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((work / "answer.json").read_text()), work


def test_the_map_is_the_one_of_the_command_line(asked: tuple[dict[str, Any], Path]) -> None:
    found, work = asked
    options = {"targets": ("sphere:0,0,0,4",), "methods": ("saliency",), "halo": 8, "whole": False}
    study = medinterp.run(work / "scan.nii.gz", work / "by_hand", **options)
    expected = study.result.explanations[0].maps["scan"]
    shown = np.array(found["sphere"]["map"]["voxels"]).reshape(expected.grid.shape, order="F")
    np.testing.assert_array_equal(shown, expected.voxels[0].astype(np.float64))
    np.testing.assert_allclose(found["sphere"]["map"]["affine"], expected.grid.affine, atol=1e-4)  # stored as float32


def test_a_segment_is_the_region_that_was_drawn(asked: tuple[dict[str, Any], Path]) -> None:
    found, _ = asked
    np.testing.assert_array_equal(found["segment"]["map"]["voxels"], found["sphere"]["map"]["voxels"])


def test_the_map_is_on_top_in_signed_colours_and_the_view_is_on_it(asked: tuple[dict[str, Any], Path]) -> None:
    found, _ = asked
    for one in (found["sphere"], found["segment"]):
        assert one["on_top"]
        assert one["map"]["colour"] == "medinterp diverging"
        assert one["map"]["level"] == 0
        assert one["map"]["window"] > 0
        assert not one["map"]["threshold"]  # it would hide the negative half
        assert one["clusters"][0] >= 1
        assert np.linalg.norm(one["view"]) < 8  # mm from the centre of the sphere of 4 mm
        assert one["map"]["name"].startswith("scan: Saliency of the mean in ")


def test_two_scans_are_fused_and_each_gets_its_map(asked: tuple[dict[str, Any], Path]) -> None:
    found, work = asked
    assert set(found["fused"]) == {"scan", "second", "fused"}
    assert all("saliency-mean" in found["fused"][name] for name in ("scan", "second"))
    assert json.loads((work / "fused" / "run.json").read_text())["fusion"]["ledger"]["evaluations"] == 4


def test_the_states_from_scan_to_image_are_a_sequence_in_order(asked: tuple[dict[str, Any], Path]) -> None:
    found, work = asked
    index, states = found["trajectory"]["index"], np.array(found["trajectory"]["states"])
    scan = nibabel.load(work / "scan.nii.gz").get_fdata(dtype=np.float32)
    image = nibabel.load(work / "with_states" / "slicer" / "scan" / "base.nii.gz").get_fdata(dtype=np.float32)
    assert index[0] == 0
    assert index[-1] == 100
    assert index == sorted(index)
    assert len(index) == 4
    assert found["trajectory"]["played"]
    np.testing.assert_array_equal(states[0], scan.ravel(order="F"))
    np.testing.assert_array_equal(states[-1], image.ravel(order="F"))
    changes = [np.abs(later - before).max() for before, later in itertools.pairwise(states)]
    assert min(changes) > 0


def test_a_scan_that_a_transform_moves_is_refused(asked: tuple[dict[str, Any], Path]) -> None:
    assert "harden it" in asked[0]["moved"]


def test_a_study_that_cannot_be_read_leaves_no_nodes(asked: tuple[dict[str, Any], Path]) -> None:
    assert "cannot be read" in asked[0]["broken"]
    assert asked[0]["left"] == 0
