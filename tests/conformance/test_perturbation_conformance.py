"""Perturbation methods keep the protocol of attributors, whatever the baseline."""

import numpy as np
import pytest
import torch

from medinterp.attribution import (
    Attributor,
    Blurred,
    ExactShapley,
    FeatureAblation,
    KernelShap,
    Lime,
    LocalMean,
    Occlusion,
    SampledShapley,
    Zero,
    block_supervoxels,
)
from medinterp.testing.attributor_conformance import ATTRIBUTOR_CHECKS, SHAPE
from medinterp.volume import Grid

GRID = Grid(SHAPE, np.diag([2.0, 1.0, 3.0, 1.0]))
BLOCKS = block_supervoxels(GRID, 6.0)


def seeded():
    return torch.Generator().manual_seed(3)


METHODS = (
    FeatureAblation(BLOCKS, Blurred()),
    ExactShapley(block_supervoxels(GRID, 8.0), LocalMean(2)),
    SampledShapley(BLOCKS, Blurred(1.0), seeded(), orders=4),
    SampledShapley(BLOCKS, Zero(), seeded(), orders=3, antithetic=False),
    KernelShap(BLOCKS, Blurred(1.0), seeded(), samples=60),
    Lime(BLOCKS, LocalMean(), seeded(), samples=60),
    Occlusion(GRID, Blurred(), window_mm=4.0),
    Occlusion(GRID, Blurred(), window_mm=6.0, step_mm=3.0),
)


@pytest.mark.parametrize("check", ATTRIBUTOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("attributor", METHODS, ids=lambda a: f"{a.name}-{a.baseline.name}")
def test_perturbation_methods_keep_the_protocol(attributor, check):
    assert isinstance(attributor, Attributor)
    check(attributor)
