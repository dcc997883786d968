"""Concept scores: the closed form on a linear block, found where planted, and not found where there is nothing."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from medinterp.attribution import ConceptProbe, Lattice, RegionMean, WeightedSum, probe_concepts
from medinterp.errors import ConfigError, EmptyRegion, MethodNotValid
from medinterp.testing.attribution_oracles import SCAN, DenoiserForward, smooth_noise

SHAPE = (16, 16, 16)
SIGMAS = {SCAN: torch.full((1, 1, 1, 1, 1), 0.7, dtype=torch.float64)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Features(nn.Module):
    """Three features of a scan: itself, its square, and a pattern that has nothing to do with it."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def forward(self, x):
        return torch.cat([x, x.square(), self.noise + 0 * x], dim=1)


class Read(nn.Module):
    """A network whose image weighs the features."""

    def __init__(self, weights, seed=0):
        super().__init__()
        self.features = Features(smooth_noise((1, 1, *SHAPE), 1.0, seeded(seed)))
        self.weights = torch.tensor(weights, dtype=torch.float64).reshape(1, 3, 1, 1, 1)

    def forward(self, x):
        return (self.weights * self.features(x)).sum(dim=1, keepdim=True)


def bright_cube():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[5:11, 5:11, 5:11] = True
    scan = smooth_noise((1, 1, *SHAPE), 0.7, seeded(1)) * 0.3
    scan[0, 0][mask] += 4.0
    return {SCAN: scan}, mask


def probe(weights, block="features", target=None):
    scans, _ = bright_cube()
    network = Read(weights)
    target = WeightedSum(torch.ones(SHAPE, dtype=torch.float64) / 16**3, "mean") if target is None else target
    return probe_concepts(DenoiserForward(lambda x, sigma: network(x)), scans, SIGMAS, target, block=block)


def test_the_sensitivity_of_a_linear_block_is_the_difference_of_the_means():
    scans, mask = bright_cube()
    found = probe([2.0, 0.0, 0.0]).score(mask, "bright", generator=seeded(), permutations=99)
    x = scans[SCAN][0, 0]
    assert found.sensitivity == pytest.approx(2.0 * float(x[mask].mean() - x[~mask].mean()), rel=1e-9)
    assert found.positive_share == 1.0
    assert found.inside == int(mask.sum())


def test_a_planted_concept_is_found_and_a_feature_that_is_not_used_must_not_be():
    _, mask = bright_cube()
    used = probe([1.0, 0.5, 0.0]).score(mask, "bright", generator=seeded(), permutations=99)
    assert used.separability > 0.95
    assert used.p_separability <= 0.01
    assert used.p_sensitivity <= 0.01
    assert used.found
    unused = probe([0.0, 0.0, 0.0001]).score(mask, "bright", generator=seeded(), permutations=99)
    assert abs(unused.sensitivity) < 1e-3
    assert not unused.found


def test_the_sign_says_whether_the_concept_raises_the_measurement():
    _, mask = bright_cube()
    assert probe([-1.0, 0.0, 0.0]).score(mask, "bright", generator=seeded(), permutations=99).positive_share == 0.0


def test_random_masks_are_significant_about_as_often_as_chance():
    """A null that shuffled single voxels would find nearly each of these smooth masks significant."""
    features = probe([0.0, 0.0, 1.0])
    values = [smooth_noise((1, 1, *SHAPE), 1.5, seeded(100 + n))[0, 0] for n in range(12)]
    scores = [features.score(v > 0.8, "chance", generator=seeded(n), permutations=19) for n, v in enumerate(values)]
    assert sum(s.p_sensitivity <= 0.05 for s in scores) <= 3  # 12 draws at 5 %: more than 3 in 0.2 % of runs
    assert sum(s.found for s in scores) <= 2


def test_a_mask_is_read_on_a_coarser_block():
    scans, mask = bright_cube()
    pool = nn.Sequential(nn.AvgPool3d(2), nn.Upsample(scale_factor=2)).double()
    forward = DenoiserForward(lambda x, sigma: pool(x))
    target = RegionMean(mask, "cube")
    found = probe_concepts(forward, scans, SIGMAS, target, block="0").score(
        mask, "bright", generator=seeded(), permutations=99
    )
    assert found.inside == 8 + 24  # cells that the cube covers whole, and those it covers half
    assert found.sensitivity > 0


@pytest.mark.parametrize("voxels", [0, 3])
def test_too_small_a_concept_is_refused(voxels):
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask.view(-1)[:voxels] = True
    with pytest.raises(EmptyRegion, match="at least 8"):
        probe([1.0, 0.0, 0.0]).score(mask, "dot", generator=seeded())


def test_wrong_questions_are_refused():
    _, mask = bright_cube()
    with pytest.raises(ConfigError, match="permutations"):
        probe([1.0, 0.0, 0.0]).score(mask, "bright", generator=seeded(), permutations=0)
    with pytest.raises(ConfigError, match="no block"):
        probe([1.0, 0.0, 0.0], block="missing")
    with pytest.raises(MethodNotValid, match="does not depend"):
        probe([0.0, 0.0, 0.0])


def test_the_sensitivity_map_sums_to_the_sensitivity_and_the_shown_map_runs_from_zero_to_one():
    _, mask = bright_cube()
    asked = probe([1.0, 0.5, 0.2])
    shown, moved = asked.maps(mask)
    found = asked.score(mask, "bright", generator=seeded(), permutations=1)
    assert float(moved.values.sum()) == pytest.approx(found.sensitivity, rel=1e-9)
    assert float(shown.values[0, 0][mask].mean()) == pytest.approx(1.0, abs=1e-9)
    assert float(shown.values[0, 0][~mask].mean()) == pytest.approx(0.0, abs=1e-9)


def test_slopes_of_a_part_lie_in_their_place_among_the_features_of_the_whole():
    whole = probe([1.0, 0.5, 0.2])
    cut = (slice(None), slice(None), slice(4, 12), slice(2, 12), slice(0, 12))
    offset = tuple(Fraction(n) for n in (4, 2, 0))
    part = ConceptProbe(
        replace(whole.features, values=whole.features.values[cut], lattice=Lattice(offset=offset)), whole.slopes[cut]
    )
    among = part.among(whole.features)
    assert torch.equal(among.slopes[cut], whole.slopes[cut])
    assert float(among.slopes.abs().sum()) == pytest.approx(float(whole.slopes[cut].abs().sum()))
    half = replace(part.features, lattice=Lattice(offset=(Fraction(1, 2), *offset[1:])))
    with pytest.raises(MethodNotValid, match="other places"):
        ConceptProbe(half, part.slopes).among(whole.features)
