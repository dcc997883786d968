"""Warps and fusers: linear, exact, and honest about where nothing was measured."""

import numpy as np
import pytest
import torch

from medinterp.errors import InputError
from medinterp.fusion.fusers import VarianceWeighted, fuse
from medinterp.fusion.warp import Warp
from medinterp.volume import Grid


def _grid(shape: tuple[int, int, int], spacing: float, angle: float = 0.0) -> Grid:
    affine = np.eye(4)
    c, s = np.cos(angle), np.sin(angle)
    affine[:3, :3] = spacing * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine[:3, 3] = (-10.0, 5.0, 2.0)
    return Grid(shape, affine)


def test_a_linear_ramp_is_carried_to_an_oblique_grid_exactly() -> None:
    source, target = _grid((20, 20, 12), 1.0), _grid((6, 5, 4), 1.3, angle=0.1)
    axes = np.stack(np.meshgrid(*(np.arange(n) for n in source.shape), indexing="ij"), -1)
    ramp = torch.from_numpy(source.to_world(axes) @ np.array([1.0, -2.0, 0.5]))[None, None]
    moved = Warp(source, target)(ramp)[0, 0]
    target_axes = np.stack(np.meshgrid(*(np.arange(n) for n in target.shape), indexing="ij"), -1)
    truth = torch.from_numpy(target.to_world(target_axes) @ np.array([1.0, -2.0, 0.5]))
    inside = Warp(source, target).coverage(ramp)[0, 0] > 0
    assert 0.2 < inside.double().mean() <= 1  # part of the target must lie inside, or nothing was tested
    # trilinear interpolation reproduces a linear function up to rounding (float64)
    assert torch.allclose(moved[inside], truth[inside], atol=1e-9)


def test_the_contributions_sum_to_the_fused_image_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    images = {m: torch.rand(1, 1, 6, 6, 6, generator=generator, dtype=torch.float64) + 0.5 for m in ("t1", "t2")}
    sigmas = {m: torch.full((1, 1, 1, 1, 1), s, dtype=torch.float64) for m, s in (("t1", 0.1), ("t2", 0.3))}
    coverage = {m: torch.ones(1, 1, 6, 6, 6, dtype=torch.float64) for m in images}
    fused = fuse(VarianceWeighted(), images, sigmas, coverage)
    parts = fused.contributions
    assert torch.equal(fused.image, parts["t1"] + parts["t2"])
    assert parts["t1"].mean() > parts["t2"].mean()  # the cleaner scan counts more


def test_identical_modalities_fuse_to_themselves_with_equal_shares() -> None:
    image = torch.rand(1, 1, 5, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.2
    images, sigma = {"a": image, "b": image}, torch.full((1, 1, 1, 1, 1), 0.1, dtype=torch.float64)
    coverage = {m: torch.ones_like(image) for m in images}
    fused = fuse(VarianceWeighted(), images, {"a": sigma, "b": sigma}, coverage)
    assert torch.equal(fused.contributions["a"], fused.contributions["b"])
    # the fused image is the image on the common scale: proportional to it, to rounding
    ratio = fused.image / image
    assert float(ratio.max() - ratio.min()) < 1e-12 * float(ratio.max())


def test_a_voxel_only_one_modality_covers_is_its_own_there() -> None:
    image = torch.rand(1, 1, 5, 5, 5, generator=torch.Generator().manual_seed(1)) + 0.2
    half = torch.ones_like(image)
    half[..., 3:] = 0
    images, sigma = {"a": image, "b": image * half}, torch.full((1, 1, 1, 1, 1), 0.1)
    coverage = {"a": torch.ones_like(image), "b": half}
    parts = fuse(VarianceWeighted(), images, {"a": sigma, "b": sigma}, coverage).contributions
    assert float(parts["b"][..., 3:].abs().max()) == 0
    assert float(parts["a"][..., 3:].min()) > 0


def test_an_empty_modality_is_refused() -> None:
    image, sigma = torch.zeros(1, 1, 4, 4, 4), torch.ones(1, 1, 1, 1, 1)
    with pytest.raises(InputError, match="no voxel above zero"):
        fuse(VarianceWeighted(), {"t1": image}, {"t1": sigma}, {"t1": torch.ones_like(image)})
