"""Perturbation methods: the same as Captum at equal settings, region tables in mm, exact on crops, one at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum import attr
from captum._utils.models.model import Model
from torch.nn import functional

from medinterp.attribution import (
    Blurred,
    Box,
    Contrast,
    ExactShapley,
    FeatureAblation,
    Given,
    Inpainted,
    KernelShap,
    Lime,
    LocalMean,
    ModalityNull,
    NoiseResampled,
    Occlusion,
    RegionMean,
    Removed,
    SampledShapley,
    Zero,
    block_supervoxels,
    explain_region,
    label_supervoxels,
    shell_supervoxels,
)
from medinterp.attribution.game import SupervoxelGame
from medinterp.attribution.perturbation import cropped
from medinterp.attribution.shapley import draw_kernel_coalitions, draw_orders, fit_additive, local_linear, proximity
from medinterp.errors import ConfigError, GridMismatch, MethodNotValid, ModelError
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, PeronaMalikStep
from medinterp.volume import Grid, sphere

SHAPE = (12, 10, 8)
GRID = Grid(SHAPE, np.diag([1.0, 1.0, 1.5, 1.0]))
SIGMA = {SCAN: torch.full((1, 1, 1, 1, 1), 0.7, dtype=torch.float64)}
FORWARD = DenoiserForward(PeronaMalikStep())
START = LocalMean(2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scan(shape=SHAPE, seed=0):
    return {SCAN: 4 + torch.randn(1, 1, *shape, generator=seeded(seed), dtype=torch.float64)}


def region(shape=SHAPE):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[4:8, 3:6, 2:5] = True
    return mask


def square(image, _):
    return image.square()


TARGET = RegionMean(region(), "block")
NONLINEAR = DenoiserForward(lambda x, sigma: x.square() + 0.3 * x * x.roll(1, dims=2))
"""Voxels interact, so that the order in which they are removed matters."""


def captum_function(forward=NONLINEAR):
    return lambda image: TARGET(forward({SCAN: image}, SIGMA))


def close(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm()) <= 1e-5


def densities(values, division):
    """Spread a number a voxel holds in Captum's maps evenly over its supervoxel, as ours are."""
    counts = torch.bincount(division.labels.flatten().long())
    return values / counts[division.labels.long()]


# Captum at equal settings


def test_ablation_equals_captum():
    division = block_supervoxels(GRID, 4.0)
    start = START(NONLINEAR, scan(), SIGMA)[0][SCAN]
    ours = FeatureAblation(division, START)(NONLINEAR, scan(), SIGMA, TARGET)
    theirs = attr.FeatureAblation(captum_function()).attribute(
        scan()[SCAN], start, feature_mask=division.labels[None, None].long()
    )
    assert close(ours.maps[SCAN], densities(theirs, division))


@pytest.mark.parametrize("window", [(4, 5, 4), (5, 4, 3)], ids=["divides the scan", "does not"])
def test_occlusion_without_overlap_equals_captum(window):
    grid = Grid(SHAPE, np.diag([4.0 / n for n in window] + [1.0]))
    start = START(NONLINEAR, scan(), SIGMA)[0][SCAN]
    ours = Occlusion(grid, START, window_mm=4.0)(NONLINEAR, scan(), SIGMA, TARGET)
    theirs = attr.Occlusion(captum_function()).attribute(
        scan()[SCAN], sliding_window_shapes=(1, *window), strides=(1, *window), baselines=start
    )
    voxels = torch.ones(1, 1, *SHAPE, dtype=torch.float64)
    for axis, size in enumerate(window):
        at = torch.arange(SHAPE[axis]) // size
        held = torch.bincount(at)[at].double()
        view = [1, 1, 1]
        view[axis] = -1
        voxels = voxels * held.reshape(view)
    assert close(ours.maps[SCAN] * voxels, theirs)
    assert sum(row.value for row in ours.regions) == pytest.approx(ours.total(), rel=1e-10)


def test_occlusion_with_overlap_equals_captum_where_windows_are_whole():
    grid = Grid(SHAPE, np.eye(4))
    start = START(NONLINEAR, scan(), SIGMA)[0][SCAN]
    ours = Occlusion(grid, START, window_mm=4.0, step_mm=2.0)(NONLINEAR, scan(), SIGMA, TARGET)
    theirs = attr.Occlusion(captum_function()).attribute(
        scan()[SCAN], sliding_window_shapes=(1, 4, 4, 4), strides=(1, 2, 2, 2), baselines=start
    )
    assert close(ours.maps[SCAN] * 64, theirs)


def test_exact_shapley_equals_captums_enumeration_of_orders():
    division = block_supervoxels(GRID, 6.0)
    small = label_supervoxels(np.minimum(division.labels.numpy(), 4).astype(np.int64), GRID, "four")
    start = START(NONLINEAR, scan(), SIGMA)[0][SCAN]
    ours = ExactShapley(small, START)(NONLINEAR, scan(), SIGMA, TARGET)
    theirs = attr.ShapleyValues(captum_function()).attribute(
        scan()[SCAN], start, feature_mask=small.labels[None, None].long() - 1
    )
    assert close(ours.maps[SCAN], densities(theirs, small))
    assert ours.evaluations <= 2 + 2**4


def test_sampled_shapley_equals_captum_on_the_same_orders():
    division = block_supervoxels(GRID, 4.0)
    start = START(NONLINEAR, scan(), SIGMA)[0][SCAN]
    ours = SampledShapley(division, START, seeded(5), orders=4, antithetic=False)(NONLINEAR, scan(), SIGMA, TARGET)
    captum = attr.ShapleyValueSampling(captum_function())
    orders = [order.tolist() for order in draw_orders(len(division), 4, generator=seeded(5), antithetic=False)]
    captum.permutation_generator = lambda features, samples: orders
    theirs = captum.attribute(scan()[SCAN], start, feature_mask=division.labels[None, None].long() - 1, n_samples=4)
    assert close(ours.maps[SCAN], densities(theirs, division))


class LeastSquares(Model):
    """A linear model for Captum in float64, in place of scikit-learn's."""

    def fit(self, train_data, **kwargs):
        rows, outputs, weights = (part.double() for part in next(iter(train_data)))
        design = torch.cat([torch.ones(len(rows), 1), rows], dim=1)
        root = weights.sqrt()[:, None]
        self.solution = torch.linalg.lstsq(root * design, root * outputs.reshape(-1, 1)).solution
        return {"train_time": 0.0}

    def representation(self):
        return self.solution[1:].reshape(1, -1)

    def __call__(self, x):
        raise NotImplementedError


def in_order(coalitions):
    """A perturbation function for Captum that yields given coalitions."""

    def perturb(original, **kwargs):
        for present in coalitions:
            yield torch.from_numpy(present[None].astype(np.int64))

    return perturb


def offset_free():
    """A measurement near zero: Captum rounds it to float32 before it subtracts."""
    return DenoiserForward(lambda x, sigma: NONLINEAR({SCAN: x}, SIGMA) - 16.5)


def test_kernel_shap_equals_captum_on_the_same_coalitions():
    division, forward = block_supervoxels(GRID, 4.0), offset_free()
    players, start = len(division), START(forward, scan(), SIGMA)[0][SCAN]
    ours = KernelShap(division, START, seeded(2), samples=80)(forward, scan(), SIGMA, TARGET)
    drawn = draw_kernel_coalitions(players, 80, generator=seeded(2))
    captum = attr.KernelShap(captum_function(forward))
    captum.interpretable_model, captum.inf_weight = LeastSquares(), 1e9
    ends = [np.ones(players, dtype=bool), np.zeros(players, dtype=bool)]
    captum.perturb_func = in_order([*ends, *drawn])
    theirs = captum.attribute(
        scan()[SCAN], start, feature_mask=division.labels[None, None].long() - 1, n_samples=82, return_input_shape=False
    )
    assert close(torch.tensor([row.value for row in ours.regions], dtype=torch.float64), theirs[0].double())


def test_lime_equals_captum_on_the_same_coalitions_and_weights():
    division, forward = block_supervoxels(GRID, 4.0), offset_free()
    players, start = len(division), START(forward, scan(), SIGMA)[0][SCAN]
    ours = Lime(division, START, seeded(2), samples=80)(forward, scan(), SIGMA, TARGET)
    drawn = []
    local_linear(lambda present: drawn.append(present.copy()) or 0.0, players, 80, width=0.25, generator=seeded(2))
    captum = attr.Lime(
        captum_function(forward),
        interpretable_model=LeastSquares(),
        similarity_func=lambda a, b, sample, **kwargs: torch.from_numpy(proximity(sample.numpy() == 1, 0.25)),
        perturb_func=in_order(drawn[1:]),  # the first is the scan itself, asked for once before the rest
    )
    theirs = captum.attribute(
        scan()[SCAN], start, feature_mask=division.labels[None, None].long() - 1, n_samples=80, return_input_shape=False
    )
    assert close(torch.tensor([row.value for row in ours.regions], dtype=torch.float64), theirs[0].double())


# The region table and the record


def every_method(division, grid, baseline):
    return [
        FeatureAblation(division, baseline),
        ExactShapley(division, baseline),
        SampledShapley(division, baseline, seeded(1), orders=4),
        KernelShap(division, baseline, seeded(1), samples=64),
        Lime(division, baseline, seeded(1), samples=64),
        Occlusion(grid, baseline, window_mm=6.0),
    ]


def test_the_map_and_the_table_hold_the_same_shares_and_the_baseline_is_on_record():
    division = block_supervoxels(GRID, 6.0)
    for method in every_method(division, GRID, START):
        found = method(NONLINEAR, scan(), SIGMA, TARGET)
        assert sum(row.value for row in found.regions) == pytest.approx(found.total(), rel=1e-10)
        assert (found.baseline, bool(found.divided_by)) == ("local_mean", True)
        assert sum(row.volume_mm3 for row in found.regions) == pytest.approx(np.prod(SHAPE) * 1.5)
    table = FeatureAblation(division, START)(NONLINEAR, scan(), SIGMA, TARGET).regions
    for row, of_division in zip(table, division.regions, strict=True):
        assert (row.centre_mm, row.volume_mm3, row.label) == (
            of_division.centre_mm,
            of_division.volume_mm3,
            of_division.label,
        )


def test_sampled_methods_have_standard_errors_and_others_have_none():
    division = block_supervoxels(GRID, 6.0)
    for method in every_method(division, GRID, START):
        found = method(NONLINEAR, scan(), SIGMA, TARGET)
        errors = [row.standard_error for row in found.regions]
        if method.name in ("sampled_shapley", "lime"):  # 64 samples play all coalitions of 12 players never
            assert all(error is not None and error >= 0 for error in errors)
            assert found.statistics["largest_standard_error"] == pytest.approx(max(errors))
        elif method.name != "kernel_shap":
            assert errors == [None] * len(errors)


def test_shares_add_up_to_the_change_for_the_methods_that_promise_it():
    division = block_supervoxels(GRID, 6.0)
    for method in every_method(division, GRID, START):
        found = method(NONLINEAR, scan(), SIGMA, TARGET)
        assert found.baseline_value != found.value
        if method.capabilities.complete:
            assert found.residual <= 1e-10
        else:
            assert found.residual > 1e-3  # voxels interact: these methods must say that something is left over


def test_a_voxel_of_no_region_is_never_touched():
    labels = np.zeros(SHAPE, dtype=np.int64)
    labels[4:6] = 1
    division = label_supervoxels(labels, GRID, "by hand")
    outside = torch.from_numpy(labels == 0)
    seen = []

    def spying(x, sigma):
        seen.append(torch.equal(x[0, 0][outside], scan()[SCAN][0, 0][outside]))
        return x

    for method in every_method(division, GRID, Zero())[:4]:
        found = replace(method, baseline=Zero())(DenoiserForward(spying), scan(), SIGMA, TARGET)
        assert not found.maps[SCAN][0, 0][outside].any()
    assert all(seen)


def test_one_scan_is_evaluated_at_a_time_and_without_a_graph():
    def watched(x, sigma):
        assert x.shape[0] == 1
        assert not torch.is_grad_enabled()
        return x.square()

    for method in every_method(block_supervoxels(GRID, 6.0), GRID, START):
        method(DenoiserForward(watched), scan(), SIGMA, TARGET)


# Noise levels, several inputs, fillings


def test_a_null_with_a_noise_level_replaces_both_together():
    forward = DenoiserForward(lambda x, sigma: x + 10 * sigma)
    null = ModalityNull({SCAN: 0.0}, {SCAN: 2.0})
    labels = np.ones(SHAPE, dtype=np.int64)
    labels[6:] = 2
    division = label_supervoxels(labels, GRID, "halves")
    inside = region()
    first = torch.zeros_like(inside)
    first[:6] = True
    expected = [
        float(((scan()[SCAN][0, 0] + 7 - 20) * (inside & part)).sum() / inside.sum()) for part in (first, ~first)
    ]
    for method in (FeatureAblation(division, null), ExactShapley(division, null)):
        found = method(forward, scan(), SIGMA, TARGET)
        assert [row.value for row in found.regions] == pytest.approx(expected, rel=1e-10)
        assert found.residual <= 1e-10


def test_whole_modalities_can_be_the_players():
    inputs = {"a": scan()[SCAN], "b": scan(seed=1)[SCAN]}
    levels = {"a": SIGMA[SCAN], "b": SIGMA[SCAN]}
    whole = label_supervoxels(np.ones(SHAPE, dtype=np.int64), GRID, "whole")
    fused = lambda i, s: 0.25 * i["a"] + 0.75 * i["b"] + 0.1 * i["a"] * i["b"]  # noqa: E731
    found = ExactShapley(whole, ModalityNull({"a": 0.0, "b": 0.0}))(fused, inputs, levels, TARGET)
    means = {name: float(TARGET(image)) for name, image in inputs.items()}
    together = 0.05 * float(TARGET(inputs["a"] * inputs["b"]))
    values = {row.input_name: row.value for row in found.regions}
    assert values["a"] == pytest.approx(0.25 * means["a"] + together, rel=1e-12)
    assert values["b"] == pytest.approx(0.75 * means["b"] + together, rel=1e-12)


def test_a_noise_resampled_filling_is_the_cleaned_scan_with_noise():
    found = FeatureAblation(block_supervoxels(GRID, 6.0), NoiseResampled(seeded()))(FORWARD, scan(), SIGMA, TARGET)
    assert found.baseline == "noise_resampled"
    assert 0 < abs(found.value - found.baseline_value) < 1  # the cleaned scan, not zeros


def test_supervoxels_of_another_grid_are_refused():
    division = block_supervoxels(Grid((4, 4, 4), np.eye(4)), 2.0)
    with pytest.raises(GridMismatch, match="divide the very grid"):
        FeatureAblation(division, Zero())(FORWARD, scan(), SIGMA, TARGET)
    with pytest.raises(GridMismatch, match="windows over"):
        Occlusion(Grid((4, 4, 4), np.eye(4)), Zero())(FORWARD, scan(), SIGMA, TARGET)


def test_a_model_that_hides_an_input_from_some_coalitions_is_refused():
    levels = {"a": SIGMA[SCAN], "b": SIGMA[SCAN]}
    inputs = {"a": scan()[SCAN], "b": scan(seed=1)[SCAN]}
    mean = float(inputs["a"].mean())

    def hiding(images, sigmas):
        half_empty = 0.2 * mean < float(images["a"].mean()) < 0.8 * mean
        return images["b"] if half_empty else images["a"]

    with pytest.raises(ModelError, match="must still take them"):
        ExactShapley(block_supervoxels(GRID, 8.0), Zero())(hiding, inputs, levels, TARGET)


def test_a_model_that_reads_nothing_is_refused():
    blind = lambda inputs, sigmas: torch.ones(1, 1, *SHAPE, dtype=torch.float64)  # noqa: E731
    with pytest.raises(MethodNotValid, match="looks at none"):
        FeatureAblation(block_supervoxels(GRID, 6.0), Zero())(blind, scan(), SIGMA, TARGET)


# Crops


BIG = (40, 24, 24)
BIG_GRID = Grid(BIG, np.diag([1.0, 1.0, 1.0, 1.0]))


def squared_mean(reach):
    """A model that looks ``reach`` voxels far, in which voxels interact."""
    return DenoiserForward(
        lambda x, sigma: functional.avg_pool3d(x, 2 * reach + 1, 1, reach, count_include_pad=False).square()
    )


def crop_methods():
    ball = sphere(BIG_GRID, (8.0, 12.0, 12.0), 3.0)
    blocks, shells = block_supervoxels(BIG_GRID, 8.0), shell_supervoxels(ball, (2.0, 4.0))
    return ball, [
        FeatureAblation(blocks, Blurred(0.5)),
        ExactShapley(shells, Blurred(0.5)),
        SampledShapley(shells, Blurred(0.5), seeded(), orders=4),
        KernelShap(shells, Zero(), seeded(), samples=30),
        Occlusion(BIG_GRID, Blurred(0.5), window_mm=6.0),
    ]


@pytest.mark.parametrize("number", range(5))
def test_on_a_crop_of_the_receptive_field_regions_have_the_shares_they_have_on_the_whole_scan(number):
    ball, methods = crop_methods()
    method, target = methods[number], Contrast(0.0, 2.0).target(ball)
    inputs, sigmas = scan(BIG), SIGMA
    blur = squared_mean(reach=2)
    whole = method(blur, inputs, sigmas, target)
    part = explain_region(method, blur, inputs, sigmas, target, radius=2)
    assert part.statistics["crop_voxels"] <= 0.6 * np.prod(BIG)
    ours = {(row.input_name, row.label): row.value for row in part.regions}
    for row in whole.regions:
        assert ours.pop((row.input_name, row.label), 0.0) == pytest.approx(row.value, rel=1e-9, abs=1e-12)
    assert not ours
    assert part.value == pytest.approx(whole.value, rel=1e-12)
    if len(whole.regions) > 10:
        assert part.evaluations < whole.evaluations  # regions beyond the receptive field are not played


def test_a_crop_smaller_than_the_receptive_field_must_differ():
    ball, methods = crop_methods()
    target = Contrast(0.0, 2.0).target(ball)
    blur = squared_mean(reach=4)
    whole = methods[0](blur, scan(BIG), SIGMA, target)
    part = explain_region(methods[0], blur, scan(BIG), SIGMA, target, radius=4, halo=0)
    assert part.value != pytest.approx(whole.value, rel=1e-3)


def test_given_fillings_move_with_the_crop_and_need_no_context():
    box, image = Box((0, 0, 0), (8, 8, 8)), scan(BIG, seed=7)
    assert FeatureAblation(block_supervoxels(BIG_GRID, 8.0), Given(image)).reach == 0
    assert cropped(Given(image), box).images[SCAN].shape == (1, 1, 8, 8, 8)
    assert FeatureAblation(block_supervoxels(BIG_GRID, 8.0), NoiseResampled(seeded())).reach == 16
    assert FeatureAblation(block_supervoxels(BIG_GRID, 8.0), Blurred(1.0)).reach == 3


# Refusals and construction


def test_too_many_players_or_too_few_samples_are_refused_with_the_numbers():
    division = block_supervoxels(GRID, 4.0)
    with pytest.raises(ConfigError, match="at most 12 players"):
        ExactShapley(division, START)(FORWARD, scan(), SIGMA, TARGET)
    for kind in (KernelShap, Lime):
        with pytest.raises(ConfigError, match=f"at least {2 * len(division)}"):
            kind(division, START, seeded(), samples=2 * len(division) - 1)(FORWARD, scan(), SIGMA, TARGET)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SampledShapley(block_supervoxels(GRID, 6.0), START, seeded(), orders=3),
        lambda: SampledShapley(block_supervoxels(GRID, 6.0), START, seeded(), orders=0),
        lambda: Lime(block_supervoxels(GRID, 6.0), START, seeded(), width=0.0),
        lambda: Occlusion(GRID, START, window_mm=4.0, step_mm=5.0),
        lambda: Occlusion(GRID, START, window_mm=0.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_the_cost_that_is_declared_is_the_cost_that_is_paid():
    division = block_supervoxels(GRID, 6.0)
    for method in every_method(division, GRID, START):
        found = method(NONLINEAR, scan(), SIGMA, TARGET)
        assert found.evaluations <= method.capabilities.cost.forward
        assert (
            found.evaluations >= method.capabilities.cost.forward / 2
        )  # coalitions that come up twice are played once


def test_a_coalition_is_evaluated_once():
    game = SupervoxelGame(NONLINEAR, scan(), SIGMA, TARGET, block_supervoxels(GRID, 6.0), START)
    before, present = game.measurement.evaluations, np.zeros(len(game.players), dtype=bool)
    present[3] = True
    assert game(present) == game(present)
    assert game.measurement.evaluations == before + 1


def test_equal_coalitions_alone_cannot_be_fitted():
    twins = np.array([[True, True, False]] * 6)
    with pytest.raises(ConfigError, match="always together"):
        fit_additive(twins, np.ones(6), np.ones(6), 1.0)


def test_a_window_keeps_its_place_when_a_crop_is_cropped_again():
    once = Occlusion(GRID, START).crop(Box((2, 1, 0), (10, 9, 8)))
    assert once.crop(Box((1, 1, 1), (5, 5, 5))).box == Box((3, 2, 1), (7, 6, 5))


def test_what_fills_a_region_comes_from_the_image_and_not_from_a_view_of_it():
    inputs, shrink = scan(), DenoiserForward(lambda x, sigma: 0.9 * x)
    view = Removed(shrink)
    for baseline in (NoiseResampled(seeded()), Inpainted(block_supervoxels(GRID, 6.0), seeded())):
        plain, _ = baseline(shrink, inputs, SIGMA)
        seen, _ = baseline(view, inputs, SIGMA)
        assert torch.equal(plain[SCAN], seen[SCAN])
    game = SupervoxelGame(view, inputs, SIGMA, TARGET, block_supervoxels(GRID, 6.0), NoiseResampled(seeded()))
    assert torch.equal(game.fill[0], NoiseResampled(seeded())(shrink, inputs, SIGMA)[0][SCAN])
