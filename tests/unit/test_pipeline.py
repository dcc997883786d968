"""The pipeline as a function: the image that a run makes, with a gradient back to every scan."""

import numpy as np
import torch

from medinterp.fusion.fusers import VarianceWeighted
from medinterp.noise.estimate import NoiseEstimate
from medinterp.pipeline import Pipeline, sigma_tensor
from medinterp.sampling.samplers import PosteriorMean
from medinterp.sampling.schedules import LinearSchedule
from medinterp.volume import Grid, Provenance, Source, Volume


def shrink(x, sigma, *, cond=None):
    """Return the posterior mean of independent voxels around their mean."""
    mean = x.mean()
    return mean + (x - mean) * 100 / (100 + sigma.square())


def estimated(volume):
    return NoiseEstimate(5.0, 4.0, 6.0, "gaussian", "known")


def pipeline():
    return Pipeline(estimated, shrink, LinearSchedule(), PosteriorMean(), VarianceWeighted())


def scan(seed, spacing=2.0):
    voxels = 100 + 10 * np.random.default_rng(seed).normal(size=(1, 12, 10, 8))
    affine = np.diag([spacing, spacing, spacing, 1.0])
    return Volume(voxels.astype(np.float32), Grid((12, 10, 8), affine), "a.u.", "MR", Provenance(Source("memory")))


def as_function(scans):
    images = {m: torch.from_numpy(volume.voxels.copy())[None].requires_grad_() for m, volume in scans.items()}
    sigmas = {m: sigma_tensor(estimated(volume), images[m]) for m, volume in scans.items()}
    made = pipeline().forward(images, sigmas, {m: volume.grid for m, volume in scans.items()}, seed=0)
    return made, torch.autograd.grad(made.sum(), list(images.values()))


def test_of_one_scan_it_is_the_denoised_image():
    scans = {"t1": scan(0)}
    made, (gradient,) = as_function(scans)
    np.testing.assert_array_equal(made[0].detach().numpy(), pipeline().run(scans).inputs["t1"].denoised.voxels)
    assert bool(gradient.all())


def test_of_several_scans_it_is_the_fused_image_on_the_first_ones_grid():
    scans = {"t1": scan(0), "t2": scan(1, spacing=2.2)}
    made, gradients = as_function(scans)
    fused = pipeline().run(scans).fusion.fused
    np.testing.assert_allclose(made[0].detach().numpy(), fused.voxels, atol=1e-6)  # float32, values up to 1
    assert all(bool(gradient.any()) for gradient in gradients)
