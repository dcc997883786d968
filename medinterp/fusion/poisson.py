"""The screened Poisson equation on a box: the image whose gradients are nearest to those asked for."""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.fusion.fusers import Spacing

Gradient: TypeAlias = tuple[Tensor, Tensor, Tensor]


def forward_gradient(image: Float[Tensor, "B C I J K"], spacing_mm: Spacing) -> Gradient:
    """Return the differences to the next voxel along I, J and K, per mm; zero at the last voxel of each axis."""
    i, j, k = (_difference(image, axis) / mm for axis, mm in zip((2, 3, 4), spacing_mm, strict=True))
    return i, j, k


def solve_screened(
    field: Gradient,
    base: Float[Tensor, "B C I J K"],
    stiffness: Gradient,
    *,
    spacing_mm: Spacing,
    length_mm: float,
    stiffest: float,
    iterations: int,
) -> Float[Tensor, "B C I J K"]:
    """Return the image F near the one that minimises ``sum a |grad F - field|² + s |F - base|² / length_mm²``.

    The stiffness ``a`` of each difference says where the field has to be met and where it may be missed; ``s`` is the
    least stiffness of a voxel's three differences. Found from ``base`` by Chebyshev's semi-iteration, preconditioned
    by the equation of stiffness 1, which cosines solve exactly: a fixed number of linear steps, so F is linear in
    field and base whatever the number, differentiable, and ``base`` itself where the field is its gradient. What is
    left of the way after n steps is at most ``2 ((q - 1) / (q + 1))^n`` of it with ``q² = stiffest``. Borders reflect.

    Args:
        field: gradient asked for, per mm.
        base: what F follows far from edges.
        stiffness: 1 to ``stiffest``, of the difference to the next voxel along each axis; a constant.
        spacing_mm: of the grid.
        length_mm: finer structures than this follow the field, coarser ones the base.
        stiffest: the largest stiffness, above 1.
        iterations: steps, each the cost of one exact solution.

    Source:
        Bhat et al., "Fourier analysis of the 2D screened Poisson equation for gradient domain problems", ECCV 2008;
        Golub & Varga, "Chebyshev semi-iterative methods", Numerische Mathematik 3 (1961).
    """
    how = _Settings(spacing_mm, length_mm, stiffest, iterations)
    solved: Tensor = _Solved.apply(*field, base, stiffness, how)  # type: ignore[no-untyped-call]
    return solved


@dataclass(frozen=True)
class _Settings:
    spacing_mm: Spacing
    length_mm: float
    stiffest: float
    iterations: int


class _Solved(torch.autograd.Function):
    """Base plus the steps' answer to what it lacks; the steps are a symmetric matrix, so they are their own transpose.

    By hand because a scan's worth of graph nodes for every step would hold gigabytes.
    """

    @staticmethod
    def forward(ctx: Any, i: Tensor, j: Tensor, k: Tensor, base: Tensor, stiffness: Gradient, how: _Settings) -> Tensor:
        ctx.stiffness, ctx.how = stiffness, how
        lacking = torch.zeros_like(base)
        for axis, (wanted, stiff) in enumerate(zip((i, j, k), stiffness, strict=True)):
            _add_stiff(lacking, wanted.narrow(axis + 2, 0, base.shape[axis + 2] - 1), stiff, axis, how)
        return base + _steps(lacking - _stiff_laplacian(base, stiffness, how), stiffness, how)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        stiffness, how, (wanted,) = ctx.stiffness, ctx.how, gradients
        steps = _steps(wanted, stiffness, how)
        slopes = forward_gradient(steps, how.spacing_mm)
        fields = [stiff * slope for stiff, slope in zip(stiffness, slopes, strict=True)]
        return *fields, wanted - _stiff_laplacian(steps, stiffness, how), None, None


def _steps(lacking: Tensor, stiffness: Gradient, how: _Settings) -> Tensor:
    """Return what Chebyshev's steps answer to a right side; ``lacking`` is used up."""
    screening = torch.minimum(torch.minimum(stiffness[0], stiffness[1]), stiffness[2]) / how.length_mm**2
    centre, half = (how.stiffest + 1) / 2, (how.stiffest - 1) / 2
    step = _divided(lacking, how) / centre
    found, lacking, ratio = step.clone(), lacking.clone(), half / centre
    for _ in range(how.iterations - 1):
        lacking -= _stiff_laplacian(step, stiffness, how).addcmul_(screening, step)
        following = 1 / (2 * centre / half - ratio)
        step.mul_(following * ratio).add_(_divided(lacking, how), alpha=2 * following / half)
        found += step
        ratio = following
    return found


def _stiff_laplacian(image: Tensor, stiffness: Gradient, how: _Settings) -> Tensor:
    """Return minus the divergence of the stiffness times the gradient."""
    total = torch.zeros_like(image)
    for axis, stiff in enumerate(stiffness):
        _add_stiff(total, image.diff(dim=axis + 2).div_(how.spacing_mm[axis]), stiff, axis, how)
    return total


def _add_stiff(total: Tensor, slope: Tensor, stiff: Tensor, axis: int, how: _Settings) -> None:
    """Add the transpose of one axis' differences applied to stiffness times a slope, which has one layer less."""
    last = total.shape[axis + 2] - 1
    flow = slope * stiff.narrow(axis + 2, 0, last) / how.spacing_mm[axis]
    total.narrow(axis + 2, 1, last).add_(flow)
    total.narrow(axis + 2, 0, last).sub_(flow)


def _divided(right: Tensor, how: _Settings) -> Tensor:
    """Return the solution of the equation of stiffness 1 for a right side."""
    transforms = [_cosines(n, right) for n in right.shape[2:]]
    spectrum = right
    for axis, cosines in zip((2, 3, 4), transforms, strict=True):
        spectrum = along_axis(cosines, spectrum, axis)
    spectrum = spectrum / (1.0 / how.length_mm**2 + _eigenvalues(right, how.spacing_mm))
    for axis, cosines in zip((2, 3, 4), transforms, strict=True):
        spectrum = along_axis(cosines.T, spectrum, axis)
    return spectrum


def _difference(image: Tensor, axis: int) -> Tensor:
    last = image.shape[axis] - 1
    step = image.narrow(axis, 1, last) - image.narrow(axis, 0, last)
    return torch.cat([step, torch.zeros_like(image.narrow(axis, 0, 1))], dim=axis)


def _cosines(n: int, like: Tensor) -> Tensor:
    """Return the orthonormal DCT-II as a matrix: for the lengths of scans a product with it is fast and exact."""
    place = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * place[:, None] * (place + 0.5)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)


def along_axis(matrix: Float[Tensor, "m n"], image: Tensor, axis: int) -> Tensor:
    """Return a matrix applied to every line of an image along one axis."""
    return torch.movedim(torch.tensordot(matrix, image, dims=([1], [axis])), 0, axis)


def _eigenvalues(like: Tensor, spacing_mm: Spacing) -> Tensor:
    """Return those of the Laplacian for each cosine."""
    total = torch.zeros(1, dtype=torch.float64)
    for axis, mm in zip((2, 3, 4), spacing_mm, strict=True):
        n = like.shape[axis]
        own = (2 - 2 * torch.cos(math.pi / n * torch.arange(n, dtype=torch.float64))) / mm**2
        total = total + own.reshape([-1 if a == axis else 1 for a in range(5)])
    return total.to(like)
