"""Baselines put what they say in the scan's place, by name, and the model's own in-painting is the conditional mean."""

import numpy as np
import pytest
import torch

from medinterp.attribution import (
    Baseline,
    Blurred,
    Box,
    Given,
    Inpainted,
    LocalMean,
    ModalityNull,
    NoiseResampled,
    Ray,
    Zero,
    label_supervoxels,
    parse_baseline,
)
from medinterp.errors import ConfigError, InputError, MethodNotValid
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward
from medinterp.volume import Grid

IDENTITY = DenoiserForward(lambda x, sigma: x)
SHAPE = (6, 5, 4)
GRID = Grid(SHAPE, np.eye(4))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def division(boxes, shape=SHAPE, grid=GRID):
    labels = np.zeros(shape, dtype=np.int64)
    for number, box in enumerate(boxes, start=1):
        labels[box.slices] = number
    return label_supervoxels(labels, grid, "by hand")


def scan(shape=SHAPE, seed=0):
    return {SCAN: 5 + torch.randn(1, 1, *shape, generator=seeded(seed), dtype=torch.float64)}


LEVEL = {SCAN: torch.full((1, 1, 1, 1, 1), 0.3, dtype=torch.float64)}


def every_baseline():
    boxes = [Box((0, 0, 0), (3, 5, 4)), Box((3, 0, 0), SHAPE)]
    return [
        Ray(), Zero(), ModalityNull({SCAN: -1.0}, {SCAN: 9.0}), Blurred(1.0), LocalMean(2), NoiseResampled(seeded()),
        Given(scan(seed=3)), Inpainted(division(boxes), seeded()),
    ]  # fmt: skip


@pytest.mark.parametrize("baseline", every_baseline(), ids=lambda b: b.name)
def test_baselines_keep_the_protocol_the_shape_and_their_arguments(baseline):
    assert isinstance(baseline, Baseline)
    inputs = scan()
    before = inputs[SCAN].clone()
    images, levels = baseline(IDENTITY, inputs, LEVEL)
    assert images[SCAN].shape == before.shape
    assert images[SCAN].dtype == before.dtype
    assert levels[SCAN].shape == LEVEL[SCAN].shape
    assert torch.equal(inputs[SCAN], before)
    again, _ = baseline(IDENTITY, inputs, LEVEL)
    assert torch.equal(images[SCAN], again[SCAN])  # common random numbers


def test_no_baseline_but_those_named_zero_or_ray_contains_zeros():
    for baseline in every_baseline():
        zeros = not bool(baseline(IDENTITY, scan(), LEVEL)[0][SCAN].any())
        assert zeros == (baseline.name in ("zero", "ray"))


def test_zero_holds_the_noise_level_and_the_ray_does_not():
    assert torch.equal(Zero()(IDENTITY, scan(), LEVEL)[1][SCAN], LEVEL[SCAN])
    assert not Ray()(IDENTITY, scan(), LEVEL)[1][SCAN].any()


def test_a_local_mean_is_the_mean_of_the_voxels_there_are():
    image = scan()[SCAN]
    found = LocalMean(1)(IDENTITY, {SCAN: image}, LEVEL)[0][SCAN][0, 0]
    assert float(found[2, 2, 2]) == pytest.approx(float(image[0, 0, 1:4, 1:4, 1:4].mean()), rel=1e-12)
    assert float(found[0, 0, 0]) == pytest.approx(float(image[0, 0, :2, :2, :2].mean()), rel=1e-12)
    flat = torch.full((1, 2, *SHAPE), 7.0, dtype=torch.float64)
    assert torch.allclose(LocalMean(9)(IDENTITY, {SCAN: flat}, LEVEL)[0][SCAN], flat, rtol=1e-12)


def test_a_modality_null_needs_a_value_for_every_input():
    images, levels = ModalityNull({"a": -1.0, "b": 0.5}, {"b": 100.0})(
        IDENTITY, {"a": scan()[SCAN], "b": scan()[SCAN]}, {"a": LEVEL[SCAN], "b": LEVEL[SCAN]}
    )
    assert [float(images[name].unique()) for name in "ab"] == [-1.0, 0.5]
    assert [float(levels[name]) for name in "ab"] == [0.3, 100.0]
    with pytest.raises(InputError, match="no value for b"):
        ModalityNull({"a": 0.0})(IDENTITY, {"a": scan()[SCAN], "b": scan()[SCAN]}, {})


def test_given_images_can_be_cropped():
    box = Box((1, 2, 0), (4, 5, 3))
    image = scan(seed=4)[SCAN]
    assert torch.equal(Given({SCAN: image}).crop(box).images[SCAN], image[:, :, 1:4, 2:5, 0:3])


# In-painting by the model


class GaussianWorld:
    """The exact denoiser of images with a smooth Gaussian prior, under any map of noise levels."""

    def __init__(self, shape=SHAPE, mean=5.0):
        points = torch.tensor(list(np.ndindex(*shape)), dtype=torch.float64)
        self.covariance = torch.exp(-0.5 * torch.cdist(points, points).square() / 1.5**2)
        self.covariance += 1e-6 * torch.eye(len(points))
        self.mean, self.shape = mean, shape

    def __call__(self, x, sigma):
        variance = sigma.expand(x.shape).flatten().square()
        weights = torch.linalg.solve(self.covariance + variance.diag(), (x - self.mean).flatten())
        return self.mean + (self.covariance @ weights).reshape(x.shape)

    def draw(self, generator):
        white = torch.randn(len(self.covariance), generator=generator, dtype=torch.float64)
        return (self.mean + torch.linalg.cholesky(self.covariance) @ white).reshape(1, 1, *self.shape)

    def conditional_mean(self, image, hole, sigma):
        """Return what is expected in the hole given the noisy voxels around it."""
        h, known = hole.flatten(), ~hole.flatten()
        noisy = self.covariance[known][:, known] + sigma**2 * torch.eye(int(known.sum()))
        weights = torch.linalg.solve(noisy, (image.flatten() - self.mean)[known])
        return self.mean + self.covariance[h][:, known] @ weights


def test_one_evaluation_at_an_unknown_level_gives_the_conditional_mean_plus_the_scans_noise():
    world, box, sigma = GaussianWorld(), Box((2, 1, 1), (4, 4, 3)), 1e-3
    level = {SCAN: torch.full((1, 1, 1, 1, 1), sigma, dtype=torch.float64)}
    image = world.draw(seeded(1)) + sigma * torch.randn(1, 1, *SHAPE, generator=seeded(2), dtype=torch.float64)
    method = Inpainted(division([box]), seeded(), evaluations=1, start=1e4)
    found = method(DenoiserForward(world), {SCAN: image}, level)[0][SCAN][0, 0]
    hole = torch.zeros(SHAPE, dtype=torch.bool)
    hole[box.slices] = True
    error = found[hole] - world.conditional_mean(image[0, 0], hole, sigma)
    assert float(error.std()) == pytest.approx(sigma, rel=0.6)  # 12 voxels: a standard error of 20 %
    assert float(error.abs().max()) < 4 * sigma
    assert torch.equal(found[~hole], image[0, 0][~hole])
    blurred = LocalMean(2)(DenoiserForward(world), {SCAN: image}, level)[0][SCAN][0, 0]
    control = blurred[hole] - world.conditional_mean(image[0, 0], hole, sigma)
    assert float(control.abs().max()) > 30 * sigma  # control: a local mean must be far from what is expected


def test_several_evaluations_give_draws_whose_mean_is_the_expected_content():
    world, box, sigma = GaussianWorld(), Box((2, 1, 1), (4, 4, 3)), 1e-3
    level, image = {SCAN: torch.full((1, 1, 1, 1, 1), sigma, dtype=torch.float64)}, world.draw(seeded(1))
    hole = torch.zeros(SHAPE, dtype=torch.bool)
    hole[box.slices] = True
    draws = torch.stack(
        [
            Inpainted(division([box]), seeded(n), evaluations=8, start=4.0)(
                DenoiserForward(world), {SCAN: image}, level
            )[0][SCAN][0, 0][hole]
            for n in range(40)
        ]
    )
    expected = world.conditional_mean(image[0, 0], hole, sigma)
    assert float(draws.std(dim=0).mean()) > 10 * sigma  # they do differ
    z = (draws.mean(dim=0) - expected) / (draws.std(dim=0) / 40**0.5)
    assert float(z.abs().mean()) < 2  # 0.8 expected of 12 correlated voxels; few levels leave some bias


def test_inpainting_of_several_inputs_or_another_shape_is_refused():
    box = division([Box((0, 0, 0), (2, 2, 2))])
    two, levels = {"a": scan()[SCAN], "b": scan()[SCAN]}, {"a": LEVEL[SCAN], "b": LEVEL[SCAN]}
    with pytest.raises(MethodNotValid, match="use the blurred baseline"):
        Inpainted(box, seeded())(IDENTITY, two, levels)
    with pytest.raises(MethodNotValid, match="needs an image of the input's shape"):
        Inpainted(box, seeded())(DenoiserForward(lambda x, s: x[..., 1:]), scan(), LEVEL)


def test_a_large_scan_is_inpainted_on_crops_around_each_region():
    shape, seen = (40, 40, 40), []
    grid = Grid(shape, np.eye(4))

    def denoiser(x, sigma):
        seen.append(tuple(x.shape[2:]))
        return x

    boxes = [Box((0, 0, 0), (4, 4, 4)), Box((20, 20, 20), (24, 24, 24))]
    method = Inpainted(division(boxes, shape, grid), seeded(), evaluations=2, context=8)
    method(DenoiserForward(denoiser), scan(shape), LEVEL)
    assert seen == [(16, 16, 16)] * 2 + [(24, 24, 24)] * 2


# By name


def test_every_named_baseline_can_be_made_from_text():
    regions = division([Box((0, 0, 0), (2, 2, 2))])
    for name in ("noise_resampled", "inpainted", "blurred", "local_mean", "zero", "ray"):
        baseline = parse_baseline(name, generator=seeded(), supervoxels=regions)
        assert baseline.name == name
    assert parse_baseline("blurred:width=2.5", generator=seeded()) == Blurred(2.5)
    assert parse_baseline("local_mean:radius=3", generator=seeded()) == LocalMean(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [("none", "choose noise_resampled"), ("blurred:width=0", "positive"), ("blurred:size=2", "options are width"),
     ("inpainted", "needs supervoxels"), ("blurred:generator=1", "not an option")],
)  # fmt: skip
def test_a_wrong_baseline_is_refused_and_says_what_there_is(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_baseline(text, generator=seeded())
