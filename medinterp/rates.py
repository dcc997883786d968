"""How fast this machine is, by probes of a second or two: what a dry run scales from."""

import time
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor

from medinterp.attribution import Box
from medinterp.denoisers.focus import Triple
from medinterp.denoisers.footprint import gradient_numbers
from medinterp.denoisers.network import BiasFreeUNet
from medinterp.pipeline import Pipeline
from medinterp.volume import Grid, Provenance, Source, Volume

PROBE_VOXELS = 64
PROBE_BOX = 8
"""Edge of the part of a probe that is looked at: that of a measurement that is small, as most are."""
DENOISED_PROBE_VOXELS = 96
"""A smaller block takes longer for each voxel than a scan: 15 % at 80."""
PROBE_STEPS = 2
REPEATS = 3
"""Times that a probe is made; the middle one counts, since other work on the machine disturbs single ones."""


@dataclass(frozen=True)
class Rates:
    """Seconds of the network's work for each number that a gradient's graph would keep.

    Args:
        forward: of an evaluation.
        backward: of a gradient.
        batched: of an evaluation of one of several images at once, without a graph.
    """

    forward: float
    backward: float
    batched: float

    @classmethod
    def probe(cls, pipeline: Pipeline) -> "Rates":
        """Time our network, asked for the middle of a noisy block as measurements ask it."""
        network = getattr(pipeline.denoiser, "network", None)
        if not isinstance(network, BiasFreeUNet):
            return cls(0.0, 0.0, 0.0)
        _gradient_seconds(network, PROBE_VOXELS)  # loads what the first call loads
        forward, backward = zip(*(_gradient_seconds(network, PROBE_VOXELS) for _ in range(REPEATS)), strict=True)
        batched = [_batched_seconds(network, PROBE_VOXELS // 2) for _ in range(REPEATS)]
        return cls(median(forward), median(backward), median(batched))

    def seconds(self, forward: int, backward: int, numbers: float, *, batched: int = 0) -> float:
        """Return what evaluations and gradients take whose graphs keep so many numbers each."""
        return (forward * self.forward + backward * self.backward + batched * self.batched) * numbers


def _probe_of(network: BiasFreeUNet, edge: int, batch: int) -> tuple[Tensor, tuple[Triple, Triple], int]:
    """Return noise, the box in its middle that is looked at, and the numbers that a graph of all of it keeps."""
    image = torch.randn(batch, 1, edge, edge, edge, generator=torch.Generator().manual_seed(0))
    low, high = (edge - PROBE_BOX) // 2, (edge + PROBE_BOX) // 2
    box = ((low, low, low), (high, high, high))
    return image, box, batch * gradient_numbers(network, (edge, edge, edge), box)


def _gradient_seconds(network: BiasFreeUNet, edge: int) -> tuple[float, float]:
    image, box, numbers = _probe_of(network, edge, 1)
    begun = time.perf_counter()
    estimate = network(image.requires_grad_(), torch.ones(1, 1, 1, 1, 1), box)
    middle = time.perf_counter()
    torch.autograd.grad(estimate[(..., *Box(*box).slices)].sum(), image)
    return (middle - begun) / numbers, (time.perf_counter() - middle) / numbers


def _batched_seconds(network: BiasFreeUNet, edge: int) -> float:
    image, box, numbers = _probe_of(network, edge, 4)
    begun = time.perf_counter()
    with torch.no_grad():  # a timing
        network(image, torch.ones(1, 1, 1, 1, 1), box)
    return (time.perf_counter() - begun) / numbers


def seconds_per_voxel(pipeline: Pipeline, device: str) -> float:
    """Time the denoising of a noisy block, by the path that a scan takes, after one that loads what the first loads.

    A sampler of many steps is timed over a few: each takes as long as any other.
    """
    few = replace(pipeline, steps=min(pipeline.steps, PROBE_STEPS))
    times = pipeline.sampler.evaluations(pipeline.steps) / few.sampler.evaluations(few.steps)

    def seconds(voxels: int) -> float:
        shape = (voxels,) * 3
        noise = np.random.default_rng(0).normal(size=(2, *shape))
        magnitude = np.hypot(10 + noise[0], noise[1]).astype(np.float32)
        block = Volume(magnitude[None], Grid(shape, np.eye(4)), "a.u.", "MR", Provenance(Source("memory")))
        return few.run({"probe": block}, device=device).seconds["denoise"] / magnitude.size

    seconds(PROBE_VOXELS // 2)
    return times * median(seconds(DENOISED_PROBE_VOXELS) for _ in range(REPEATS))
