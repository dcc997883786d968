"""The core of 3D Slicer opens our scenes and shows every map in its place, with both signs."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medinterp.io.slicer_scene import pack_mrb, write_scene
from medinterp.volume import Overlay, Step, Volume
from tests.clients.conftest import missing
from tests.clients.scans import impulse, make_scan, map_on, one_voxel_clusters

PROBE = Path(__file__).with_name("slicer_probe.py")
PEAK, TROUGH = (9, 4, 6), (3, 8, 2)
LIMIT = 1e-3
# A view shows about 45 mm on 256 pixels, and a voxel's outline is cut at whole pixels: its centroid is good to a pixel.
PIXEL_MM = 0.2
WORLD_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class Shown:
    """What Slicer said about a scene, and the folder with its pictures."""

    answer: dict[str, Any]
    folder: Path

    def coloured(self, view: str, point: tuple[float, float, float] | None, sign: int) -> np.ndarray:
        """Return the RAS mm (n, 3) of the pixels where the map's layer is warm (+1) or cool (-1)."""
        wanted = None if point is None else list(point)
        (entry,) = (e for e in self.answer["views"] if e["view"] == view and e["point"] == wanted)
        layer = np.load(self.folder / entry["file"])["layer"].astype(int)
        red_minus_blue = (layer[..., 0] - layer[..., 2]) * sign
        pixels = np.argwhere((layer[..., 3] > 0) & (red_minus_blue > 40))
        to_ras = np.array(entry["xy_to_ras"])
        return pixels @ to_ras[:3, :2].T + to_ras[:3, 3]

    def blended(self, view: str, point: tuple[float, float, float]) -> np.ndarray:
        (entry,) = (e for e in self.answer["views"] if e["view"] == view and e["point"] == list(point))
        return np.load(self.folder / entry["file"])["blended"].astype(int)


def show(scene: Path, folder: Path, *points: tuple[float, float, float]) -> Shown:
    if importlib.util.find_spec("slicer") is None:
        missing("slicer-core")
    folder.mkdir()
    call = [sys.executable, str(PROBE), str(scene), str(folder), *(",".join(map(repr, p)) for p in points)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    return Shown(json.loads((folder / "answer.json").read_text()), folder)


def world(scan: Volume, index: tuple[int, int, int]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in scan.grid.to_world(list(index)))
    return x, y, z


def two_spikes(scan: Volume) -> Volume:
    values = impulse(scan, PEAK, 0.9 * LIMIT).voxels + impulse(scan, TROUGH, -0.8 * LIMIT).voxels
    return map_on(scan, values)


def scaled(scan: Volume, factor: float) -> Volume:
    return scan.derive(factor * scan.voxels, Step("scaled", {"factor": factor}))


def overlay_of(scan: Volume, map: Volume, *, signed: bool = True) -> Overlay:
    return Overlay(scan, map, "saliency", "Saliency", signed, LIMIT, one_voxel_clusters(scan, PEAK, TROUGH))


@pytest.fixture(scope="module")
def scan() -> Volume:
    return make_scan("oblique_mr")


@pytest.fixture(scope="module")
def folder(scan: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    states = {1.0: scan, 0.4: scaled(scan, 0.5), 0.0: scaled(scan, 0.25)}
    write_scene(scan, [overlay_of(scan, two_spikes(scan))], folder, trajectory=states)
    return folder


@pytest.fixture(scope="module", params=["mrml", "mrb"])
def shown(
    request: pytest.FixtureRequest, scan: Volume, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Shown:
    out = tmp_path_factory.mktemp(request.param)
    scene = folder / "scene.mrml" if request.param == "mrml" else pack_mrb(folder, out / "scene.mrb")
    return show(scene, out / "shown", world(scan, PEAK), world(scan, TROUGH))


def assert_centred(points: np.ndarray, expected: tuple[float, float, float]) -> None:
    assert len(points) > 0, "no coloured pixel"
    away = float(np.linalg.norm(points.mean(axis=0) - expected))
    assert away < PIXEL_MM, f"the colour's centre is {away:.3g} mm from its place"


def test_slicer_opens_scan_map_and_clusters_with_their_names(shown: Shown) -> None:
    assert shown.answer["opened"]
    assert set(shown.answer["volumes"]) == {"Scan", "saliency"}
    assert [segment["name"] for segment in shown.answer["segments"]] == ["cluster 1", "cluster 2"]


def test_slicer_plays_the_trajectory_from_the_scan_to_the_image(shown: Shown, scan: Volume) -> None:
    (sequence,) = shown.answer["sequences"]
    highest = float(scan.voxels.max())
    assert sequence["index"] == [0.0, 60.0, 100.0]
    np.testing.assert_allclose(sequence["highest"], [highest, highest / 2, highest / 4], rtol=1e-6)
    assert sequence["unit"] == "noise_taken_off_percent"
    assert shown.answer["played"] == ["Trajectory"]


def test_slicer_places_scan_and_map_on_the_grid(shown: Shown, scan: Volume) -> None:
    for volume in shown.answer["volumes"].values():
        assert tuple(volume["shape"]) == scan.grid.shape
        assert volume["type"] == "float"
        affine = np.array(volume["affine"])
        corner = np.array([*(n - 1 for n in scan.grid.shape), 1])
        np.testing.assert_allclose(affine @ corner, scan.grid.affine @ corner, atol=WORLD_TOLERANCE_MM)
        np.testing.assert_allclose(affine[:, 3], scan.grid.affine[:, 3], atol=WORLD_TOLERANCE_MM)


def test_slicer_shows_the_map_over_its_signed_range_without_threshold(shown: Shown) -> None:
    saliency = shown.answer["volumes"]["saliency"]
    assert saliency["colour"] == "medinterp diverging"
    assert (saliency["window"], saliency["level"], saliency["threshold"]) == (2 * LIMIT, 0.0, 0)


def test_slicer_places_the_clusters_at_their_peaks(shown: Shown, scan: Volume) -> None:
    for segment, index in zip(shown.answer["segments"], (PEAK, TROUGH), strict=True):
        assert len(segment["points"]) == 1
        np.testing.assert_allclose(segment["points"][0], world(scan, index), atol=WORLD_TOLERANCE_MM)


@pytest.mark.parametrize("view", ["Red", "Green", "Yellow"])
def test_the_views_open_centred_on_the_peak_in_warm_colour(shown: Shown, scan: Volume, view: str) -> None:
    assert_centred(shown.coloured(view, None, +1), world(scan, PEAK))


@pytest.mark.parametrize("view", ["Red", "Green", "Yellow"])
def test_jumping_to_the_trough_shows_it_in_cool_colour(shown: Shown, scan: Volume, view: str) -> None:
    assert_centred(shown.coloured(view, world(scan, TROUGH), -1), world(scan, TROUGH))


def test_the_scan_shows_in_grey_around_the_map(shown: Shown, scan: Volume) -> None:
    picture = shown.blended("Red", world(scan, PEAK))
    grey = (np.ptp(picture[..., :3], axis=-1) == 0) & (picture[..., 0] > 0)
    assert grey.mean() > 0.1


def test_one_picture_shows_both_signs_at_their_places(scan: Volume, tmp_path: Path) -> None:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in scan.grid.shape), indexing="ij"), axis=-1)
    where = scan.grid.to_world(index)
    warm = np.array(world(scan, (11, 6, 5)))
    cool = warm + np.array([-7.0, 1.5, 0.0])  # the same axial plane
    blobs = [np.exp(-((where - place) ** 2).sum(axis=-1) / (2 * 1.8**2)) for place in (warm, cool)]
    saliency = map_on(scan, (blobs[0] - blobs[1])[None] * LIMIT)
    write_scene(scan, [overlay_of(scan, saliency)], tmp_path / "scene")
    point = (float(warm[0]), float(warm[1]), float(warm[2]))
    shown = show(tmp_path / "scene" / "scene.mrml", tmp_path / "shown", point)
    for place, sign in ((warm, +1), (cool, -1)):
        away = np.linalg.norm(shown.coloured("Red", point, sign).mean(axis=0) - place)
        assert away < 1.25, f"sign {sign}: {away:.3g} mm, more than half a voxel"  # voxels are 0.9 x 1.1 x 2.5 mm
    red, green, blue = (shown.blended("Red", point)[..., channel] for channel in range(3))
    assert ((red > green + 60) & (red > blue + 60)).sum() > 100
    assert ((blue > red + 60) & (blue > green + 30)).sum() > 100


def test_control_a_left_right_flipped_map_fails_the_place_check(scan: Volume, tmp_path: Path) -> None:
    flipped = map_on(scan, two_spikes(scan).voxels[:, ::-1])
    write_scene(scan, [overlay_of(scan, flipped)], tmp_path / "scene")
    shown = show(tmp_path / "scene" / "scene.mrml", tmp_path / "shown", world(scan, PEAK))
    with pytest.raises(AssertionError, match=r"no coloured pixel|from its place"):
        assert_centred(shown.coloured("Red", world(scan, PEAK), +1), world(scan, PEAK))


def test_the_scan_has_a_volume_rendering_preset_that_is_off(shown: Shown, scan: Volume) -> None:
    (found,) = shown.answer["renderings"]
    assert found["volume"] == "Scan"
    assert not found["visible"]
    assert found["opacity"][0] == 0.0
    assert found["opacity"][1] == pytest.approx(0.6)
    low, high = np.percentile(scan.voxels, (0.5, 99.5))  # what the slices show as black and white
    assert found["range"] == pytest.approx([low, high], rel=1e-6)
    assert found["bright"] == pytest.approx([1.0, 0.96, 0.92])
