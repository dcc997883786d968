"""The CT bundle on a simulated low-dose scan with a known truth: chosen by modality, HU kept, noise gone."""

import numpy as np
import pytest
import torch

from medinterp.bundle import load_pipeline
from medinterp.catalogue import bundle_for
from medinterp.pipeline import sigma_tensor
from medinterp.training.low_dose import SMOOTH, LowDose
from medinterp.volume import Grid, Provenance, Source, Volume

SPACING = (0.9, 0.9, 5.0)
SIGMA_HU = 40.0
ORGAN_HU = 60.0
SIZE = 128


def distance_mm(at=(0.0, 0.0)):
    place = (torch.arange(SIZE) - (SIZE - 1) / 2) * SPACING[0]
    return torch.hypot(place[:, None] - at[0], place[None, :] - at[1])[..., None].expand(SIZE, SIZE, 8)


@pytest.fixture(scope="module")
def low_dose():
    """A body of 0 HU with an organ of 60 HU in it, and its scan at a low dose."""
    body, organ = distance_mm() < 52, distance_mm((-8.0, 5.0)) < 30
    truth = torch.where(organ, ORGAN_HU, torch.where(body, 0.0, -1000.0))
    scanner = LowDose(kernel=SMOOTH, views=180)
    slices = scanner.project(truth, SPACING)
    dose = scanner.dose_for(slices, sigma_hu=SIGMA_HU)
    noise = scanner.noise(slices, dose=dose, generator=torch.Generator().manual_seed(3))
    grid = Grid((SIZE, SIZE, 8), np.diag([*SPACING, 1.0]))
    noisy = (truth + noise).numpy()[None]
    return truth.numpy(), Volume(noisy, grid, "HU", "CT", Provenance(Source("memory")))


def test_the_mean_of_an_organ_moves_by_less_than_1_hu_while_its_noise_falls_to_a_third(low_dose):
    truth, scan = low_dose
    pipeline = load_pipeline(bundle_for({scan.modality}))
    noise = pipeline.estimator(scan)
    image = torch.from_numpy(scan.voxels.copy())[None]
    with torch.no_grad():
        denoised = pipeline.told(noise).denoise(image, sigma_tensor(noise, image), seed=0, graph=False)[0, 0].numpy()
        network = pipeline.denoiser.denoiser.denoiser  # neither mirrored, nor on two scales, nor given back
        alone = network(image, sigma_tensor(noise, image))[0, 0].numpy()
    noisy, inside = scan.voxels[0], distance_mm((-8.0, 5.0)).numpy() < 24
    assert abs(denoised[inside].mean() - noisy[inside].mean()) < 1
    assert abs(alone[inside].mean() - noisy[inside].mean()) > 1  # the control: its network alone moves it
    before, after = (float(np.std((values - truth)[inside])) for values in (noisy, denoised))
    assert after < before / 3


def test_ct_has_a_bundle_of_its_own_that_says_on_what_its_weights_were_trained():
    folder = bundle_for({"CT"})
    assert folder.name == "ct_denoise"
    assert bundle_for({"MR"}).name == bundle_for({"CT", "MR"}).name == "mri_denoise"
    assert list(load_pipeline(folder).modalities) == ["MR"]
