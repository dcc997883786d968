"""Training data: seeded whoever draws it, of the physics it claims, and never an error at its corners."""

import math

import pytest
import torch

from medinterp.errors import ConfigError
from medinterp.noise.stabilize import rician_mean
from medinterp.training.anatomy import PhantomBank, phantom
from medinterp.training.corruption import Corruption, g_factor
from medinterp.training.draws import seeded, smooth_field
from medinterp.training.losses import log_relative_mse
from medinterp.training.patches import PatchDataset, Request
from medinterp.training.simulate import Batch, PatchSource, TrainingScan
from medinterp.training.structures import plant_lesions, plant_vessels
from medinterp.training.views import Views, blurred, random_contrast, random_pose

SCAN = TrainingScan(0.4 + 0.2 * smooth_field((40, 50, 60), 4, seeded(7)).clamp(-2, 3), 0.001)


def source(**options):
    return PatchSource([SCAN], PhantomBank(3, size=24, slots=2, lifetime=4), 0.4, **options)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("clean", "noisy", "sigma"))


def test_a_steps_batch_depends_on_seed_and_step_alone():
    straight, backwards = PatchDataset(source()), PatchDataset(source())
    requests = [Request(5, step, 2, 16) for step in range(10)]
    drawn = [straight[request] for request in requests]
    again = [backwards[request] for request in reversed(requests)][::-1]
    assert all(same(a, b) for a, b in zip(drawn, again, strict=True))
    assert not same(drawn[0], straight[Request(5, 1, 2, 16)])
    assert not same(drawn[0], straight[Request(6, 0, 2, 16)])


def _near(a, b):
    names = ("clean", "noisy", "sigma")
    return all(torch.allclose(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-5) for name in names)


def test_workers_and_no_workers_draw_the_same_batches():
    requests = [Request(5, step, 1, 16) for step in range(4)]
    state = torch.random.get_rng_state()
    here = list(PatchDataset(source()).batches(iter(requests)))
    there = list(PatchDataset(source()).batches(iter(requests), workers=1))
    assert len(here) == len(there) == 4
    assert all(_near(a, b) for a, b in zip(here, there, strict=True))  # workers round in one thread
    assert torch.equal(state, torch.random.get_rng_state())


def test_phantoms_are_replaced_little_by_little_whoever_asks():
    bank, other = PhantomBank(1, size=16, slots=2, lifetime=4), PhantomBank(1, size=16, slots=2, lifetime=4)
    early = [bank.pick(0, seeded(n)) for n in range(6)]
    late = [bank.pick(9, seeded(n)) for n in range(6)]
    assert all(torch.equal(a, other.pick(9, seeded(n))) for n, a in enumerate(late))  # without the early ones
    assert not any(torch.equal(a, b) for a, b in zip(early, late, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_phantoms_are_finite_and_in_range_with_more_than_one_intensity(seed):
    image = phantom(20, seeded(seed))
    assert image.shape == (20, 20, 20)
    assert torch.isfinite(image).all()
    assert 0 <= float(image.min()) < float(image.max()) <= 1.5


def test_smooth_fields_have_unit_variance_and_are_smooth():
    field = smooth_field((40, 30, 20), (6, 3, 50), seeded(0))
    assert field.shape == (40, 30, 20)
    assert float(field.mean()) == pytest.approx(0, abs=1e-4)
    assert float(field.std()) == pytest.approx(1, abs=1e-4)
    coarse = smooth_field((64, 64, 64), 3, seeded(1))
    assert float(coarse.diff(dim=0).abs().max()) < 0.3  # 21 voxels a cell: a step is a small part of the range


@pytest.mark.parametrize("kind", ["thick", "oblique", "blurred", "masked"])
@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 40, 90)])
def test_every_kind_of_view_is_a_cube_within_the_volumes_range(kind, shape):
    volume = torch.rand(shape, generator=seeded(0))
    shares = dict.fromkeys(("thick", "oblique", "blurred", "masked"), 0.0) | {kind: 1.0}
    for seed in range(5):
        view = Views(**shares).draw(volume, 16, seeded(seed))
        assert view.shape == (16, 16, 16)
        assert float(view.min()) >= 0
        assert float(view.max()) <= 1 + 1e-6  # interpolation and averages only


def test_thick_slices_have_less_noise_and_turned_views_keep_a_constant():
    noise = torch.randn((80, 80, 80), generator=seeded(0)) + 5
    thick = Views(1.0, 0.0, 0.0, 0.0).draw(noise, 16, seeded(1))
    assert float(thick.std()) < 0.8  # two to five slices: 0.71 to 0.45
    flat = Views(0.0, 1.0, 0.0, 0.0).draw(torch.full((40, 40, 40), 0.7), 16, seeded(1))
    assert torch.allclose(flat, torch.tensor(0.7), atol=1e-5)


def test_a_turned_view_shows_the_same_structure_at_its_centre():
    place = torch.linspace(-1, 1, 33)
    ball = (place[:, None, None] ** 2 + place[:, None] ** 2 + place**2 < 0.2).float()
    views = [Views(0.0, 1.0, 0.0, 0.0).draw(ball, 16, seeded(n)) for n in range(20)]
    # a ball of radius 7.2 stays a ball; enlarged up to 1.6 times and cut anywhere, some of it is nearly always seen
    assert sum(float(view.max()) > 0.99 for view in views) >= 18


def test_blurring_takes_noise_away_as_the_bookkeeping_says():
    noise, width = torch.randn((64, 64, 64), generator=seeded(0)), 0.8
    for axis in range(3):
        noise = blurred(noise, width, axis)
    # (2 sqrt(pi) w)^-1.5 is the continuous kernel's; sampled at 0.8 voxels it is within 3 %, away from the border
    assert float(noise[6:-6, 6:-6, 6:-6].std()) == pytest.approx((2 * math.pi**0.5 * width) ** -1.5, rel=0.03)


def test_poses_and_contrasts_keep_zero_and_shape():
    image = torch.rand(6, 6, 6, generator=seeded(0))
    image[0] = 0
    for seed in range(20):
        posed = random_pose(image, seeded(seed))
        assert torch.equal(posed.flatten().sort().values, image.flatten().sort().values)
        changed = random_contrast(image, seeded(seed))
        assert float(changed[0].abs().max()) == 0
        gentle = random_contrast(image, seeded(seed), steep=False)
        assert torch.equal(gentle.flatten().argsort(), image.flatten().argsort())  # only monotonic curves


def test_lesions_lie_in_tissue_and_air_stays_air():
    image = torch.zeros(24, 24, 24)
    image[:12] = 0.6
    planted = plant_lesions(image, 0.1, 6, seeded(2))
    assert float(planted[12:].abs().max()) == 0
    assert 0.05 < float((planted - image).abs().max()) <= 0.5 * 6
    assert torch.equal(plant_lesions(torch.zeros(8, 8, 8), 0.1, 3, seeded(0)), torch.zeros(8, 8, 8))
    assert float(image.sum()) == pytest.approx(0.6 * 12 * 24 * 24)  # the given image is left alone


def test_vessels_are_thin_and_continuous():
    image = torch.full((32, 32, 32), 0.5)
    planted = plant_vessels(image, 1, seeded(4), widest=1.0)
    touched = (planted != image).float()
    assert 0 < float(touched.mean()) < 0.05
    assert torch.equal(plant_vessels(image, 0, seeded(0)), image)


def test_the_noise_that_is_added_is_the_noise_that_was_drawn():
    clean = torch.full((24, 24, 24), 0.5)
    sigma = torch.full_like(clean, 0.1)
    for rician, mean in ((0.0, 0.5), (1.0, float(rician_mean(clean, sigma)[0, 0, 0]))):
        noisy = Corruption(rician=rician).apply(clean, sigma, seeded(0))
        # 13 824 voxels: the mean's own error is 0.0009, the deviation's 0.6 %
        assert float(noisy.mean()) == pytest.approx(mean, abs=0.003)
        assert float(noisy.std()) == pytest.approx(0.1, rel=0.03)
    again = Corruption(rician=1.0).apply(torch.zeros_like(clean), sigma, seeded(0))
    assert float(again.mean()) == pytest.approx(0.1 * math.sqrt(math.pi / 2), rel=0.02)  # Rayleigh


def test_noise_maps_vary_only_where_asked_and_g_factors_stay_in_their_range():
    flat = Corruption(varying=0.0).sigma_map(0.1, (8, 8, 8), seeded(0))
    assert torch.equal(flat, torch.full((8, 8, 8), 0.1))
    assert float(Corruption(varying=1.0).sigma_map(0.1, (16, 16, 16), seeded(0)).std()) > 0.005
    for seed in range(8):
        g = g_factor((16, 20, 24), seeded(seed))
        assert 1 <= float(g.min()) < float(g.max()) <= 3.2


def test_told_levels_are_off_by_the_stated_error():
    corruption = Corruption(told_error=0.05, misled=0.0)
    told = torch.tensor([float(corruption.told(torch.ones(1, 1, 1), seeded(n)).mean()) for n in range(400)])
    assert float(told.log().std()) == pytest.approx(0.05, rel=0.12)  # 400 draws: 3.5 % standard error


def test_a_noisy_scan_is_used_only_at_noise_well_above_its_own():
    noisy = TrainingScan(torch.full((16, 16, 16), 0.5), 0.04)
    clean = TrainingScan(torch.full((16, 16, 16), 0.9), 0.001)
    plain = {"views": Views(0.0, 0.0, 0.0, 0.0), "lesions": 0.0, "vessels": 0.0}
    mixed = PatchSource([noisy, clean], **plain)
    seen = [mixed._volume(16, level, seeded(n), 0)[1] for n in range(20) for level in (0.05, 0.2)]
    assert set(seen[0::2]) == {0.001}
    assert set(seen[1::2]) == {0.001, 0.04}
    with pytest.raises(ConfigError, match="clean enough"):
        PatchSource([noisy], **plain)._volume(16, 0.05, seeded(0), 0)
    with pytest.raises(ConfigError, match="32 voxels along every axis"):
        PatchSource([clean], **plain).draw(1, 32, seeded(0))


def test_an_all_zero_volume_gives_finite_batches_and_loss():
    zero = PatchSource([TrainingScan(torch.zeros(16, 16, 16), 0.0)], lesions=1.0, vessels=0.0)
    batch = zero.draw(2, 16, seeded(0))
    assert float(batch.clean.abs().max()) == 0
    for estimate in (batch.noisy, torch.zeros_like(batch.noisy)):
        estimate = estimate.clone().requires_grad_()
        loss = log_relative_mse(estimate, batch.clean, batch.sigma)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(estimate.grad).all()
    nothing = torch.zeros(1, 1, 4, 4, 4)
    assert torch.isfinite(log_relative_mse(nothing, nothing, torch.zeros(1, 1, 1, 1, 1)))


def test_batches_are_moved_together():
    batch = source().draw(2, 16, seeded(0))
    moved = batch.to(torch.device("cpu"))
    assert isinstance(moved, Batch)
    assert same(moved, batch)
    assert batch.clean.shape == batch.noisy.shape == batch.sigma.shape == (2, 1, 16, 16, 16)
