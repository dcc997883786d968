"""Warps and fusers: linear, exact, and honest about where nothing was measured."""

import numpy as np
import pytest
import torch

from medinterp.errors import InputError
from medinterp.fusion.fusers import VarianceWeighted, fuse
from medinterp.fusion.gradient_domain import GradientDomain, leading_direction, smooth
from medinterp.fusion.poisson import forward_gradient, solve_screened
from medinterp.fusion.warp import Warp
from medinterp.testing.fusion_oracles import beyond_range, edge_recall, invented_steps, two_boxes
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


def _private_edges() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    images = two_boxes(32)
    sigmas = {m: torch.full((1, 1, 1, 1, 1), 0.02, dtype=torch.float64) for m in images}
    return images, sigmas, {m: torch.ones_like(image) for m, image in images.items()}


def test_the_gradient_fuser_keeps_the_edges_that_only_one_modality_has_without_ringing() -> None:
    images, sigmas, coverage = _private_edges()
    scaled = {m: image / 0.9 for m, image in images.items()}  # 0.9 is the bright level of both
    fused = fuse(GradientDomain(), images, sigmas, coverage).image
    assert min(edge_recall(fused, image) for image in scaled.values()) >= 0.9
    assert invented_steps(fused, scaled) <= 0.02
    assert beyond_range(fused, scaled) <= 1e-12  # cut, up to rounding
    # control: the average halves every private edge, and a copy loses the other's
    average = fuse(VarianceWeighted(), images, sigmas, coverage).image
    assert min(edge_recall(average, image, share=0.6) for image in scaled.values()) < 0.1
    assert edge_recall(scaled["a"], scaled["b"]) < 0.1


def test_an_image_kept_within_range_is_still_a_sum_of_linear_contributions() -> None:
    generator = torch.Generator().manual_seed(5)
    noise = {m: torch.randn(1, 1, 24, 24, 24, generator=generator, dtype=torch.float64) for m in "ab"}
    patches = {m: (smooth(x, 2.0, (1.0, 1.0, 1.0)) > 0).double() for m, x in noise.items()}  # edges of both signs meet
    images = {m: 0.4 + 0.5 * patch for m, patch in patches.items()}
    sigmas = {m: torch.full((1, 1, 1, 1, 1), 0.02, dtype=torch.float64) for m in images}
    coverage = {m: torch.ones_like(image) for m, image in images.items()}
    coverage["b"][..., :4] = 0
    images["b"] = images["b"] * coverage["b"]
    leaves = {m: image.clone().requires_grad_() for m, image in images.items()}
    free = fuse(GradientDomain(), images, sigmas, coverage).image
    kept = fuse(GradientDomain(within_range=True), leaves, sigmas, coverage)
    scaled = {m: image / kept.scales[m].level for m, image in images.items()}
    high = torch.maximum(scaled["a"], scaled["b"])
    low = torch.where(coverage["b"] > 0, torch.minimum(scaled["a"], scaled["b"]), scaled["a"])
    assert bool(((kept.image >= low) & (kept.image <= high)).all())
    assert min(float((low - free).max()), float((free - high).max())) > 0.01  # control: there is something to cut
    rows = torch.autograd.grad(kept.image.sum(), list(leaves.values()))
    accounted = sum(float((row * x).sum()) for row, x in zip(rows, images.values(), strict=True))
    # float64: linear for frozen weights and a frozen cut, nothing is left over
    assert accounted == pytest.approx(float(kept.image.sum().detach()), rel=1e-8)


def test_the_noisier_modality_leads_only_where_it_has_contrast() -> None:
    images, sigmas, coverage = _private_edges()
    sigmas["b"] = sigmas["b"] * 10
    fused = fuse(GradientDomain(), images, sigmas, coverage)
    edge = (forward_gradient(images["b"], (1.0, 1.0, 1.0))[0].abs() > 0.1)[0, 0]
    assert float(fused.weights["b"][0, 0][edge].mean()) > 0.9
    assert float(fused.weights["b"][0, 0][~edge].mean()) < 0.6


def _solved(field, base, spacing, stiffness=None, iterations: int = 6):
    stiff = (torch.ones_like(base),) * 3 if stiffness is None else stiffness
    return solve_screened(field, base, stiff, spacing_mm=spacing, length_mm=5.0, stiffest=20.0, iterations=iterations)


def test_the_screened_poisson_equation_returns_the_image_whose_gradient_and_base_it_is_given() -> None:
    image = torch.rand(1, 1, 7, 9, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    spacing = (1.0, 2.0, 0.7)
    found = _solved(forward_gradient(image, spacing), image, spacing)
    assert torch.allclose(found, image, atol=1e-12)
    # control: by another spacing the gradient is another
    other = _solved(forward_gradient(image, (1.0, 1.0, 1.0)), image, spacing)
    assert not torch.allclose(other, image, atol=1e-2)


def test_the_solver_closes_in_on_the_dense_solution_at_the_rate_it_states() -> None:
    generator = torch.Generator().manual_seed(4)
    shape, spacing = (1, 1, 5, 6, 4), (1.0, 1.5, 0.8)
    field = tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    stiff = tuple(1 + 19 * torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    base = torch.rand(shape, generator=generator, dtype=torch.float64)
    voxels = base.numel()
    rows = [forward_gradient(unit.reshape(shape), spacing) for unit in torch.eye(voxels, dtype=torch.float64)]
    slope = torch.stack([torch.stack(row).reshape(-1) for row in rows], dim=1)  # of 3 differences a voxel
    weight, screening = torch.stack(stiff).reshape(-1), torch.stack(stiff).amin(dim=0).reshape(-1) / 25.0
    matrix = slope.T @ (weight[:, None] * slope) + torch.diag(screening)
    exact = torch.linalg.solve(
        matrix, slope.T @ (weight * torch.stack(field).reshape(-1)) + screening * base.reshape(-1)
    )
    norm = torch.linalg.cholesky(slope.T @ slope + torch.eye(voxels, dtype=torch.float64) / 25.0).T

    def missed(iterations: int) -> float:
        lacking = _solved(field, base, spacing, stiff, iterations).reshape(-1) - exact
        return float((norm @ lacking).norm() / (norm @ (base.reshape(-1) - exact)).norm())

    q = 20**0.5
    for iterations in (2, 6, 20):
        assert missed(iterations) <= 2 * ((q - 1) / (q + 1)) ** iterations
    assert missed(2) > 0.1  # control: there is something to close in on


def test_smoothing_keeps_constants_and_matches_scipy() -> None:
    from scipy import ndimage

    image = torch.rand(1, 1, 12, 9, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.allclose(smooth(torch.ones_like(image), 3.0, (1.0, 2.0, 1.5)), torch.ones_like(image), atol=1e-12)
    expected = ndimage.gaussian_filter(image[0, 0].numpy(), 2.0, mode="nearest", truncate=3.0)
    assert np.allclose(smooth(image, 2.0, (1.0, 1.0, 1.0))[0, 0].numpy(), expected, atol=1e-12)


def test_the_leading_direction_is_the_first_eigenvector() -> None:
    factors = torch.randn(3, 3, 4, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    matrices = torch.einsum("ab...,cb...->...ac", factors, factors)
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    found = leading_direction(torch.stack([matrices[..., a, b] for a, b in pairs]))
    values, vectors = torch.linalg.eigh(matrices)
    apart = values[..., 2] > 1.5 * values[..., 1]  # elsewhere 32 powers do not part them
    aligned = (found.movedim(0, -1) * vectors[..., 2]).sum(-1).abs()
    assert float(aligned[apart].min()) > 1 - 1e-6
