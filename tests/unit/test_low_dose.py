"""Simulated low dose has the physics of projections: HU, 1/dose, the ramp, and no noise level that is not drawn."""

import numpy as np
import pytest
import torch

from medinterp.errors import ConfigError, InputError
from medinterp.noise.spectrum import spectrum_of
from medinterp.training.low_dose import MU_WATER_PER_MM, RAMP, SHARP, SMOOTH, Geometry, LowDose

SPACING = (2.0, 2.0, 5.0)
SIZE = 96


def disc(hu=0.0, radius_mm=70.0, slices=2):
    place = (torch.arange(SIZE) - (SIZE - 1) / 2) * SPACING[0]
    inside = torch.hypot(place[:, None], place[None, :]) < radius_mm
    return torch.where(inside, hu, -1000.0)[..., None].repeat(1, 1, slices), inside


def centre(image, half=20):
    middle = SIZE // 2
    return image[middle - half : middle + half, middle - half : middle + half]


def draw(scanner, image, *, dose, seed=0):
    return scanner.noise(scanner.project(image, SPACING), dose=dose, generator=torch.Generator().manual_seed(seed))


def test_back_projection_of_a_disc_without_noise_gives_its_hu_back():
    image, _ = disc(hu=60.0)
    geometry = Geometry((SIZE, SIZE), SPACING[0], 240)
    mu = MU_WATER_PER_MM * (1 + image / 1000)
    lines = geometry.line_integrals(mu, 1)
    hu = 1000 * (geometry.back_projected(geometry.filtered(lines, RAMP)) / MU_WATER_PER_MM - 1)
    # 1060 of attenuation within 0.5 %: cells and views are finite
    assert float(centre(hu).mean()) == pytest.approx(60.0, abs=5.0)
    assert float(hu[4:12, 4:12].mean()) == pytest.approx(-1000.0, abs=15.0)


def test_without_the_ramp_the_disc_would_not_come_back():
    image, _ = disc(hu=60.0)
    geometry = Geometry((SIZE, SIZE), SPACING[0], 240)
    lines = geometry.line_integrals(MU_WATER_PER_MM * (1 + image / 1000), 1)
    unfiltered = 1000 * (geometry.back_projected(lines) * np.pi / 240 / MU_WATER_PER_MM - 1)
    assert abs(float(centre(unfiltered).mean()) - 60.0) > 1000


def test_a_line_through_the_middle_of_a_disc_is_as_long_as_its_diameter():
    image, _ = disc(hu=0.0)
    geometry = Geometry((SIZE, SIZE), SPACING[0], 8)
    lines = geometry.line_integrals(MU_WATER_PER_MM * (1 + image / 1000), 1)
    middle = lines[:, geometry.cells // 2, 0] / MU_WATER_PER_MM
    assert middle.numpy() == pytest.approx(np.full(8, 140.0), rel=0.03)  # a pixel's edge of 2 mm at either end


def test_noise_variance_is_inverse_to_dose():
    image, _ = disc()
    scanner = LowDose(electronic_sd=0.0, views=180)
    variances = [float(centre(draw(scanner, image, dose=d)).var()) for d in (1.0, 0.25)]
    # 3200 correlated pixels: 5 % each
    assert variances[1] / variances[0] == pytest.approx(4.0, rel=0.15)


def test_electronic_noise_adds_what_photons_do_not_explain():
    image, _ = disc()
    quiet, loud = (LowDose(electronic_sd=sd, views=180) for sd in (0.0, 300.0))
    dose = 0.02  # some 250 photons behind the disc: 300 of readout noise are then more than the photons' own
    assert float(centre(draw(loud, image, dose=dose)).std()) > 3 * float(centre(draw(quiet, image, dose=dose)).std())


def ramp_slope(noise):
    """Return the exponent with which power grows with frequency, up to half of Nyquist."""
    radial = spectrum_of(noise.double().numpy(), SPACING).radial(bins=10)
    f, power = radial.frequency_per_mm[1:6], radial.power[1:6]
    passed = np.sinc(f * SPACING[0]) ** 4  # linear interpolation between detector cells, as power
    return np.polyfit(np.log(f), np.log(power / passed), 1)[0]


def test_power_rises_in_proportion_to_frequency_as_the_ramp_demands():
    image, _ = disc(slices=12)
    noise = centre(draw(LowDose(kernel=RAMP, views=360), image, dose=0.1), half=24)
    assert ramp_slope(noise) == pytest.approx(1.0, abs=0.3)  # lags of 8 voxels leak power into the lowest ring


def test_white_noise_fails_the_test_of_the_ramp():
    assert ramp_slope(torch.randn(48, 48, 12, generator=torch.Generator().manual_seed(0))) < 0.6


@pytest.mark.parametrize("kernel", [SMOOTH, SHARP])
def test_the_level_is_that_of_the_noise_drawn_and_the_dose_for_it_is_found(kernel):
    image, _ = disc(slices=6)
    scanner = LowDose(kernel=kernel, views=240)
    slices = scanner.project(image, SPACING)
    dose = scanner.dose_for(slices, sigma_hu=30.0)
    level = scanner.level(slices, dose=dose)
    noise = scanner.noise(slices, dose=dose, generator=torch.Generator().manual_seed(0))
    assert float(level[slices.body].median()) == pytest.approx(30.0, rel=0.02)
    assert float(centre(noise).std()) == pytest.approx(float(centre(level).mean()), rel=0.06)
    assert abs(float(centre(noise).mean())) < 1.0  # HU


def test_a_sharp_kernel_has_its_power_at_higher_frequencies_than_a_smooth_one():
    image, _ = disc(slices=6)
    peaks = [
        spectrum_of(centre(draw(LowDose(kernel=k, views=240), image, dose=0.2), 24).double().numpy(), SPACING)
        .radial()
        .peak_per_mm
        for k in (SMOOTH, SHARP)
    ]
    assert peaks[1] > 1.02 * peaks[0]


def test_thick_slices_share_their_noise():
    image, _ = disc(slices=6)
    noise = draw(LowDose(views=180, thickness_mm=10.0), image, dose=0.2)
    assert spectrum_of(centre(noise).double().numpy(), SPACING).axial()[1] == pytest.approx(0.5, abs=0.1)


def test_the_same_generator_state_draws_the_same_noise():
    image, _ = disc()
    scanner = LowDose(views=60)
    first, again, other = (draw(scanner, image, dose=0.5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_cannot_be_simulated_is_refused():
    image, _ = disc()
    with pytest.raises(InputError, match="square"):
        LowDose().project(image, (1.0, 2.0, 5.0))
    with pytest.raises(ConfigError, match="dose"):
        draw(LowDose(views=20), image, dose=0.0)
    with pytest.raises(ConfigError, match="positive numbers"):
        LowDose(photons=-1.0)
    with pytest.raises(ConfigError, match="soft tissue"):
        LowDose(views=20).dose_for(LowDose(views=20).project(torch.full((32, 32, 1), -1000.0), SPACING), sigma_hu=10.0)
