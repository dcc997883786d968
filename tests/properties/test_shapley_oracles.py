"""Shapley values against games with known answers, each with a control that must fail."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medinterp.assessment.randomisation import INSENSITIVE, SENSITIVE, check_randomisation
from medinterp.attribution import (
    ExactShapley,
    FeatureAblation,
    Given,
    KernelShap,
    Lime,
    LocalMean,
    Occlusion,
    RegionMean,
    SampledShapley,
    WeightedSum,
    Zero,
    block_supervoxels,
    label_supervoxels,
)
from medinterp.attribution.shapley import (
    draw_orders,
    exact_shapley,
    kernel_shapley,
    local_linear,
    sampled_shapley,
)
from medinterp.testing.attribution_oracles import (
    SCAN,
    DenoiserForward,
    EdgeDetector,
    GaussianFilter,
    smooth_noise,
    use_only,
)
from medinterp.testing.networks import random_network
from medinterp.volume import Grid

SHAPE = (8, 6, 4)
GRID = Grid(SHAPE, np.eye(4))
SIGMA = {SCAN: torch.full((1, 1, 1, 1, 1), 0.7, dtype=torch.float64)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def table_game(players, seed):
    """Any game at all: a random number for every coalition."""
    numbers = np.random.default_rng(seed).standard_normal(2**players)
    return lambda present: float(numbers[int(present @ (2 ** np.arange(players)))])


def pairwise_game(weights, pairs):
    """The sum of members' weights and of their pairs' (oracle 10): half of every pair belongs to each."""
    return lambda present: float(weights @ present + 0.5 * present @ pairs @ present)


def pairwise_case(players, seed):
    generator = np.random.default_rng(seed)
    pairs = generator.standard_normal((players, players))
    pairs = pairs + pairs.T
    np.fill_diagonal(pairs, 0.0)
    weights = generator.standard_normal(players)
    return weights, pairs, weights + 0.5 * pairs.sum(axis=1)


# Known games


@settings(max_examples=25, deadline=None)
@given(players=st.integers(1, 7), seed=st.integers(0, 10_000))
def test_a_game_of_weights_and_pairs_has_its_closed_form(players, seed):
    weights, pairs, expected = pairwise_case(players, seed)
    found = exact_shapley(pairwise_game(weights, pairs), players).values
    assert np.abs(found - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max())


def test_the_glove_game_and_the_majority_game_have_their_textbook_values():
    glove = exact_shapley(lambda present: float(min(present[0], present[1] + present[2])), 3).values
    assert glove == pytest.approx([4 / 6, 1 / 6, 1 / 6], abs=1e-14)
    council = np.array([4, 3, 2, 1])  # passes with 6 of 10 votes
    power = exact_shapley(lambda present: float(council @ present >= 6), 4).values
    assert power == pytest.approx([5 / 12, 3 / 12, 3 / 12, 1 / 12], abs=1e-14)


@settings(max_examples=15, deadline=None)
@given(players=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_coalitions_give_the_same_as_all_orders_of_arrival(players, seed):
    game = table_game(players, seed)
    orders = [np.array(order) for order in permutations(range(players))]
    by_orders = sampled_shapley(game, players, orders).values
    assert np.abs(exact_shapley(game, players).values - by_orders).max() <= 1e-12


@settings(max_examples=25, deadline=None)
@given(players=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_all_coalitions_in_the_kernel_regression_give_the_exact_values(players, seed):
    game = table_game(players, seed)
    samples = max(2 * players, 2**players)
    found = kernel_shapley(game, players, samples, generator=seeded())
    assert np.abs(found.values - exact_shapley(game, players).values).max() <= 1e-10
    assert found.standard_errors is None


# Axioms, for every game and every method that promises them


@settings(max_examples=25, deadline=None)
@given(players=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_nothing_is_left_over(players, seed):
    game = table_game(players, seed)
    change = game(np.ones(players, dtype=bool)) - game(np.zeros(players, dtype=bool))
    orders = draw_orders(players, 3, generator=seeded(seed), antithetic=False)
    for found in (
        exact_shapley(game, players),
        sampled_shapley(game, players, orders),
        kernel_shapley(game, players, 6 * players, generator=seeded(seed)),
    ):
        assert found.values.sum() == pytest.approx(change, abs=1e-10)


@settings(max_examples=25, deadline=None)
@given(players=st.integers(2, 6), seed=st.integers(0, 10_000), data=st.data())
def test_a_player_who_changes_nothing_gets_nothing(players, seed, data):
    dummy = data.draw(st.integers(0, players - 1))
    full = table_game(players, seed)

    def game(present):
        without = present.copy()
        without[dummy] = False
        return full(without)

    orders = draw_orders(players, 4, generator=seeded(seed), antithetic=True)
    assert exact_shapley(game, players).values[dummy] == 0
    assert sampled_shapley(game, players, orders).values[dummy] == 0


@settings(max_examples=25, deadline=None)
@given(players=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_players_who_can_stand_in_for_each_other_get_the_same(players, seed):
    full = table_game(players, seed)

    def game(present):
        sorted_pair = present.copy()
        sorted_pair[:2] = np.sort(present[:2])
        return full(sorted_pair)

    found = exact_shapley(game, players).values
    assert found[0] == pytest.approx(found[1], abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(players=st.integers(1, 6), seed=st.integers(0, 10_000), factor=st.floats(-5, 5))
def test_the_values_of_a_sum_of_games_are_the_sum_of_their_values(players, seed, factor):
    one, other = table_game(players, seed), table_game(players, seed + 1)
    mixed = exact_shapley(lambda present: one(present) + factor * other(present), players).values
    expected = exact_shapley(one, players).values + factor * exact_shapley(other, players).values
    assert np.abs(mixed - expected).max() <= 1e-12 * (1 + abs(factor))


def test_removing_one_player_at_a_time_must_break_the_axioms():
    weights, pairs, expected = pairwise_case(5, 3)
    game = pairwise_game(weights, pairs)
    everyone = np.ones(5, dtype=bool)
    falls = np.array([game(everyone) - game(np.arange(5) != player) for player in range(5)])
    assert np.abs(falls - expected).max() > 0.1
    assert abs(falls.sum() - game(everyone)) > 0.1


# Sampling: unbiased, and its standard errors mean what they say


@pytest.mark.parametrize("method", ["orders", "antithetic", "kernel", "lime"])
def test_the_standard_error_is_the_spread_over_repetitions(method):
    players, repetitions = 6, 60
    game = table_game(players, 4)

    def draw(seed):
        if method == "kernel":
            return kernel_shapley(game, players, 60, generator=seeded(seed))
        if method == "lime":
            return local_linear(game, players, 120, width=0.5, generator=seeded(seed))
        antithetic = method == "antithetic"
        orders = draw_orders(players, 24, generator=seeded(seed), antithetic=antithetic)
        return sampled_shapley(game, players, orders, group=2 if antithetic else 1)

    found = [draw(seed) for seed in range(repetitions)]
    values = np.array([shares.values for shares in found])
    claimed = np.sqrt(np.mean([shares.standard_errors**2 for shares in found], axis=0))
    ratio = float(np.sqrt((values.std(axis=0, ddof=1) ** 2).mean() / (claimed**2).mean()))
    assert 0.8 < ratio < 1.25  # six spreads from 60 draws each: about 4 %; small-sample error of a sandwich: 10 %
    if method == "lime":
        return
    z = (values.mean(axis=0) - exact_shapley(game, players).values) / (claimed / repetitions**0.5)
    assert float(np.abs(z).max()) < 4


def test_antithetic_orders_must_spread_less_than_independent_ones():
    weights, pairs, expected = pairwise_case(6, 2)
    game = pairwise_game(weights, pairs)
    errors = {
        antithetic: np.abs(
            sampled_shapley(game, 6, draw_orders(6, 4, generator=seeded(1), antithetic=antithetic)).values - expected
        ).max()
        for antithetic in (True, False)
    }
    assert errors[True] <= 1e-12  # a pair's credit is halved by an order and its reverse
    assert errors[False] > 0.01


# On images


def linear_case():
    """A linear model and measurement: every region deserves the sum of its weights times its change."""
    blur, weights = GaussianFilter(1.0, reach=2), normal(*SHAPE, seed=4)
    scan, start = normal(1, 1, *SHAPE, seed=1), normal(1, 1, *SHAPE, seed=2)
    pulled = blur(weights[None, None], SIGMA[SCAN])  # the blur is its own transpose
    return DenoiserForward(blur), {SCAN: scan}, Given({SCAN: start}), WeightedSum(weights, "w"), pulled * (scan - start)


@pytest.mark.parametrize("name", ["exact", "sampled", "kernel", "ablation", "lime"])
def test_regions_of_a_linear_model_get_their_contribution_exactly(name):
    forward, inputs, start, target, contribution = linear_case()
    division = block_supervoxels(GRID, 4.0)
    method = {
        "exact": ExactShapley(division, start),
        "sampled": SampledShapley(division, start, seeded(), orders=2),
        "kernel": KernelShap(division, start, seeded(), samples=40),
        "ablation": FeatureAblation(division, start),
        "lime": Lime(division, start, seeded(), samples=40),
    }[name]
    found = method(forward, inputs, SIGMA, target)
    expected = [float(contribution[0, 0][division.labels == n].sum()) for n in range(1, len(division) + 1)]
    assert [row.value for row in found.regions] == pytest.approx(expected, rel=1e-9, abs=1e-10)
    other = Given({SCAN: -start.images[SCAN]})
    control = FeatureAblation(division, other)(forward, inputs, SIGMA, target)
    assert [row.value for row in control.regions] != pytest.approx(expected, rel=0.1)  # another baseline must differ


@pytest.mark.parametrize("voxel", [(4, 3, 2), (0, 5, 0)], ids=["middle", "corner"])
def test_occluding_single_voxels_of_a_gaussian_filter_returns_its_kernel_times_the_scan(voxel):
    blur, scan = GaussianFilter(0.9, reach=2), 2 + normal(1, 1, *SHAPE)
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[voxel] = True
    found = Occlusion(GRID, Zero(), window_mm=1.0)(
        DenoiserForward(blur), {SCAN: scan}, SIGMA, RegionMean(mask, "voxel")
    )
    expected = blur.row(SHAPE, voxel) * scan[0, 0]
    assert float((found.maps[SCAN][0, 0] - expected).norm() / expected.norm()) <= 1e-12
    assert found.residual <= 1e-12
    wrong = GaussianFilter(1.3, reach=2).row(SHAPE, voxel) * scan[0, 0]
    assert float((found.maps[SCAN][0, 0] - wrong).norm() / wrong.norm()) > 0.1  # control: another width


@pytest.mark.parametrize("name", ["exact", "sampled", "kernel", "ablation", "occlusion"])
def test_the_modality_that_was_not_used_gets_exactly_nothing(name):
    inputs = {"a": normal(1, 1, *SHAPE, seed=1), "b": normal(1, 1, *SHAPE, seed=2) + 3}
    sigmas = {"a": SIGMA[SCAN], "b": SIGMA[SCAN]}
    lesion = torch.zeros(SHAPE, dtype=torch.float64)
    lesion[4:8, 0:3, 0:4] = 1
    blocks = block_supervoxels(GRID, 4.0)
    halves = label_supervoxels(
        (np.arange(SHAPE[0]) // 4 + 1)[:, None, None] * np.ones(SHAPE, dtype=np.int64), GRID, "h"
    )
    method = {
        "exact": ExactShapley(halves, LocalMean(1)),
        "sampled": SampledShapley(blocks, LocalMean(1), seeded(), orders=2),
        "kernel": KernelShap(halves, LocalMean(1), seeded(), samples=40),
        "ablation": FeatureAblation(blocks, LocalMean(1)),
        "occlusion": Occlusion(GRID, LocalMean(1), window_mm=4.0),
    }[name]
    target = WeightedSum(lesion, "lesion")
    found = method(use_only("b"), inputs, sigmas, target)
    assert not found.maps["a"].any()
    assert found.maps["b"].any()
    outside = found.maps["b"][0, 0, :4]  # no block of the first half touches the lesion
    assert float(outside.abs().max()) <= (1e-15 if name == "kernel" else 0)
    leaked = method(lambda i, s: i["b"] + 1e-3 * i["a"], inputs, sigmas, target)
    assert leaked.maps["a"].any()  # the control: a leak of a thousandth must be seen


def test_products_of_modalities_are_shared_in_halves():
    """Oracle 10: w.x + sum of v_mn x_m x_n over the voxels of a region, two modalities as players."""
    inputs = {"a": normal(1, 1, *SHAPE, seed=1), "b": normal(1, 1, *SHAPE, seed=2)}
    sigmas = {"a": SIGMA[SCAN], "b": SIGMA[SCAN]}
    whole = label_supervoxels(np.ones(SHAPE, dtype=np.int64), GRID, "whole")
    target = WeightedSum(torch.ones(SHAPE, dtype=torch.float64), "sum")
    found = ExactShapley(whole, Zero())(lambda i, s: 2 * i["a"] - i["b"] + 3 * i["a"] * i["b"], inputs, sigmas, target)
    a, b, both = (float(t.sum()) for t in (inputs["a"], inputs["b"], inputs["a"] * inputs["b"]))
    values = [row.value for row in found.regions]
    assert values == pytest.approx([2 * a + 1.5 * both, -b + 1.5 * both], rel=1e-12)
    assert found.residual <= 1e-12


def test_an_ablation_map_is_found_sensitive_to_the_model_where_an_edge_detector_is_not():
    shape = (16, 16, 16)
    network, grid = random_network(), Grid(shape, np.eye(4))
    inputs = {SCAN: 5 + smooth_noise((1, 1, *shape), 1.5, seeded(4)).float()}
    sigmas = {SCAN: SIGMA[SCAN].float()}
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[6:10, 6:10, 6:10] = True
    verdicts = {}
    for method in (FeatureAblation(block_supervoxels(grid, 4.0), LocalMean(3)), EdgeDetector()):

        def explain(denoiser, method=method):
            return method(DenoiserForward(denoiser), inputs, sigmas, RegionMean(mask, "block"))

        verdicts[method.name] = check_randomisation(explain(network), explain, network, generator=seeded(1)).verdict
    assert verdicts == {"feature_ablation": SENSITIVE, "edge_detector": INSENSITIVE}


def test_two_players_more_than_pairs_can_hold_keep_their_triple_in_thirds():
    game = lambda present: float(present[0] and present[1] and present[2])  # noqa: E731
    assert exact_shapley(game, 4).values == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=1e-14)
    for pair in combinations(range(3), 2):
        assert exact_shapley(lambda p, pair=pair: float(p[list(pair)].all()), 3).values[list(pair)] == pytest.approx(
            0.5
        )
