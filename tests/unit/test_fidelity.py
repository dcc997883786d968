"""Fidelity metrics agree with their formulas and with scikit-image."""

import numpy as np
import pytest

from medinterp.assessment.fidelity import foreground_mask, psnr, rmse, ssim
from medinterp.errors import EmptyRegion, InputError


def images(seed=0, sigma=0.05):
    generator = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*(np.linspace(0, 3, 20),) * 3, indexing="ij")
    clean = (0.5 + 0.5 * np.sin(i) * np.cos(j + k)).astype(np.float32)
    return clean, clean + (sigma * generator.standard_normal(clean.shape)).astype(np.float32)


@pytest.mark.parametrize("share", [0.03, 0.09])
def test_psnr_of_gaussian_noise_is_minus_20_log10_of_its_share_of_the_peak(share):
    clean = np.ones((32, 32, 32), dtype=np.float32)
    noisy = clean + share * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    # a variance of 32768 samples has a relative sd of 0.8 %: 0.034 dB; three of them
    assert psnr(noisy, clean) == pytest.approx(-20 * np.log10(share), abs=0.1)


def test_psnr_counts_only_the_mask():
    clean = np.ones((4, 4, 4), dtype=np.float32)
    image = clean.copy()
    image[0] = 9.0
    mask = np.ones(clean.shape, dtype=bool)
    mask[0] = False
    assert psnr(image, clean, mask) == float("inf")
    assert psnr(image, clean) < 0


def test_rmse_is_in_the_images_unit():
    clean = np.full((3, 3, 3), -1000.0)
    assert rmse(clean + 7.0, clean) == pytest.approx(7.0)


def test_ssim_agrees_with_scikit_image_inside():
    metrics = pytest.importorskip("skimage.metrics")
    clean, noisy = images()
    peak = float(clean.max())
    options = {"gaussian_weights": True, "use_sample_covariance": False, "full": True}
    _, wanted = metrics.structural_similarity(noisy, clean, data_range=peak, **options)
    mask = np.zeros(clean.shape, dtype=bool)
    mask[5:-5, 5:-5, 5:-5] = True  # scikit-image works in float32 here and both treat the border by reflection
    assert ssim(noisy, clean, mask) == pytest.approx(float(wanted[mask].mean()), abs=1e-5)


def test_ssim_is_one_only_for_the_truth():
    clean, noisy = images()
    assert ssim(clean, clean) == pytest.approx(1.0, abs=1e-12)
    assert ssim(noisy, clean) < 0.99


def test_metrics_ignore_a_common_scale():
    clean, noisy = images()
    assert psnr(40 * noisy, 40 * clean) == pytest.approx(psnr(noisy, clean), abs=1e-4)  # float32 rounding of inputs
    assert ssim(40 * noisy, 40 * clean) == pytest.approx(ssim(noisy, clean), abs=1e-6)


def test_foreground_is_above_a_tenth_of_the_maximum():
    clean = np.zeros((3, 3, 3), dtype=np.float32)
    clean[1, 1, 1], clean[0, 0, 0], clean[0, 0, 1] = 200.0, 20.0, 21.0
    assert foreground_mask(clean).sum() == 2


def test_what_cannot_be_judged_is_refused():
    clean, noisy = images()
    with pytest.raises(InputError, match="one grid"):
        psnr(noisy[:-1], clean)
    with pytest.raises(InputError, match="one grid"):
        rmse(noisy, clean, np.ones((2, 2, 2), dtype=bool))
    with pytest.raises(EmptyRegion, match="empty"):
        ssim(noisy, clean, np.zeros(clean.shape, dtype=bool))
    with pytest.raises(InputError, match="window's width"):
        psnr(noisy - 2000, clean - 2000)
    with pytest.raises(InputError, match="window's width"):
        ssim(noisy, clean, peak=0.0)
    with pytest.raises(EmptyRegion, match="no foreground"):
        foreground_mask(clean - 2000)
