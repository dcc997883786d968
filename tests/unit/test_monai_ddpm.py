"""MONAI's diffusion networks as denoisers: change of variables, samplers, oracle, intensity, refusals."""

import json

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler

from medinterp.bundle import load_pipeline
from medinterp.denoisers.base import scalar_sigma
from medinterp.denoisers.intensity import FixedIntensity, MeanBrightness
from medinterp.denoisers.monai_ddpm import DiffusionDenoiser, PretrainedDiffusion, Windows
from medinterp.denoisers.noise_table import NoiseTable
from medinterp.errors import ConfigError, InputError, WeightsMismatch
from medinterp.noise.models import add_rician
from medinterp.sampling.samplers import Heun, PosteriorMean, ReverseSDE
from medinterp.sampling.schedules import PowerSchedule
from medinterp.testing.calibration import calibrate
from medinterp.testing.diffusion_oracle import GaussianDiffusion, random_diffusion
from medinterp.testing.linearity import euler_account
from medinterp.testing.oracles import linear_gaussian, mmse_figures, relative_error

WORLD = linear_gaussian(16)
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SCHEDULES = {
    "linear": {},
    "cosine": {"schedule": "cosine"},
    "few": {"num_train_timesteps": 50},
    "ours": {"schedule": "scaled_linear_beta", "beta_start": 1e-6, "beta_end": 4e-3},
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noisy(sigma, count=1, seed=0):
    clean = WORLD.draw(count, generator(seed))
    return clean + sigma * torch.randn(clean.shape, generator=generator(seed + 1), dtype=clean.dtype)


def positive(size=16, dtype=torch.float32):
    image = 1 + 0.2 * torch.randn(2, 1, size, size, size, generator=generator(), dtype=torch.float64)
    return image.to(dtype)


def oracle(scheduler, *, shift=0, **options):
    return DiffusionDenoiser(GaussianDiffusion(WORLD, scheduler, shift=shift), scheduler, **options)


# The posterior mean


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_posterior_mean_is_the_closed_form_at_any_noise_level(schedule, prediction):
    denoiser = oracle(DDPMScheduler(prediction_type=prediction, **SCHEDULES[schedule]))
    for sigma in (0.0301, 0.2, 0.7):  # none of them is an integer timestep's
        y = noisy(sigma, 2)
        level = scalar_sigma(sigma, y)
        assert relative_error(denoiser(y, level) - y, WORLD(y, level) - y) < 1e-12  # float64 rounding


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_control_a_timestep_off_by_one_is_seen(prediction):
    y = noisy(0.7)
    level = scalar_sigma(0.7, y)
    removed = WORLD(y, level) - y
    for shift in (1, -1):
        wrong = oracle(DDPMScheduler(prediction_type=prediction), shift=shift)
        assert relative_error(wrong(y, level) - y, removed) > 1e-3  # a thousand timesteps are 0.5 % apart here


def test_nearest_timestep_is_wrong_by_no_more_than_the_stated_label_error():
    scheduler = DDPMScheduler(num_train_timesteps=50)
    table = NoiseTable.of(scheduler)
    sigmas = torch.linspace(0.02, 0.8, 200, dtype=torch.float64)
    labels = table.timestep(sigmas).round().long()
    ratio = table.sigmas[labels] / sigmas
    assert float(torch.maximum(ratio, 1 / ratio).max()) <= 1 + table.rounding_error
    y = noisy(0.7)
    level = scalar_sigma(0.7, y)
    rounded = oracle(scheduler, timesteps="nearest")(y, level)
    assert 1e-4 < relative_error(rounded - y, WORLD(y, level) - y) < table.rounding_error
    exact = scalar_sigma(float(table.sigmas[40]), y)
    at_timestep = [oracle(scheduler, timesteps=mode)(y, exact) for mode in ("nearest", "continuous")]
    assert relative_error(*at_timestep) < 1e-12


def test_reaches_the_smallest_possible_error_and_knows_it():
    found = mmse_figures(oracle(DDPMScheduler()), WORLD, draws=24, generator=generator())
    assert abs(found.mse - found.mmse) < 3 * found.standard_error
    assert abs(found.sure_bias) < 3 * found.sure_standard_error
    shifted = mmse_figures(
        oracle(DDPMScheduler(num_train_timesteps=50), shift=20), WORLD, draws=24, generator=generator()
    )
    assert shifted.mse > found.mmse + 3 * shifted.standard_error  # control: twenty timesteps off


# The scheduler's own steps


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_euler_is_the_schedulers_own_ddim_chain(prediction):
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False)
    denoiser = random_diffusion(scheduler)
    scheduler.set_timesteps(4)
    timesteps = [999, 749, 499, 249]  # what its step() walks; set_timesteps' own list has other labels, see below
    sigmas = denoiser.table.sigmas[timesteps]
    y = float(sigmas[0]) * torch.randn(1, 1, 8, 8, 8, generator=generator())
    state = y / float(1 + sigmas[0] ** 2) ** 0.5
    for timestep in timesteps:
        state, _ = scheduler.step(denoiser.network(state, torch.tensor([timestep])), timestep, state)
    fractions = torch.cat([sigmas / sigmas[0], torch.zeros(1, dtype=torch.float64)])
    ours = Heun(correct=False)(denoiser, y, scalar_sigma(float(sigmas[0]), y), fractions, generator=generator())
    assert relative_error(ours, state) < 1e-4  # float32: the state is 157 times the image at the start


def test_ancestral_steps_are_the_schedulers_own_ddpm_chain():
    scheduler = DDPMScheduler(num_train_timesteps=8, beta_start=0.05, beta_end=0.3, clip_sample=False)
    denoiser = random_diffusion(scheduler)
    sigmas = denoiser.table.sigmas.flip(0)
    y = float(sigmas[0]) * torch.randn(1, 1, 8, 8, 8, generator=generator())
    state, draws = y / float(1 + sigmas[0] ** 2) ** 0.5, generator(3)
    for timestep in range(7, -1, -1):
        answer = denoiser.network(state, torch.tensor([timestep]))
        state, _ = scheduler.step(answer, timestep, state, generator=draws)
    fractions = torch.cat([sigmas / sigmas[0], torch.zeros(1, dtype=torch.float64)])
    sampler = ReverseSDE(jacobian_products=0)
    ours = sampler(denoiser, y, scalar_sigma(float(sigmas[0]), y), fractions, generator=generator(3))
    assert relative_error(ours, state) < 1e-5  # float32 rounding of eight steps


def test_control_the_schedulers_own_few_step_loop_is_wrong_and_ours_is_not():
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(5)
    network = GaussianDiffusion(WORLD, scheduler)
    denoiser = DiffusionDenoiser(network, scheduler)
    timesteps = scheduler.timesteps.tolist()
    assert timesteps == [999, 749, 500, 250, 0]  # but from 250 its step() goes to 50, and calls that 0
    sigmas = denoiser.table.sigmas[timesteps]
    top = float(sigmas[0])
    y = noisy(top)
    state = y / (1 + top**2) ** 0.5
    for timestep in timesteps:
        state, _ = scheduler.step(network(state, torch.tensor([timestep])), timestep, state)
    fractions = torch.cat([sigmas / sigmas[0], torch.zeros(1, dtype=torch.float64)])
    ours = Heun(correct=False)(denoiser, y, scalar_sigma(top, y), fractions, generator=generator())
    truth = WORLD.flow_end(y, top) - WORLD.mean
    theirs, own = (relative_error(image - WORLD.mean, truth) for image in (state, ours))
    assert theirs > 3 * own  # 4.1 and 0.7: five Euler steps from pure noise are few, but their levels are true


def test_nothing_of_the_schedulers_state_matters():
    scheduler = DDIMScheduler(clip_sample=True)
    denoiser = oracle(scheduler)
    y = 5 * noisy(0.7)  # far outside of [-1, 1], where clip_sample would cut
    level = scalar_sigma(0.7, y)
    before = denoiser(y, level)
    scheduler.set_timesteps(7)
    half = torch.ones(1, 1, 2, 2, 2, dtype=torch.bfloat16)
    scheduler.add_noise(half, half, torch.tensor([3]))  # recasts the scheduler's own table to bfloat16
    scheduler.clip_sample = False
    assert scheduler.alphas_cumprod.dtype == torch.bfloat16
    assert torch.equal(denoiser(y, level), before)
    assert float(before.abs().max()) > 5


# Sampling


def test_posterior_samples_have_the_closed_forms_mean_and_spread():
    fractions = PowerSchedule()(5, start=1.0)
    found = calibrate(ReverseSDE(), oracle(DDPMScheduler()), WORLD, fractions, generator=generator(), scans=2, draws=32)
    own = calibrate(ReverseSDE(), WORLD, WORLD, fractions, generator=generator(), scans=2, draws=32)
    assert found.variance_ratio == pytest.approx(own.variance_ratio, rel=1e-6)  # the wrapper adds nothing
    assert 0.9 < found.variance_ratio < 1.05
    assert found.mean_error == pytest.approx(own.mean_error, rel=1e-6)


def test_control_wrong_labels_spoil_the_spread():
    fractions = PowerSchedule()(5, start=1.0)
    wrong = oracle(DDPMScheduler(num_train_timesteps=50), shift=-5)
    found = calibrate(ReverseSDE(), wrong, WORLD, fractions, generator=generator(), scans=1, draws=16)
    assert not 0.95 < found.variance_ratio < 1.05


# Intensity


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_fixed_intensity_is_handled_and_undone(prediction):
    scheduler = DDPMScheduler(prediction_type=prediction)
    plain = oracle(scheduler)
    in_hu = oracle(scheduler, intensity=FixedIntensity(scale=500.0, offset=-200.0))
    y = noisy(0.7)
    expected = 500 * plain(y, scalar_sigma(0.7, y)) - 200
    assert relative_error(in_hu(500 * y - 200, scalar_sigma(350.0, y)), expected) < 1e-12


def test_mean_brightness_makes_any_network_homogeneous():
    x = positive()
    level = scalar_sigma(0.2, x)
    assert euler_account(random_diffusion(DDPMScheduler(), intensity=MeanBrightness()), x, level).residual < 1e-5
    assert euler_account(random_diffusion(DDPMScheduler()), x, level).residual > 0.01  # control: fixed units


def test_mean_brightness_ignores_air_and_noise():
    tissue = torch.zeros(1, 1, 32, 32, 32)
    tissue[..., 8:24, :, :] = 0.7
    cut = tissue[..., 8:24, :, :]
    read = MeanBrightness(target=0.7)
    assert float(read(tissue, scalar_sigma(0.0, tissue)).scale) == pytest.approx(1, abs=1e-5)
    assert float(read(cut, scalar_sigma(0.0, cut)).scale) == pytest.approx(1, abs=1e-5)
    for sigma in (0.05, 0.15, 0.3):
        level = scalar_sigma(sigma, tissue)
        gaussian = tissue + sigma * torch.randn(tissue.shape, generator=generator())
        assert float(read(gaussian, level).scale) == pytest.approx(1, abs=0.02)  # sampling error of 32^3 voxels
    rician = add_rician(tissue, scalar_sigma(0.15, tissue), generator=generator())
    assert 0.85 < float(read(rician, scalar_sigma(0.15, tissue)).scale) < 1  # as its documentation says
    assert 0.6 < float(read(rician, scalar_sigma(0.225, tissue)).scale) < 1  # sigma wrong by 1.5


def test_images_of_no_brightness_are_refused():
    hu = torch.full((1, 1, 8, 8, 8), -1000.0)
    with pytest.raises(InputError, match="FixedIntensity"):
        MeanBrightness()(hu, scalar_sigma(10.0, hu))
    with pytest.raises(ConfigError, match="positive"):
        FixedIntensity(scale=0.0)
    with pytest.raises(ConfigError, match="positive"):
        MeanBrightness(target=-1.0)


# Refusals


def test_a_level_outside_the_table_is_refused_in_the_scans_unit():
    denoiser = random_diffusion(DDPMScheduler(), intensity=FixedIntensity(scale=100.0))
    x = 100 * positive(8)
    low, high = denoiser.sigma_range(x, scalar_sigma(10.0, x))
    assert (low, high) == pytest.approx((1.0, 15741), rel=1e-3)  # 0.01 and 157 in the network's unit
    for sigma in (0.9 * low, 1.1 * high):
        with pytest.raises(InputError, match=r"trained from 1 to 1\.574e\+04"):
            denoiser(x, scalar_sigma(sigma, x))
    for sigma in (low, high):  # the ends themselves, rounded to float32
        assert torch.isfinite(denoiser(x, scalar_sigma(sigma, x))).all()


def test_a_noise_map_is_refused_and_a_constant_one_is_a_number():
    denoiser = random_diffusion(DDPMScheduler())
    x = positive(8)
    constant = torch.full((1, 1, 8, 8, 8), 0.2)
    assert relative_error(denoiser(x, constant), denoiser(x, scalar_sigma(0.2, x))) < 1e-5
    constant[..., 0] = 0.3
    with pytest.raises(InputError, match="one noise level"):
        denoiser(x, constant)


def test_every_image_of_a_batch_has_its_own_level():
    denoiser = random_diffusion(DDPMScheduler())
    x, sigma = positive(8), torch.tensor([0.1, 0.4]).reshape(2, 1, 1, 1, 1)
    alone = torch.cat([denoiser(x[n : n + 1], sigma[n : n + 1]) for n in range(2)])
    assert relative_error(denoiser(x, sigma), alone) < 1e-5


def test_schedulers_without_a_usable_table_are_refused():
    network = torch.nn.Identity()
    with pytest.raises(ConfigError, match="predicts epsilon"):
        DiffusionDenoiser(network, torch.nn.Identity())
    with pytest.raises(ConfigError, match="alphas_cumprod"):
        DiffusionDenoiser(network, RFlowScheduler())
    with pytest.raises(ConfigError, match="do not increase"):
        NoiseTable.of(DDPMScheduler(beta_start=1e-9))
    with pytest.raises(ConfigError, match="continuous or nearest"):
        DiffusionDenoiser(network, DDPMScheduler(), timesteps="floor")


# Windows, memory, sizes


def test_any_size_is_padded_and_cropped():
    denoiser = random_diffusion(DDPMScheduler())
    x = positive(16)[..., :13, :11, :9]
    assert denoiser(x, scalar_sigma(0.2, x)).shape == x.shape


def test_windows_of_a_network_without_normalisation_change_nothing():
    y = torch.randn(1, 1, 24, 8, 8, generator=generator())
    network = Smoothing()
    whole, cut = (DiffusionDenoiser(network, DDPMScheduler(), stride=8, windows=w) for w in (None, Windows(8, 8)))
    level = scalar_sigma(0.2, y)
    assert relative_error(cut(y, level), whole(y, level)) < 1e-6


class Smoothing(torch.nn.Module):
    def forward(self, state, timesteps):
        return torch.nn.functional.avg_pool3d(state, 3, stride=1, padding=1)


def test_windows_keep_the_brightness_of_the_whole_scan():
    x = positive(16)[:1].clone()
    x[..., :8] *= 0.01  # windows of air: their own brightness would be a hundredth
    denoiser = random_diffusion(DDPMScheduler(), intensity=MeanBrightness(), windows=Windows(8, 0))
    assert torch.isfinite(denoiser(x, scalar_sigma(0.1, x))).all()


def test_a_box_costs_only_its_windows_and_is_the_same_there():
    denoiser = random_diffusion(DDPMScheduler(), intensity=MeanBrightness(), windows=Windows(8, 4))
    x = positive(24)[:1].requires_grad_()
    level, box = scalar_sigma(0.2, x), ((9, 10, 11), (15, 18, 16))
    calls = []
    handle = denoiser.network.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    whole, part = denoiser(x, level), denoiser.within(box)(x, level)
    handle.remove()
    assert len(calls) == 27 + 2  # only along J does the box touch two windows of eight
    inside = (..., slice(9, 15), slice(10, 18), slice(11, 16))
    assert torch.equal(part[inside], whole[inside])
    gradients = [torch.autograd.grad(image[inside].sum(), x)[0] for image in (whole, part)]
    assert relative_error(gradients[1], gradients[0]) < 1e-5  # float32, summed in another order


def test_checkpointing_changes_no_bit():
    x = positive(8)
    gradients = []
    for checkpoint in (False, True):
        denoiser, start = random_diffusion(DDPMScheduler(), checkpoint=checkpoint), x.clone().requires_grad_()
        end = Heun()(denoiser, start, scalar_sigma(0.5, x), PowerSchedule()(3, start=1.0), generator=generator())
        gradients.append((end.detach(), *torch.autograd.grad(end.square().sum(), start)))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


def test_single_tensor_call_estimates_the_level():
    y = noisy(0.7)
    blind, told = (oracle(DDPMScheduler())(y, *level) for level in ((), (scalar_sigma(0.7, y),)))
    assert relative_error(blind - y, told - y) < 0.1  # the prior's own finest detail counts as noise
    flat = torch.ones(2, 1, 16, 16, 16)
    assert torch.isfinite(random_diffusion(DDPMScheduler())(flat)).all()  # no noise at all: the lowest level known


# The bundle


def bundle_config():
    return {
        "network_def": {
            "_target_": "medinterp.denoisers.monai_ddpm.DiffusionDenoiser",
            "network": {
                "_target_": "monai.networks.nets.DiffusionModelUNet", "spatial_dims": 3, "in_channels": 1,
                "out_channels": 1, "num_res_blocks": 1, "channels": [4, 8], "attention_levels": [False, False],
                "norm_num_groups": 4, "num_head_channels": 4, "use_flash_attention": True,
            },
            "scheduler": {"_target_": "monai.networks.schedulers.DDPMScheduler", "num_train_timesteps": 100},
            "intensity": {"_target_": "medinterp.denoisers.intensity.MeanBrightness"},
            "windows": {"_target_": "medinterp.denoisers.monai_ddpm.Windows", "size": 16, "halo": 8},
        },
        "pipeline": {
            "_target_": "medinterp.pipeline.Pipeline",
            "estimator": {"_target_": "medinterp.noise.estimate.Auto"},
            "denoiser": {
                "_target_": "medinterp.denoisers.monai_ddpm.PretrainedDiffusion", "network": "@network_def",
                "bundle_root": "@bundle_root",
            },
            "schedule": {"_target_": "medinterp.sampling.schedules.KarrasSchedule", "end": 0.1},
            "sampler": {"_target_": "medinterp.sampling.samplers.PosteriorMean"},
            "fuser": {"_target_": "medinterp.fusion.fusers.VarianceWeighted"},
        },
    }  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    for name in ("configs", "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "configs" / "metadata.json").write_text("{}", encoding="utf-8")
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(bundle_config()), encoding="utf-8")
    weights = random_diffusion(DDPMScheduler()).network.state_dict()
    torch.save({name: value.half() for name, value in weights.items()}, tmp_path / "models" / "model.pt")
    return tmp_path


def test_a_bundle_of_literals_makes_the_denoiser(bundle):
    pipeline = load_pipeline(bundle)
    denoiser = pipeline.denoiser
    assert isinstance(denoiser, PretrainedDiffusion)
    assert isinstance(pipeline.sampler, PosteriorMean)
    assert pipeline.radius is None  # every voxel can influence every other: explanations take the whole scan
    x = positive(16)[:1].requires_grad_()
    image = pipeline.denoise(x, scalar_sigma(0.2, x), seed=0)
    (gradient,) = torch.autograd.grad(image.sum(), x)
    assert float(gradient.abs().max()) > 0
    assert not any(parameter.requires_grad for parameter in denoiser.network.parameters())


def test_weights_of_another_network_are_refused(bundle):
    torch.save({"conv.weight": torch.zeros(1)}, bundle / "models" / "model.pt")
    with pytest.raises(WeightsMismatch, match="does not fit DiffusionModelUNet"):
        load_pipeline(bundle)
