"""The synthetic head is a function of place with the tissues it promises, and its noise has the promised spectrum."""

from itertools import pairwise

import numpy as np
import pytest

from medinterp.errors import InputError
from medinterp.testing.anatomy import CALCIFICATION, LESION, Tissue, surface
from medinterp.testing.phantoms import (
    BIAS,
    INTENSITIES,
    UNITS,
    add_rician,
    bias_field,
    coloured_noise,
    head,
    lesion,
    noise_power,
    oblique_grid,
    small_scan,
)
from medinterp.volume import Grid, region, sphere

AROUND_LESION = oblique_grid((12, 10, 8), (1.5, 1.5, 2.0), (8.0, -5.0, 12.0), LESION.centre_mm)


def _axial(n: int, spacing_mm: float, z_mm: float) -> Grid:
    affine = np.diag([spacing_mm, spacing_mm, 2.0, 1.0])
    affine[:3, 3] = (-spacing_mm * (n - 1) / 2, -spacing_mm * (n - 1) / 2, z_mm)
    return Grid((n, n, 1), affine)


def _one_voxel(centre_mm: tuple[float, float, float]) -> Grid:
    return oblique_grid((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), centre_mm)


@pytest.mark.parametrize("modality", list(UNITS))
def test_a_crop_of_the_grid_gives_the_crop_of_the_image(modality: str) -> None:
    whole = head(modality, AROUND_LESION)
    part = head(modality, AROUND_LESION.crop((3, 2, 1), (6, 5, 4)))
    # coordinates are float32: the same point reached from another origin moves by some 1e-6 mm
    np.testing.assert_allclose(part, whole[3:9, 2:7, 1:5], atol=0.05)


def test_a_grid_with_reversed_axis_gives_the_reversed_image() -> None:
    affine = AROUND_LESION.affine.copy()
    affine[:3, 3] = AROUND_LESION.to_world((11, 0, 0))
    affine[:3, 0] *= -1
    reversed_image = head("T1", Grid(AROUND_LESION.shape, affine))
    image = head("T1", AROUND_LESION)
    np.testing.assert_allclose(reversed_image[::-1], image, atol=0.05)
    assert np.abs(reversed_image - image).max() > 20  # control: unflipped, they differ


def test_a_coarse_voxel_is_the_mean_of_the_fine_voxels_in_it() -> None:
    coarse = oblique_grid(
        (6, 6, 6), (4.0, 4.0, 4.0), (5.0, 5.0, 5.0), (0.0, 60.0, 40.0)
    )  # cortex, skull, scalp and air
    fine_affine = coarse.affine.copy()
    fine_affine[:3, :3] /= 2
    fine_affine[:3, 3] = coarse.to_world((-0.25, -0.25, -0.25))
    fine = head("CT", Grid((12, 12, 12), fine_affine)).reshape(6, 2, 6, 2, 6, 2).mean(axis=(1, 3, 5))
    image = head("CT", coarse)
    assert np.ptp(image) > 1500
    np.testing.assert_allclose(image, fine, atol=0.5)  # same sub-samples; rounding of float32 places at steep borders


@pytest.mark.parametrize("modality", list(UNITS))
def test_the_lesion_has_its_tissue_value_up_to_field_and_texture(modality: str) -> None:
    value = head(modality, _one_voxel(LESION.centre_mm)).item()
    true = INTENSITIES[modality][Tissue.LESION]
    assert abs(value - true) < (5.0 if modality == "CT" else true * (BIAS + 0.1))


def test_the_calcification_shows_in_ct_alone() -> None:
    spot = _one_voxel(CALCIFICATION.centre_mm)
    assert head("CT", spot).item() > 200
    for modality in ("T1", "T2", "FLAIR"):
        beside = _one_voxel((CALCIFICATION.centre_mm[0], CALCIFICATION.centre_mm[1], CALCIFICATION.centre_mm[2] + 5))
        assert head(modality, spot).item() == pytest.approx(head(modality, beside).item(), rel=0.1)


def test_the_lesion_mask_is_the_sphere_of_the_region_module() -> None:
    expected = sphere(AROUND_LESION, LESION.centre_mm, LESION.radius_mm)
    assert np.array_equal(lesion(AROUND_LESION), expected.mask)


def test_the_lesion_stands_out_with_the_promised_sign() -> None:
    grid = oblique_grid((18, 18, 14), (1.6, 1.6, 2.0), (8.0, -5.0, 12.0), LESION.centre_mm)
    inside = region.Region(lesion(grid), grid, "lesion")
    outside = region.ring(inside, gap_mm=2.0, width_mm=3.0)
    images = {m: head(m, grid) for m in UNITS}
    contrast = {m: image[inside.mask].mean() - image[outside.mask].mean() for m, image in images.items()}
    assert contrast["T1"] < -50
    assert contrast["T2"] > 120
    assert contrast["FLAIR"] > 120
    assert -15 < contrast["CT"] < -6


def test_the_cortex_is_folded_on_both_sides() -> None:
    image = head("T1", _axial(96, 1.6, 40.0))[:, :, 0]
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    i, j = (np.rint(47.5 + np.array([32, 46])[:, None] * [np.cos(angle), np.sin(angle)] / 1.6)).astype(int)
    is_white = image[i, j] > 335
    crossings = np.flatnonzero(is_white != np.roll(is_white, 1))
    right = (np.cos(angle[crossings]) > 0).sum()
    assert right >= 10  # a smooth cortex would be crossed at most a few times on each side
    assert len(crossings) - right >= 10


def test_what_is_far_from_the_head_is_air() -> None:
    corner = oblique_grid((3, 3, 3), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), (90.0, 100.0, 95.0))
    assert surface(np.array([[90, 100, 95]], dtype=np.float32)).item() > 10
    assert (head("T1", corner) == 0).all()
    assert (head("CT", corner) == -1000).all()


def test_the_receive_field_stays_within_ten_percent_and_uses_most_of_it() -> None:
    axis = np.arange(-80, 81, 20, dtype=np.float32)
    field = bias_field(np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3))
    assert np.abs(field).max() <= BIAS
    assert np.ptp(field) > BIAS


def test_an_unknown_modality_is_named_in_the_error() -> None:
    with pytest.raises(InputError, match=r"'PET'.*T1, T2, FLAIR, CT"):
        head("PET", AROUND_LESION)


def test_rician_noise_has_its_second_moment_and_its_rayleigh_floor() -> None:
    image = np.zeros((40, 40, 40), dtype=np.float32)
    image[20:] = 120
    noisy = add_rician(image, 30.0, np.random.default_rng(0)).astype(np.float64)
    # 32 000 voxels a half: standard errors are 0.4 and 0.6 %, bounds are above three of them
    assert (noisy[20:] ** 2).mean() == pytest.approx(120**2 + 2 * 30**2, rel=0.02)
    assert noisy[:20].mean() == pytest.approx(30 * np.sqrt(np.pi / 2), rel=0.02)


def _power_by_frequency(noise: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean in-plane power in ring-shaped bins up to Nyquist, over all slices."""
    n = noise.shape[0]
    f = np.fft.fftfreq(n, spacing_mm)
    radius = np.hypot(f[:, None], f)
    power = (np.abs(np.fft.fft2(noise, axes=(0, 1))) ** 2).mean(axis=2)
    edges = np.linspace(0, 0.5 / spacing_mm, 17)
    inside = [(radius >= low) & (radius < high) for low, high in pairwise(edges)]
    return np.array([radius[m].mean() for m in inside]), np.array([power[m].mean() for m in inside])


def test_coloured_noise_has_the_ramp_spectrum_and_white_noise_has_not() -> None:
    grid = oblique_grid((64, 64, 48), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    frequency, power = _power_by_frequency(coloured_noise(grid, 25.0, np.random.default_rng(1)), 1.0)
    assert np.interp(0.05, frequency, power) / power.max() < 0.35
    expected = noise_power(frequency, 0.5)
    ratio = (power / expected)[1:] / np.median(power / expected)  # the first bin is empty of power but for its edge
    np.testing.assert_allclose(ratio, 1, atol=0.1)
    white = np.random.default_rng(2).standard_normal(grid.shape)
    frequency, power = _power_by_frequency(white, 1.0)
    assert np.interp(0.05, frequency, power) / power.max() > 0.7  # control


def test_coloured_noise_has_its_sigma_and_independent_slices() -> None:
    grid = oblique_grid((48, 40, 32), (1.5, 2.0, 3.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    noise = coloured_noise(grid, 25.0, np.random.default_rng(3)).astype(np.float64)
    assert noise.std() == pytest.approx(25.0, rel=0.02)  # 61 440 voxels, some dependent: standard error 0.4 %
    between = (noise[..., 1:] * noise[..., :-1]).mean() / noise.var()
    assert abs(between) < 0.02


def test_a_small_scan_is_the_same_for_the_same_seed_and_holds_a_head() -> None:
    scans = [small_scan(sigma=20.0, generator=np.random.default_rng(5)) for _ in range(2)]
    assert np.array_equal(scans[0].voxels, scans[1].voxels)
    assert scans[0].voxels.shape == (1, 24, 24, 16)
    assert 0.3 < (scans[0].voxels > 100).mean() < 0.9


def test_a_small_ct_is_in_hounsfield_units() -> None:
    scan = small_scan((8, 8, 6), modality="CT")
    assert (scan.unit, scan.modality) == ("HU", "CT")
    assert scan.voxels.min() == -1000


def test_noise_without_a_generator_is_refused() -> None:
    with pytest.raises(InputError, match="default_rng"):
        small_scan(sigma=1.0)


def test_an_oblique_grid_keeps_dicom_order_and_its_centre() -> None:
    grid = oblique_grid((5, 7, 9), (1.0, 2.0, 3.0), (8.0, -5.0, 12.0), (1.0, 2.0, 3.0))
    assert grid.is_orthogonal
    assert np.linalg.det(grid.affine[:3, :3]) > 0
    assert (np.sign(np.diag(grid.affine)[:3]) == (-1, -1, 1)).all()
    np.testing.assert_allclose(grid.to_world((2, 3, 4)), (1, 2, 3), atol=1e-12)
