"""Repeats of a linear model have a spread, an agreement and an overlap that are known in closed form."""

import json
import math
from dataclasses import asdict

import pytest
import torch

from medinterp.assessment.stability import compare_repeats, noise_draws, repeat_map
from medinterp.errors import ConfigError, InputError
from medinterp.testing.attribution_oracles import smooth_noise

SHAPE = (1, 1, 10, 11, 12)
SIGMA = torch.full((1, 1, 1, 1, 1), 0.7, dtype=torch.float64)
DRAWS = 200


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_case():
    """A model w·y, the cleaned scan c: gradient x input of a repeat is w (c + sigma n)."""
    weights = smooth_noise(SHAPE, 1.0, seeded(1))
    clean = 1 + smooth_noise(SHAPE, 1.0, seeded(2))
    return weights, clean


def repeats(explain, clean, draws=DRAWS, seed=3):
    scans = noise_draws(clean, SIGMA, draws=draws, generator=seeded(seed))
    return repeat_map(lambda y: explain(y)[0], scans)


def test_mean_and_spread_of_a_linear_model_are_those_of_its_noise():
    weights, clean = linear_case()
    found = compare_repeats((weights * clean)[0], repeats(lambda y: weights * y, clean))
    standard_error = 0.7 * weights.abs()[0] / math.sqrt(DRAWS)
    assert float(((found.mean - (weights * clean)[0]) / standard_error).abs().max()) < 5  # 1320 voxels
    ratio = found.sd / (0.7 * weights.abs()[0])
    assert float(ratio.square().mean()) == pytest.approx(1, abs=0.02)  # relative se sqrt(2/199/1320) = 0.3 %
    expected = 0.7 * float(weights.norm()) / float((weights * clean).norm())
    assert found.stability.relative_sd == pytest.approx(expected, rel=0.02)


def test_signs_agree_as_often_as_two_draws_of_the_normal_distribution():
    weights, clean = linear_case()
    truth = (weights * clean)[0]
    found = compare_repeats(truth, repeats(lambda y: weights * y, clean))
    above = torch.special.ndtr(clean[0] / 0.7)
    expected = float((truth.abs() * (above**2 + (1 - above) ** 2)).sum() / truth.abs().sum())
    assert found.stability.sign_agreement == pytest.approx(expected, abs=0.005)


def test_the_gradient_of_a_linear_model_is_the_same_in_every_repeat():
    weights, clean = linear_case()
    stability = compare_repeats(weights[0], repeats(lambda y: weights, clean, draws=4)).stability
    assert (stability.top_dice, stability.sign_agreement, stability.relative_sd) == (1.0, 1.0, 0.0)
    assert stability.top_voxels == 66


def test_maps_that_are_noise_must_agree_no_more_than_by_chance():
    _, clean = linear_case()
    stability = compare_repeats(clean[0], repeats(lambda y: y - clean, clean)).stability
    assert stability.top_dice == pytest.approx(stability.top_dice_by_chance, abs=0.003)
    assert stability.sign_agreement == pytest.approx(0.5, abs=0.005)
    assert stability.relative_sd > 5


def test_the_repeats_have_the_scans_own_noise_and_the_generator_decides_them():
    clean = torch.zeros(1, 1, 32, 32, 32)
    level = torch.linspace(0.5, 2, 32).reshape(1, 1, 32, 1, 1).expand(1, 1, 32, 32, 32)
    first = list(noise_draws(clean, level, draws=2, generator=seeded()))
    again = list(noise_draws(clean, level, draws=2, generator=seeded()))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    ratio = first[0].std(dim=(0, 1, 3, 4)) / level[0, 0, :, 0, 0]
    assert float((ratio - 1).abs().max()) < 0.1  # 1024 voxels a slice: standard error 2.2 %


def test_stability_can_be_stored_as_json_also_of_empty_maps():
    nothing = torch.zeros(1, 3, 3, 3)
    stability = compare_repeats(nothing, [nothing, nothing]).stability
    assert stability.relative_sd is None
    json.dumps(asdict(stability), allow_nan=False)


def test_one_repeat_a_wrong_shape_and_a_wrong_share_are_refused():
    image = torch.ones(1, 3, 3, 3)
    with pytest.raises(ConfigError, match="at least 2"):
        compare_repeats(image, [image])
    with pytest.raises(InputError, match="a repeat of shape"):
        compare_repeats(image, iter([image[:, 1:]]))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        compare_repeats(image, [image, image], top_share=1.0)
