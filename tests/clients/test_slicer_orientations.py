"""The core of 3D Slicer shows a map's peak in the middle of its views, however the voxels of the scan are turned."""

import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medinterp.io.slicer_scene import pack_mrb, write_scene
from medinterp.volume import Grid, Overlay, Provenance, Source, Volume
from tests.clients.conftest import missing
from tests.clients.scans import impulse, one_voxel_clusters

PROBE = Path(__file__).with_name("slicer_probe.py")
VIEWS, FORMATS = ("Red", "Green", "Yellow"), ("mrml", "mrb")
SHAPE, SPACING, PEAK = (13, 11, 8), (0.9, 1.3, 2.6), (8, 4, 5)
# A voxel's outline is cut at whole pixels, and the middle of an even number of them is half a pixel off, in x and y.
PIXELS = 1.0
WORLD_TOLERANCE_MM = 1e-3
# Which patient axis I, J and K run along, with both directions of each, and turned about all three axes.
ORDERS = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2), (0, 1, 2), (1, 2, 0))
SIGNS = tuple(itertools.product((1, -1), repeat=3))
DEGREES = ((0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (15, -20, 25), (-30, 10, 5), (20, 15, -20), (5, 30, 15))


def axes_of(number: int) -> np.ndarray:
    turn = Rotation.from_euler("xyz", DEGREES[number], degrees=True).as_matrix()
    return turn @ np.eye(3)[:, list(ORDERS[number])] * SIGNS[number]


def letters_of(number: int) -> str:
    """Return where I, J and K go, nearly: RAS, LPS, ..."""
    axes = axes_of(number)
    largest = np.abs(axes).argmax(axis=0)
    return "".join("RAS"[axis] if axes[axis, n] > 0 else "LPI"[axis] for n, axis in enumerate(largest))


ORIENTATIONS = [f"{letters_of(n)}{'' if DEGREES[n] == (0, 0, 0) else '-oblique'}" for n in range(8)]


def spike(number: int) -> tuple[Volume, Overlay]:
    """Return a scan of one orientation and a map with one voxel that is not zero."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes_of(number) * SPACING, (12.5, -31.0, 7.25)
    values = np.random.default_rng(3).normal(300, 40, size=(1, *SHAPE)).astype(np.float32)
    scan = Volume(values, Grid(SHAPE, affine), "a.u.", "MR", Provenance(Source("nifti")))
    return scan, Overlay(scan, impulse(scan, PEAK, 1.0), "spike", "Spike", True, 1.0, one_voxel_clusters(scan, PEAK))


@dataclass(frozen=True)
class Picture:
    """The map's layer in one view, pixels (x, y) with y upwards and RGBA, and where it lies."""

    layer: np.ndarray
    to_ras: np.ndarray

    def off_centre(self) -> float:
        """Return how many pixels the middle of what is coloured lies from the middle of the view."""
        coloured = np.argwhere(self.layer[..., 3] > 0)
        assert len(coloured) > 0, "nothing is coloured"
        return float(np.linalg.norm(coloured.mean(axis=0) - self.middle()))

    def middle(self) -> np.ndarray:
        """Return the pixel that Slicer has the middle of a view at: of 256 number 128."""
        return np.array(self.layer.shape[:2]) / 2


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Picture]:
    """Open all scenes and bundles in one process; starting Slicer takes longer than opening a scene."""
    if importlib.util.find_spec("slicer") is None:
        missing("slicer-core")
    root = tmp_path_factory.mktemp("orientations")
    jobs: list[str] = []
    for number, name in enumerate(ORIENTATIONS):
        scan, overlay = spike(number)
        write_scene(scan, [overlay], root / name)
        for scene in (root / name / "scene.mrml", pack_mrb(root / name, root / f"{name}.mrb")):
            out = root / "shown" / name / scene.suffix[1:]
            out.mkdir(parents=True)
            jobs += ["--", str(scene), str(out)]
    done = subprocess.run([sys.executable, PROBE, *jobs[1:]], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(read_pictures(root / "shown"))


def read_pictures(shown: Path) -> Iterator[tuple[tuple[str, str, str], Picture]]:
    for name, kind in itertools.product(ORIENTATIONS, FORMATS):
        for entry in json.loads((shown / name / kind / "answer.json").read_text())["views"]:
            layer = np.load(shown / name / kind / entry["file"])["layer"]
            yield (name, kind, entry["view"]), Picture(layer, np.array(entry["xy_to_ras"]))


def test_the_orientations_are_eight_and_differ() -> None:
    assert len(set(ORIENTATIONS)) == 8
    assert {np.linalg.det(axes_of(n)) > 0 for n in range(8)} == {True, False}, "both handednesses"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_the_peak_stands_within_a_pixel_of_the_middle_of_the_view(
    name: str, kind: str, view: str, pictures: dict[tuple[str, str, str], Picture]
) -> None:
    assert pictures[name, kind, view].off_centre() < PIXELS


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_the_middle_of_the_view_is_the_peak_s_place_in_the_patient(
    name: str, view: str, pictures: dict[tuple[str, str, str], Picture]
) -> None:
    picture = pictures[name, "mrml", view]
    middle = picture.to_ras @ (*picture.middle(), 0, 1)
    peak = spike(ORIENTATIONS.index(name))[0].grid.to_world(list(PEAK))
    np.testing.assert_allclose(middle[:3], peak, atol=WORLD_TOLERANCE_MM)


def test_control_a_picture_moved_by_two_pixels_is_seen(pictures: dict[tuple[str, str, str], Picture]) -> None:
    picture = pictures[ORIENTATIONS[0], "mrml", "Red"]
    moved = Picture(np.roll(picture.layer, 2, axis=0), picture.to_ras)
    assert moved.off_centre() > PIXELS
