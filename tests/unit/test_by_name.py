"""Methods as text: made for a scan and a region, and what is wrong with them said before there is either."""

import numpy as np
import pytest

from medinterp.attribution import IntegratedGradients, NamedMethod
from medinterp.attribution.by_name import USUAL_BASELINE
from medinterp.errors import ConfigError
from medinterp.volume import Grid, Provenance, Region, Source, Volume

GRID = Grid((12, 10, 8), np.diag([1.0, 1.0, 1.5, 1.0]))


def test_methods_are_built_by_name_from_what_is_available():
    volume = Volume(np.zeros((1, *GRID.shape), dtype=np.float32), GRID, "1", "MR", Provenance(Source("memory")))
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[4, 4, 4] = True
    one = Region(mask, GRID, "voxel")
    for name in ("occlusion", "feature_ablation", "exact_shapley", "sampled_shapley", "kernel_shap", "lime"):
        made = NamedMethod(name, division="blocks:edge_mm=6").on(volume, one, seed=1)
        assert (made.name, made.baseline.name) == (name, USUAL_BASELINE)
    assert NamedMethod("equivalent_filter").on(volume, one, seed=1).spacing_mm == GRID.spacing_mm
    assert NamedMethod("occlusion:window_mm=7", "blurred:width=2").on(volume, one, seed=1).window_mm == 7
    assert NamedMethod("integrated_gradients").on(volume, one, seed=1).baseline == IntegratedGradients().baseline
    assert NamedMethod("lime", "inpainted", "shells").on(volume, one, seed=1).supervoxels.regions[0].name == "voxel"


@pytest.mark.parametrize(
    ("text", "baseline", "words"),
    [
        ("saliency", "blurred", "no baseline"),
        ("occlusion:window=7", None, "not an option"),
        ("occlusion:window_mm=wide", None, "not a float"),
        ("occlusion", "black", "choose noise_resampled"),
    ],
)
def test_what_is_wrong_with_a_named_method_is_said_before_there_is_a_scan(text, baseline, words):
    with pytest.raises(ConfigError, match=words):
        NamedMethod(text, baseline)
