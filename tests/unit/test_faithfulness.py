"""Deletion and insertion of a linear model are known in closed form; a map of noise must not beat chance."""

import json
from dataclasses import asdict

import pytest
import torch

from medinterp.assessment.faithfulness import (
    CurveOptions,
    assess_faithfulness,
    edge_magnitude,
    rank_steps,
    replacement_curve,
)
from medinterp.assessment.intervals import mean_interval
from medinterp.errors import ConfigError, InputError
from medinterp.testing.attribution_oracles import smooth_noise

SHAPE = (1, 1, 12, 12, 12)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_case():
    """A model with positive weights in one corner, and a scan above its filling: all contributions have one sign."""
    weights = smooth_noise(SHAPE, 1.0, seeded(1)).abs()
    weights[..., 6:] = 0
    scan = 2 + 0.1 * smooth_noise(SHAPE, 0.7, seeded(2))
    return weights, scan, lambda y: (y * weights).flatten(1).sum(dim=1)


def assess(found, measure, scan, fills=None, **options):
    chosen = CurveOptions(**{"block": 3, "steps": 8, "draws": 6, "batch": 3} | options)
    fills = [torch.ones_like(scan)] * chosen.draws if fills is None else fills
    return assess_faithfulness(measure, scan, fills, found, fill="ones", generator=seeded(5), options=chosen)


def test_the_curve_of_a_linear_model_is_the_running_sum_of_its_contributions():
    weights, scan, measure = linear_case()
    effects = (weights * (scan - 1)).flatten()
    ranks = rank_steps(effects, 9).reshape(SHAPE[2:])
    curve = replacement_curve(measure, scan, torch.ones_like(scan), ranks, 9, batch=4)
    sums = effects.sort(descending=True).values.reshape(9, -1).sum(dim=1).cumsum(0)
    expected = torch.cat([torch.zeros(1, dtype=torch.float64), sums])
    assert torch.allclose(measure(scan) - curve, expected, atol=1e-10)


def test_the_true_contributions_move_the_number_sooner_than_chance_and_edges():
    weights, scan, measure = linear_case()
    found = assess(weights * (scan - 1), measure, scan)
    assert found.faithful
    assert found.deletion_over_edges.low > 0
    assert found.insertion_over_edges.low > 0
    whole = float(measure(scan) - measure(torch.ones_like(scan)))
    assert found.map.deleted[0] - found.map.deleted[-1] == pytest.approx(whole, rel=1e-9)
    assert found.map.inserted[-1] == pytest.approx(found.map.deleted[0], rel=1e-9)
    # all effects have one sign: putting back is taking away, seen from the other end
    assert found.map.deletion_area.value + found.map.insertion_area.value == pytest.approx(whole, rel=1e-9)
    assert found.evaluations == 6 * (4 + 2) * 2 * 9


def test_no_order_beats_that_of_the_true_contributions_of_one_sign():
    weights, scan, measure = linear_case()
    effects = (weights * (scan - 1)).flatten()
    fill = torch.ones_like(scan)

    def area(scores):
        ranks = rank_steps(scores, 12).reshape(SHAPE[2:])
        return float((measure(scan) - replacement_curve(measure, scan, fill, ranks, 12)).mean())

    best = area(effects)
    for seed in range(20):
        assert area(effects + torch.randn(len(effects), generator=seeded(seed), dtype=torch.float64)) < best


def test_a_number_that_hangs_on_one_block_is_told_from_chance_though_random_areas_spread_up_to_the_maps():
    weights, scan, _ = linear_case()
    weights = torch.zeros_like(weights)
    weights[..., 4:6, 4:6, 4:6] = 1
    found = assess(weights * (scan - 1), lambda y: (y * weights).flatten(1).sum(dim=1), scan)
    assert found.faithful
    assert found.deletion_p == found.insertion_p == 1 / 25


def test_a_map_of_noise_must_not_be_called_faithful():
    _, scan, measure = linear_case()
    called = [assess(smooth_noise(SHAPE, 0.3, seeded(seed)), measure, scan).faithful for seed in range(10, 30)]
    assert sum(called) <= 3  # each 4 % at most by chance: 4 or more of 20 in 1 % of seeds


def test_the_edge_map_must_not_beat_the_edge_order():
    _, scan, measure = linear_case()
    found = assess(edge_magnitude(scan)[None, None], measure, scan)
    assert found.deletion_over_edges.value == 0
    assert found.insertion_over_edges.value == 0


def test_a_map_that_points_away_from_the_region_must_lose_against_chance():
    weights, scan, measure = linear_case()
    found = assess((weights == 0).to(weights), measure, scan)
    assert found.deletion_over_random.high < 0
    assert found.deletion_p > 0.9
    assert not found.faithful


def test_the_record_is_json_and_the_generator_decides_everything():
    weights, scan, measure = linear_case()
    first, again = assess(weights, measure, scan), assess(weights, measure, scan)
    assert first == again
    json.dumps(asdict(first), allow_nan=False)


def test_the_interval_of_five_normal_draws_holds_the_truth_in_19_of_20_cases():
    draws = torch.randn(4000, 5, generator=seeded(), dtype=torch.float64)
    intervals = [mean_interval(row) for row in draws]
    share = sum(i.low <= 0 <= i.high for i in intervals) / len(intervals)
    assert share == pytest.approx(0.95, abs=0.012)  # standard error 0.34 %


def test_edges_are_the_slope_of_a_ramp():
    ramp = torch.arange(6.0).reshape(1, 1, 6, 1, 1).expand(1, 1, 6, 5, 4)
    assert torch.allclose(edge_magnitude(ramp)[1:-1], torch.ones(4, 5, 4))


def test_too_few_fillings_and_too_many_steps_are_refused():
    weights, scan, measure = linear_case()
    with pytest.raises(InputError, match="1 fillings for 6 draws"):
        assess(weights, measure, scan, fills=[scan])
    with pytest.raises(ConfigError, match="at most one a block"):
        rank_steps(torch.ones(3), 4)
    with pytest.raises(ConfigError, match="2 draws"):
        CurveOptions(draws=1)
