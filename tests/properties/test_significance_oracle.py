"""Oracle 14: no effect is found in a map of noise more often than stated, and a planted one is found."""

import pytest
import torch

from medinterp.assessment.significance import sign_flip_test
from medinterp.errors import ConfigError

SHAPE = (10, 10, 10)
RUNS = 200


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def noise(repeats, seed):
    return torch.randn((repeats, *SHAPE), generator=seeded(seed), dtype=torch.float64)


def test_of_maps_without_effect_one_in_twenty_shows_anything():
    familywise = discovery = 0
    for run in range(RUNS):
        found = sign_flip_test(noise(12, run), generator=seeded(run), flips=100)
        familywise += bool(found.familywise.any())
        discovery += bool(found.false_discovery.any())
    assert 0.01 <= familywise / RUNS <= 0.085  # 5 %: standard error 1.5 %
    assert discovery / RUNS <= 0.085


def test_a_threshold_voxel_by_voxel_must_find_something_in_every_map_of_noise():
    t = sign_flip_test(noise(12, 0), generator=seeded(0), flips=100).t
    assert int((t.abs() > 2.2).sum()) > 20  # 5 % of 1000 voxels


def test_a_planted_effect_is_found_and_little_else():
    hits, false, found_voxels, strict = 0, 0, 0, 0
    for run in range(20):
        maps = noise(30, 1000 + run)
        maps[:, 4:7, 4:7, 4:7] += 1.5
        found = sign_flip_test(maps, generator=seeded(run), flips=100)
        inside = torch.zeros(SHAPE, dtype=torch.bool)
        inside[4:7, 4:7, 4:7] = True
        hits += int((found.false_discovery & inside).sum())
        false += int((found.false_discovery & ~inside).sum())
        found_voxels += int(found.false_discovery.sum())
        strict += int((found.familywise & inside).sum())
    assert hits / (20 * 27) > 0.95
    assert strict / (20 * 27) > 0.95
    assert false / found_voxels <= 0.08
    assert found.numbers().median_effect == pytest.approx(1.5, abs=0.3)


def test_the_effect_size_does_not_grow_with_the_number_of_repeats_but_t_does():
    few = sign_flip_test(noise(10, 1) + 0.5, generator=seeded(0), flips=20)
    many = sign_flip_test(noise(160, 1) + 0.5, generator=seeded(0), flips=20)
    assert float(many.effect.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(many.t.mean() / few.t.mean()) == pytest.approx(4, abs=0.7)


def test_maps_that_are_zero_or_the_same_in_every_repeat_give_finite_numbers():
    maps = torch.zeros(8, 4, 4, 4)
    maps[:, 0, 0, 0] = 1.0
    found = sign_flip_test(maps, generator=seeded(0), flips=40)
    assert bool(torch.isfinite(found.t).all())
    assert found.t[1, 1, 1] == 0


def test_too_few_maps_or_flips_are_refused():
    with pytest.raises(ConfigError, match="at least 6 maps"):
        sign_flip_test(noise(5, 0), generator=seeded(0))
    with pytest.raises(ConfigError, match="with 10 flips"):
        sign_flip_test(noise(8, 0), generator=seeded(0), flips=10)
