"""The Khronos validator finds no error and no warning in our glb files."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from medinterp.io.mesh_files import write_glb
from medinterp.volume import Grid
from medinterp.volume.surface import enclose
from tests.clients.scans import SCANS

_ROOT = Path(__file__).parents[2]
_SCRIPT = """
const validator = require('gltf-validator'), fs = require('fs');
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then(report => console.log(JSON.stringify(report)), error => { console.error(String(error)); process.exit(1); });
"""


def validate(path: Path) -> dict:
    """Return what the validator says; it is a package of node's, in node_modules here or in a folder above."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    found = subprocess.run(
        [node, "-e", "require.resolve('gltf-validator')"], cwd=_ROOT, capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip("gltf-validator is not installed (npm install --no-save gltf-validator)")
    done = subprocess.run([node, "-e", _SCRIPT, str(path)], cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def glb_of(name: str, path: Path) -> Path:
    shape, affine, *_ = SCANS[name]
    labels = np.zeros(shape, dtype=int)
    labels[2:7, 3:9, 2:6], labels[9, 8, 7] = 1, 2
    colours = {1: (0.95, 0.95, 0.95, 0.35), 2: (0.22, 0.44, 0.88, 1.0)}
    parts = [enclose(labels == label, Grid(shape, affine), f"part {label}", colours[label]) for label in (1, 2)]
    return write_glb(parts, path, description="Größe of the map")


@pytest.mark.parametrize("name", SCANS)
def test_the_khronos_validator_finds_no_error_and_no_warning(name: str, tmp_path: Path) -> None:
    issues = validate(glb_of(name, tmp_path / "a.glb"))["issues"]
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]


def test_control_the_validator_finds_a_triangle_that_names_no_vertex(tmp_path: Path) -> None:
    path = glb_of("axial_ct", tmp_path / "a.glb")
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"count":', b'"count":9', 1))
    assert validate(path)["issues"]["numErrors"] > 0
