"""Components of features: the true principal components, parts that were planted, and honest stability."""

import numpy as np
import pytest
import torch

from medinterp.attribution import BlockMap, Lattice, non_negative_parts, principal_components
from medinterp.errors import ConfigError, InputError

SHAPE = (9, 8, 7)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def features(values):
    return BlockMap(values, Lattice(), True, "block", 0)


def planted(strengths, channels=24, noise=0.0, seed=0):
    """Features made of orthogonal maps and orthogonal patterns of known strength."""
    count = len(strengths)
    maps, _ = torch.linalg.qr(torch.randn((504, count + 1), generator=seeded(seed), dtype=torch.float64))
    maps = torch.linalg.qr(torch.cat([torch.ones(504, 1, dtype=torch.float64), maps], dim=1))[0][:, 1 : count + 1]
    patterns, _ = torch.linalg.qr(torch.randn((channels, count), generator=seeded(seed + 1), dtype=torch.float64))
    matrix = (maps * torch.tensor(strengths, dtype=torch.float64)) @ patterns.T + 5.0
    matrix = matrix + noise * torch.randn(matrix.shape, generator=seeded(seed + 2), dtype=torch.float64)
    return features(matrix.T.reshape(1, channels, *SHAPE)), maps, patterns


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return abs(float((a * b).sum() / (a.norm() * b.norm())))


def test_planted_components_are_found_with_their_strength():
    block, maps, patterns = planted((8.0, 4.0, 2.0))
    found = principal_components(block, 3, generator=seeded())
    energy = 64 + 16 + 4
    assert found.explained == pytest.approx([64 / energy, 16 / energy, 4 / energy], rel=1e-9)
    assert found.total_explained == pytest.approx(1.0)
    for n in range(3):
        assert correlation(found.maps.values[0, n].flatten(), maps[:, n]) >= 1 - 1e-9
        assert abs(float(patterns[:, n] @ torch.from_numpy(found.patterns[n]))) >= 1 - 1e-9
    assert min(found.stability) >= 1 - 1e-9


def test_truncated_components_are_those_of_the_full_decomposition():
    block, _, _ = planted((8.0, 4.0, 2.0), noise=0.05)
    found = principal_components(block, 3, generator=seeded())
    matrix = block.values[0].flatten(1).T
    full = torch.linalg.svdvals(matrix - matrix.mean(dim=0))
    assert found.explained == pytest.approx((full[:3] ** 2 / (full**2).sum()).tolist(), rel=1e-5)


def test_components_of_equal_strength_must_be_called_unstable():
    white = features(torch.randn((1, 64, *SHAPE), generator=seeded(3), dtype=torch.float64))
    found = principal_components(white, 4, generator=seeded(), rounds=1)
    assert min(found.stability) < 0.9


def test_the_sign_does_not_depend_on_the_draw():
    block, _, _ = planted((8.0, 4.0))
    first, second = (principal_components(block, 2, generator=seeded(n)) for n in (1, 2))
    assert torch.allclose(first.maps.values, second.maps.values, atol=1e-9)


def test_the_maps_lie_where_the_features_do():
    block, _, _ = planted((8.0, 4.0))
    found = principal_components(block, 2, generator=seeded())
    assert found.maps.lattice == block.lattice
    assert found.maps.values.shape == (1, 2, *SHAPE)


def parts(overlap=0.0):
    """Two blobs, each with its own channels."""
    values = torch.zeros(1, 6, *SHAPE, dtype=torch.float64)
    values[0, :3, 1:4, 1:4, 1:4] = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)[:, None, None, None]
    values[0, 3:, 5:8, 4:7, 2:6] = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)[:, None, None, None]
    return features(values + overlap)


def test_planted_parts_are_found_and_stable():
    found = non_negative_parts(parts(), 2)
    assert found.total_explained >= 0.999
    assert min(found.stability) >= 0.99
    strongest = found.maps.values[0, 0]
    assert float(strongest[5:8, 4:7, 2:6].mean()) > 20 * float(strongest[1:4, 1:4, 1:4].mean())
    assert np.allclose(np.linalg.norm(found.patterns, axis=1), 1)
    assert found.patterns.min() >= 0


def test_parts_of_structureless_features_must_be_called_unstable():
    noise = features(torch.rand((1, 12, *SHAPE), generator=seeded(5), dtype=torch.float64))
    assert min(non_negative_parts(noise, 4).stability) < 0.9


def test_signed_features_have_no_non_negative_parts():
    signed = features(torch.randn((1, 6, *SHAPE), generator=seeded(), dtype=torch.float64))
    with pytest.raises(InputError, match="principal_components"):
        non_negative_parts(signed, 2)


@pytest.mark.parametrize("count", [0, 7])
def test_more_components_than_channels_are_refused(count):
    with pytest.raises(ConfigError, match="1 to 6"):
        principal_components(parts(), count, generator=seeded())
    with pytest.raises(ConfigError, match="1 to 6"):
        non_negative_parts(parts(), count)


def test_constant_features_have_no_components():
    with pytest.raises(InputError, match="same at every voxel"):
        principal_components(features(torch.ones(1, 6, *SHAPE)), 1, generator=seeded())
