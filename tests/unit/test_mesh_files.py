"""Surfaces enclose what their voxels do, where they lie, and mesh files hold them as their formats say."""

import gzip
import json
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medinterp.errors import EmptyRegion, InputError
from medinterp.io.mesh_files import write_gifti, write_glb, write_mz3
from medinterp.volume import Grid
from medinterp.volume.surface import Surface, enclose
from tests.clients.scans import SCANS

pytest.importorskip("skimage", reason="surfaces need scikit-image, an optional package")
_WARM, _GLASS = (0.86, 0.2, 0.12, 1.0), (0.95, 0.95, 0.95, 0.35)
_AT = (5, 6, 4)


def grid_of(name: str) -> Grid:
    shape, affine, *_ = SCANS[name]
    return Grid(shape, affine)


def one_voxel(name: str, index: tuple[int, int, int] = _AT) -> Surface:
    grid = grid_of(name)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[index] = True
    return enclose(mask, grid, "positive 1", _WARM)


def block(name: str) -> tuple[Surface, float]:
    grid = grid_of(name)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[0:5, 3:9, 2:6] = True
    return enclose(mask, grid, "target", _GLASS), float(mask.sum()) * grid.voxel_volume_mm3


@pytest.mark.parametrize("name", SCANS)
def test_a_surface_around_one_voxel_is_centred_on_it_and_as_large(name: str) -> None:
    grid, surface = grid_of(name), one_voxel(name)
    low, high = surface.vertices.min(axis=0), surface.vertices.max(axis=0)
    # symmetric but for the sampling of marching cubes: a hundredth of the finest edge
    np.testing.assert_allclose((low + high) / 2, grid.to_world(list(_AT)), atol=0.01 * min(grid.spacing_mm))
    # the level is chosen on a lattice of 4 points an edge; the worst of these grids is 7.4 % off
    assert surface.volume_mm3 == pytest.approx(grid.voxel_volume_mm3, rel=0.1)


@pytest.mark.parametrize("name", SCANS)
def test_a_block_at_the_edge_of_the_scan_keeps_its_volume_and_faces_outwards(name: str) -> None:
    surface, expected = block(name)
    # positive: outwards; the worst of these grids is 3.8 % off
    assert surface.volume_mm3 == pytest.approx(expected, rel=0.05)


def test_control_faces_turned_round_have_a_negative_volume() -> None:
    surface, _ = block("axial_ct")
    assert Surface(surface.vertices, surface.faces[:, ::-1].copy(), "", _WARM).volume_mm3 < 0


def test_voxels_that_touch_at_corners_only_are_all_kept() -> None:
    grid = grid_of("oblique_mr")
    mask = np.zeros(grid.shape, dtype=bool)
    mask[(5, 6, 7), (5, 6, 7), (3, 4, 5)] = True
    surface = enclose(mask, grid, "diagonal", _WARM)
    for index in np.argwhere(mask):
        away = np.linalg.norm(surface.vertices - grid.to_world(index), axis=1).min()
        assert away < max(grid.spacing_mm)
    assert surface.volume_mm3 == pytest.approx(3 * grid.voxel_volume_mm3, rel=0.05)


def test_a_set_that_fills_a_large_scan_is_sampled_more_coarsely_and_still_enclosed() -> None:
    grid = Grid((90, 90, 90), np.diag([1.0, 1.0, 1.0, 1.0]))
    mask = np.ones(grid.shape, dtype=bool)
    assert enclose(mask, grid, "all", _WARM).volume_mm3 == pytest.approx(90**3, rel=0.01)


def test_nothing_has_no_surface_and_no_surface_no_file(tmp_path: Path) -> None:
    grid = grid_of("axial_ct")
    with pytest.raises(EmptyRegion, match="holds no voxel"):
        enclose(np.zeros(grid.shape, dtype=bool), grid, "nothing", _WARM)
    for write in (lambda: write_mz3([], tmp_path / "a.mz3"), lambda: write_glb([], tmp_path / "a.glb", description="")):
        with pytest.raises(InputError, match="no surface"):
            write()


def test_gifti_holds_vertices_in_scanner_mm_and_faces(tmp_path: Path) -> None:
    surface = one_voxel("oblique_mr")
    image = nibabel.load(write_gifti(surface, tmp_path / "a.surf.gii", description="Saliency"))
    points, triangles = image.agg_data("pointset"), image.agg_data("triangle")
    np.testing.assert_array_equal(points, surface.vertices)
    np.testing.assert_array_equal(triangles, surface.faces)
    assert image.darrays[0].coordsys.dataspace == nibabel.nifti1.xform_codes["scanner"]
    assert image.meta["Description"] == "Saliency; research use only"


def test_mz3_joins_surfaces_and_colours_their_vertices(tmp_path: Path) -> None:
    parts = [one_voxel("oblique_mr"), block("oblique_mr")[0]]
    raw = gzip.decompress(write_mz3(parts, tmp_path / "a.mz3").read_bytes())
    magic, attributes, faces, vertices, skipped = struct.unpack("<HHIII", raw[:16])
    assert (magic, attributes, skipped) == (23117, 7, 0)
    triangles = np.frombuffer(raw, "<i4", 3 * faces, 16).reshape(-1, 3)
    points = np.frombuffer(raw, "<f4", 3 * vertices, 16 + 12 * faces).reshape(-1, 3)
    colours = np.frombuffer(raw, "u1", 4 * vertices, 16 + 12 * (faces + vertices)).reshape(-1, 4)
    first = len(parts[0].faces)
    np.testing.assert_array_equal(points[triangles[:first]], parts[0].vertices[parts[0].faces])
    np.testing.assert_array_equal(points[triangles[first:]], parts[1].vertices[parts[1].faces])
    assert colours[0].tolist() == [219, 51, 31, 255]
    assert colours[-1].tolist() == [242, 242, 242, 89]


def read_glb(path: Path) -> tuple[dict, bytes]:
    """Return the JSON and the binary chunk of a glb file, by the definition of the standard."""
    raw = path.read_bytes()
    assert struct.unpack("<4sII", raw[:12]) == (b"glTF", 2, len(raw))
    size = struct.unpack("<I", raw[12:16])[0]
    return json.loads(raw[20 : 20 + size]), raw[28 + size :]


def test_glb_has_a_named_coloured_node_each_in_metres_with_y_up(tmp_path: Path) -> None:
    pytest.importorskip("trimesh", reason="glb files need trimesh, an optional package")
    parts = [block("oblique_mr")[0], one_voxel("oblique_mr")]
    scene, _ = read_glb(write_glb(parts, tmp_path / "a.glb", description="Größe"))
    meshes = {mesh["name"]: mesh["primitives"][0] for mesh in scene["meshes"]}
    assert set(meshes) == {"target", "positive 1"}
    assert {node["name"] for node in scene["nodes"] if "mesh" in node} == set(meshes)
    for part in parts:
        primitive = meshes[part.name]
        place = scene["accessors"][primitive["attributes"]["POSITION"]]
        x, y, z = part.vertices.astype(float).T
        expected = np.stack([x, z, -y]) / 1000  # right, superior, posterior turned to the front: glTF's x, y, z
        np.testing.assert_allclose(place["min"], expected.min(axis=1), atol=1e-7)  # single precision at 0.1 m
        np.testing.assert_allclose(place["max"], expected.max(axis=1), atol=1e-7)
        material = scene["materials"][primitive["material"]]
        assert material.get("alphaMode", "OPAQUE") == ("BLEND" if part.colour[3] < 1 else "OPAQUE")
        assert "NORMAL" in primitive["attributes"]
