"""Slices on the wall: sides, proportions and colours of the pictures."""

from io import BytesIO
from itertools import permutations, product

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from medinterp.export.canvas import Picture
from medinterp.export.mosaic import (
    before_and_after,
    close_up,
    comparison,
    display_window,
    point_words,
    slice_mosaic,
    through_peak,
)
from medinterp.export.overlay import make_overlay
from medinterp.export.slices import obliqueness_deg, orientation, own_plane, planes
from medinterp.volume import Grid, Overlay, Provenance, Source, Volume, sphere


def volume(values: np.ndarray, affine: np.ndarray, unit: str = "a.u.") -> Volume:
    voxels = np.asarray(values, dtype=np.float32)
    return Volume(voxels[None], Grid(voxels.shape, affine), unit, "MR", Provenance(Source("memory")))


def axis_aligned_affines() -> list[np.ndarray]:
    """Return all 48 ways in which voxel axes can follow world axes, with three different spacings."""
    affines = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = (np.diag(signs) @ np.eye(3)[list(order)]) * np.array([1.0, 2.0, 3.5])
        affines.append(affine)
    return affines


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(picture.png)).convert("RGB")).astype(int)


def warm_and_cool(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """Return the places (row, column) of warm and of cool pixels above the legends."""
    rgb = pixels(picture)[: picture.height - 100]
    return np.argwhere(rgb[..., 0] - rgb[..., 2] > 60), np.argwhere(rgb[..., 2] - rgb[..., 0] > 60)


def test_pictures_run_from_right_anterior_and_superior_in_all_48_orientations():
    for affine in axis_aligned_affines():
        grid = Grid((4, 5, 6), affine)
        world = np.moveaxis(grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)), -1, 0)
        for plane, across, down in zip(planes(grid), (0, 0, 1), (1, 2, 2), strict=True):
            horizontal, vertical = (plane.cut(world[w], 1) for w in (across, down))
            assert (np.diff(horizontal, axis=1) < 0).all()  # towards left or posterior
            assert (np.diff(vertical, axis=0) < 0).all()  # towards posterior or inferior
            assert plane.pixel_mm == pytest.approx(
                (-np.diff(horizontal, axis=1).max(), -np.diff(vertical, axis=0).max())
            )
            expected = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}[plane.name]
            assert "".join(plane.letters) == expected


def test_a_voxel_is_found_again_at_its_place_in_the_picture():
    for affine in axis_aligned_affines():
        grid = Grid((4, 5, 6), affine)
        values = np.arange(120, dtype=np.float32).reshape(grid.shape)
        for plane in planes(grid):
            column, row = plane.place((1, 3, 2), grid.shape)
            assert plane.cut(values, (1, 3, 2)[plane.normal])[int(row), int(column)] == values[1, 3, 2]


def test_an_oblique_slice_has_two_letters_a_side_and_its_angle_is_named():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", 30, degrees=True).as_matrix()
    grid = Grid((5, 5, 5), affine)
    assert planes(grid)[0].letters == ("R", "L", "AS", "PI")
    assert orientation(grid) == "RAS"
    assert obliqueness_deg(grid) == pytest.approx(30.0)


def test_the_own_plane_of_a_scan_lies_across_its_thick_slices():
    assert own_plane(Grid((9, 9, 9), np.diag([4.0, 1.0, 1.0, 1.0]))).name == "sagittal"
    assert own_plane(Grid((9, 9, 9), np.diag([1.0, 4.0, 1.0, 1.0]))).name == "coronal"
    assert own_plane(Grid((9, 9, 9), np.eye(4))).name == "axial"


def test_a_cube_of_tissue_is_drawn_as_a_square_on_an_anisotropic_grid():
    values = np.zeros((24, 12, 6))
    values[6:18, 3:9, 2:4] = 100.0  # 12 x 12 x 12 mm
    scan = volume(values, np.diag([1.0, 2.0, 6.0, 1.0]))
    flat = volume(np.zeros_like(values), scan.grid.affine)
    before, _ = before_and_after(flat, scan)
    both = comparison(scan, scan, flat)
    assert before.height > 0
    bright = pixels(both)[..., 1] > 240
    rows, columns = np.nonzero(bright[: both.height // 3, 480:960])  # the denoised axial tile
    # Edges fall between pixels, and letters are outside the cube: two pixels of slack.
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=2)


def signed_overlay() -> Overlay:
    """A map with a positive blob in the patient's right front and a negative one in the left back."""
    values = np.zeros((24, 20, 8))
    values[17:20, 13:16, 3:5], values[4:7, 4:7, 3:5] = 2.0, -2.0
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    base = volume(np.full(values.shape, 50.0), affine)
    return make_overlay(base, volume(values, affine), name="saliency", description="a test", signed=True)


@pytest.mark.parametrize(("draw", "first_tile"), [(through_peak, 24 / (24 + 24 + 20)), (slice_mosaic, 1 / 2)])
def test_positive_is_warm_and_on_the_left_when_it_is_in_the_patients_right(draw, first_tile):
    picture = draw(signed_overlay(), method="saliency")
    warm, cool = (where[where[:, 1] < first_tile * picture.width] for where in warm_and_cool(picture))
    assert len(warm) > 100
    assert len(cool) > 100
    assert warm[:, 1].max() < cool[:, 1].min()
    assert warm[:, 0].max() < cool[:, 0].min()


def test_a_close_up_shows_the_scan_alone_above_and_the_map_below():
    picture = close_up(signed_overlay(), method="saliency")
    warm, _ = warm_and_cool(picture)
    assert warm[:, 0].min() > picture.height / 2


def test_the_region_measured_is_outlined():
    overlay = signed_overlay()
    region = sphere(overlay.base.grid, (10.0, 10.0, 7.0), 3.0)
    bare, outlined = (pixels(close_up(overlay, method="saliency", region=r)) for r in (None, region))
    upper = slice(40, bare.shape[0] // 2)
    assert (outlined[upper] == 255).all(axis=-1).sum() > (bare[upper] == 255).all(axis=-1).sum() + 100


def test_noisy_and_denoised_share_one_window():
    rng = np.random.default_rng(0)
    clean = volume(np.full((16, 16, 8), 100.0) * (np.arange(16) > 7)[:, None, None], np.eye(4))
    noisy = volume(clean.voxels[0] + rng.normal(0, 200, clean.grid.shape), np.eye(4))
    window = display_window(clean)
    picture = comparison(noisy, clean, volume(noisy.voxels[0] - clean.voxels[0], np.eye(4)))
    assert f"from {window.low:.3g} to {window.high:.3g}" in picture.alt


def test_ct_is_shown_in_a_soft_tissue_window():
    window = display_window(volume(np.linspace(-1000, 2000, 64).reshape(4, 4, 4), np.eye(4), "HU"))
    assert (window.low, window.high) == (-160.0, 240.0)


def test_research_use_only_stands_in_every_picture():
    overlay = signed_overlay()
    flat = volume(np.zeros(overlay.base.grid.shape), overlay.base.grid.affine)
    pictures = [
        comparison(overlay.base, overlay.base, flat),
        *before_and_after(overlay.base, overlay.base),
        through_peak(overlay, method="saliency"),
        close_up(overlay, method="saliency"),
        slice_mosaic(overlay, method="saliency"),
    ]
    for picture in pictures:
        corner = pixels(picture)[-22:-4, -300:]
        assert (corner > 150).all(axis=-1).sum() > 300  # the strokes of 36 letters


def test_a_dollar_sign_in_a_name_is_drawn_and_not_set_as_a_formula():
    overlay = signed_overlay()
    assert through_peak(overlay, method="cost $\\frac{1$").png


def test_the_same_picture_has_the_same_bytes():
    overlay = signed_overlay()
    assert through_peak(overlay, method="saliency").png == through_peak(overlay, method="saliency").png


@pytest.mark.parametrize("shape", [(1, 9, 9), (9, 9, 1)])
def test_thin_volumes_and_flat_maps_are_drawn(shape):
    values = np.zeros(shape)
    base = volume(values, np.diag([0.3, 0.3, 10.0, 1.0]))
    overlay = make_overlay(base, base, name="zero", description="a test", signed=False)
    for draw in (through_peak, close_up, slice_mosaic):
        assert draw(overlay, method="saliency").height > 0


def test_a_point_is_named_by_its_sides():
    assert point_words((-12.04, 3.0, -0.5)) == "L 12.0, A 3.0, I 0.5 mm"
