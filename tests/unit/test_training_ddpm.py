"""Training of MONAI's diffusion networks: the loss is MONAI's own, a run is resumed, its weights are MONAI's."""

import json

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler

from medinterp.denoisers.base import scalar_sigma
from medinterp.denoisers.intensity import MeanBrightness
from medinterp.denoisers.monai_ddpm import DiffusionDenoiser, PretrainedDiffusion, Windows
from medinterp.errors import ConfigError, NonFinite
from medinterp.testing.diffusion_oracle import random_diffusion
from medinterp.training.ddpm import DiffusionTrainer, epsilon_loss, run_trainer
from medinterp.training.loop import TrainingPlan
from medinterp.training.patches import PatchDataset
from medinterp.training.precision import TrainingInferer
from medinterp.training.simulate import Batch

NETWORK = {
    "_target_": "monai.networks.nets.DiffusionModelUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 1,
    "num_res_blocks": 1, "channels": [4, 8], "attention_levels": [False, False], "norm_num_groups": 4,
    "num_head_channels": 4,
}  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def loss_of(denoiser, batch):
    return epsilon_loss(denoiser, batch, TrainingInferer())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_loss_is_the_error_of_the_predicted_noise_in_monais_own_terms(prediction):
    scheduler = DDPMScheduler(prediction_type=prediction)
    denoiser = random_diffusion(scheduler)
    timesteps = torch.tensor([40, 300])
    clean = torch.rand(2, 1, 8, 8, 8, generator=generator())
    noise = torch.randn(clean.shape, generator=generator(1))
    sigma = denoiser.table.sigmas[timesteps].float().reshape(2, 1, 1, 1, 1)
    loss = loss_of(denoiser, Batch(clean, clean + sigma * noise, sigma))
    answer = DiffusionInferer(scheduler)(clean, denoiser.network, noise, timesteps)  # MONAI noises and predicts
    if prediction == "v_prediction":  # an error of the velocity is one of the noise, 1 / sqrt(1 + sigma^2) as large
        errors = (answer - scheduler.get_velocity(clean, noise, timesteps)).square() / (1 + sigma**2)
    elif prediction == "sample":
        errors = ((answer - clean) / sigma).square()
    else:
        errors = (answer - noise).square()
    assert float(loss) == pytest.approx(float(errors.mean()), rel=1e-4)  # float32


def test_noise_maps_enter_by_their_root_mean_square_and_levels_stay_in_the_table():
    denoiser = random_diffusion(DDPMScheduler(60))  # 0.01 to 1
    clean = torch.rand(1, 1, 8, 8, 8, generator=generator())
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=generator(1))
    sigma = torch.full_like(clean, 0.1)
    sigma[..., :4] = 0.07**0.5  # mean square 0.04
    by_map, by_number = (loss_of(denoiser, Batch(clean, noisy, s)) for s in (sigma, scalar_sigma(0.2, clean)))
    assert float(by_map) == pytest.approx(float(by_number), rel=1e-5)
    for level in (1e-4, 50.0):
        assert torch.isfinite(loss_of(denoiser, Batch(clean, noisy, scalar_sigma(level, clean))))


class Waves:
    """Smooth clean images under white noise: anything that blurs beats doing nothing."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def draw(self, batch, size, generator, *, step=0):
        phase = 6.28 * torch.rand(batch, 1, 1, 1, 1, generator=generator)
        clean = self.factor * (0.5 + 0.3 * torch.sin(phase + torch.arange(size) / 3).expand(batch, 1, size, size, size))
        sigma = torch.full((batch, 1, 1, 1, 1), 0.3)
        return Batch(clean, clean + sigma * torch.randn(clean.shape, generator=generator), sigma)


@pytest.fixture
def bundle(tmp_path):
    root = tmp_path / "bundle"
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "metadata.json").write_text('{"medinterp": {}}', encoding="utf-8")
    return root


def trainer(bundle, work, *, source=None, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ConfigParser({"net": NETWORK}).get_parsed_content("net")
    denoiser = DiffusionDenoiser(network, DDPMScheduler(), MeanBrightness(), windows=Windows(8, 0), checkpoint=True)
    probe = Waves().draw(4, 16, generator(9))

    def validate(average):
        with torch.no_grad():
            return {"probe": float(loss_of(average, probe))}

    plan = TrainingPlan(minutes=1.0, patch_sizes=(16,), learning_rate=0.02, checkpoint_s=1e6, steps=40, warmup=10)
    parts = {"network": denoiser, "dataset": PatchDataset(source or Waves()), "inferer": TrainingInferer()}
    return DiffusionTrainer(**parts, validate=validate, plan=plan, bundle_root=str(bundle), work=str(work), **changes)


class StopAfter:
    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left < 0


def test_an_interrupted_run_goes_on_to_the_same_bits_and_leaves_monai_weights(bundle, tmp_path):
    straight = run_trainer(trainer(bundle, tmp_path / "straight"))
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert straight["step"] == 40
    assert straight["probe"] < 0.9  # a network that predicts no noise has 1
    (bundle / "models" / "model.pt").unlink()
    half = trainer(bundle, tmp_path / "cut").run(stop=StopAfter(20))
    assert half["step"] == 20
    assert not (bundle / "models" / "model.pt").exists()  # not before the end of the budget
    told = []
    trainer(bundle, tmp_path / "cut").run(on_step=told.append)
    assert len(told) == 20
    resumed = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    lines = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40]
    plain = ConfigParser({"net": NETWORK}).get_parsed_content("net")
    assert isinstance(plain, DiffusionModelUNet)
    plain.load_state_dict(weights)  # MONAI's own names
    loaded = PretrainedDiffusion(DiffusionDenoiser(plain, DDPMScheduler()), str(bundle))  # the recorded hash fits
    assert len(loaded.weights_sha256) == 64


def test_training_is_in_the_networks_own_unit_and_leaves_the_given_wrapper_alone(bundle, tmp_path):
    given = trainer(bundle, tmp_path)
    state = given.initial_state()
    assert not isinstance(state.network.intensity, MeanBrightness)
    assert state.network.windows is None
    assert isinstance(given.network.intensity, MeanBrightness)
    assert next(state.network.parameters()) is next(given.network.parameters())
    assert next(state.average.parameters()) is not next(given.network.parameters())


def test_a_diverged_run_keeps_its_last_checkpoint(bundle, tmp_path):
    with pytest.raises(NonFinite, match="lower learning rate"):
        trainer(bundle, tmp_path, source=Waves(float("nan"))).run(stop=StopAfter(1))
    assert not (tmp_path / "checkpoint.pt").exists()
    with pytest.raises(ConfigError, match="optimizer"):
        trainer(bundle, tmp_path, optimizer="none").run()
