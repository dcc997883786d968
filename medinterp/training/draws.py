"""Random draws that every part of the training data is made of; each takes its generator."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def seeded(*path: int) -> torch.Generator:
    """Return a generator for one place in a tree of seeds, such as (seed, stream, step), independent of all others.

    So a training step's batch depends on the seed and the step's number alone: workers may draw ahead in any order,
    and a run that is resumed sees what it would have seen.
    """
    state = np.random.SeedSequence(path).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))  # torch takes 63 bits


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw one number uniformly from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw one number from [low, high) whose logarithm is uniform."""
    return math.exp(uniform(math.log(low), math.log(high), generator))


def whole(low: int, high: int, generator: torch.Generator) -> int:
    """Draw one whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def chance(probability: float, generator: torch.Generator) -> bool:
    """Draw True with this probability."""
    return uniform(0.0, 1.0, generator) < probability


def smooth_field(
    shape: Sequence[int], cells: int | Sequence[int], generator: torch.Generator
) -> Float[Tensor, "I J K"]:
    """Draw a twice differentiable random field of zero mean and unit variance.

    Args:
        shape: voxels along each axis.
        cells: independent cells along each axis, one number for all or three.
        generator: where the numbers come from.
    """
    counts = [cells] * 3 if isinstance(cells, int) else list(cells)
    counts = [max(1, min(n, size)) for n, size in zip(counts, shape, strict=True)]
    field = torch.randn([n + 3 for n in counts], generator=generator)
    for size, n in zip(shape, counts, strict=True):  # each pass interpolates the first axis and moves it to the end
        field = torch.tensordot(field, _spline(int(size), n), dims=([0], [1]))
    return (field - field.mean()) / field.std().clamp_min(1e-6)


@lru_cache(maxsize=256)
def _spline(size: int, cells: int) -> Float[Tensor, "size coefficients"]:
    """Return the uniform cubic B-spline's weights of ``cells + 3`` coefficients at ``size`` places."""
    place = torch.linspace(0, cells, size)[:, None]
    distance = (place - torch.arange(-1, cells + 2)).abs()
    near = 2 / 3 - distance.square() + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far)
