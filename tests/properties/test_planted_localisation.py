"""Planted truth: where a filter of known reach is all there is, maps lie within that reach, and controls do not."""

import numpy as np
import pytest
import torch

from medinterp.assessment.localisation import localisation
from medinterp.attribution.by_name import NamedMethod
from medinterp.attribution.measures import Mean
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, EdgeDetector, GaussianFilter, smooth_noise
from medinterp.volume import Grid, Provenance, Region, Source, Volume

SHAPE, REACH = (20, 20, 20), 2
MEASURED = (slice(9, 12),) * 3
CAUSE = (slice(9 - REACH, 12 + REACH),) * 3
EXACT = ("saliency", "input_x_gradient", "equivalent_filter", "integrated_gradients", "smoothgrad", "gradient_shap")


def scan():
    values = 3 + smooth_noise((1, *SHAPE), 1.0, torch.Generator().manual_seed(0)).float()
    return Volume(values.numpy(), Grid(SHAPE, np.eye(4)), "a.u.", "MR", Provenance(Source("memory")))


def mask(box):
    inside = np.zeros(SHAPE, dtype=bool)
    inside[box] = True
    return inside


def place(attributor):
    """Explain the mean of the measured voxels behind the filter, and compare the map with what the filter reads."""
    volume = scan()
    inputs = {SCAN: torch.from_numpy(volume.voxels.copy())[None]}
    target = Mean().target(Region(mask(MEASURED), volume.grid, "box"))
    forward = DenoiserForward(GaussianFilter(1.0, reach=REACH))
    found = attributor(forward, inputs, {SCAN: torch.full((1, 1, 1, 1, 1), 0.3)}, target).maps[SCAN]
    return localisation(found[0], torch.from_numpy(mask(CAUSE)))


def named(text):
    volume = scan()
    return NamedMethod(text).on(volume, Region(mask(MEASURED), volume.grid, "box"), 0)


@pytest.mark.parametrize("method", EXACT)
def test_all_of_a_gradient_method_s_map_lies_where_the_filter_looks(method):
    found = place(named(method))
    assert found.mass == pytest.approx(1, abs=1e-6)  # float32
    assert found.pointing


def test_windows_that_straddle_the_border_leave_most_of_the_map_inside():
    assert place(named("occlusion:window_mm=2")).mass > 0.8


def test_an_edge_detector_must_not_be_called_localised():
    assert place(EdgeDetector()).mass < 0.3


def test_a_random_map_must_have_the_mass_of_chance():
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = localisation(noise, torch.from_numpy(mask(CAUSE)))
    assert found.mass == pytest.approx(found.by_chance, abs=0.01)  # 343 voxels: a twentieth of it
    assert found.by_chance == pytest.approx(7**3 / 20**3)
