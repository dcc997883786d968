"""The screened Poisson equation on a box: the image whose gradients are nearest to those asked for."""

import math
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.fusion.fusers import Spacing

Gradient: TypeAlias = tuple[Tensor, Tensor, Tensor]


def forward_gradient(image: Float[Tensor, "B C I J K"], spacing_mm: Spacing) -> Gradient:
    """Return the differences to the next voxel along I, J and K, per mm; zero at the last voxel of each axis."""
    i, j, k = (_difference(image, axis) / mm for axis, mm in zip((2, 3, 4), spacing_mm, strict=True))
    return i, j, k


def divergence_adjoint(field: Gradient, spacing_mm: Spacing) -> Float[Tensor, "B C I J K"]:
    """Return the transpose of ``forward_gradient`` applied to a field (minus its divergence)."""
    parts = [_difference_adjoint(v, axis) / mm for v, axis, mm in zip(field, (2, 3, 4), spacing_mm, strict=True)]
    return torch.stack(parts).sum(dim=0)


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
    screening = torch.stack(stiffness).amin(dim=0) / length_mm**2

    def apply(image: Tensor) -> Tensor:
        slope = forward_gradient(image, spacing_mm)
        stiff = _weighted(stiffness, slope)
        return divergence_adjoint(stiff, spacing_mm) + screening * image

    def precondition(image: Tensor) -> Tensor:
        return _divided(image, spacing_mm, length_mm)

    centre, half = (stiffest + 1) / 2, (stiffest - 1) / 2
    wanted, had = _weighted(stiffness, field), _weighted(stiffness, forward_gradient(base, spacing_mm))
    lacking = divergence_adjoint((wanted[0] - had[0], wanted[1] - had[1], wanted[2] - had[2]), spacing_mm)
    found, step, ratio = base, precondition(lacking) / centre, half / centre
    for _ in range(iterations - 1):
        found, lacking = found + step, lacking - apply(step)
        following = 1 / (2 * centre / half - ratio)
        step = following * ratio * step + 2 * following / half * precondition(lacking)
        ratio = following
    return found + step


def _weighted(stiffness: Gradient, slope: Gradient) -> Gradient:
    i, j, k = (weight * part for weight, part in zip(stiffness, slope, strict=True))
    return i, j, k


def _divided(right: Tensor, spacing_mm: Spacing, length_mm: float) -> Tensor:
    """Return the solution of the screened Poisson equation for a right side."""
    transforms = [_cosines(n, right) for n in right.shape[2:]]
    spectrum = right
    for axis, cosines in zip((2, 3, 4), transforms, strict=True):
        spectrum = along_axis(cosines, spectrum, axis)
    spectrum = spectrum / (1.0 / length_mm**2 + _eigenvalues(right, spacing_mm))
    for axis, cosines in zip((2, 3, 4), transforms, strict=True):
        spectrum = along_axis(cosines.T, spectrum, axis)
    return spectrum


def _difference(image: Tensor, axis: int) -> Tensor:
    last = image.shape[axis] - 1
    step = image.narrow(axis, 1, last) - image.narrow(axis, 0, last)
    return torch.cat([step, torch.zeros_like(image.narrow(axis, 0, 1))], dim=axis)


def _difference_adjoint(field: Tensor, axis: int) -> Tensor:
    last = field.shape[axis] - 1
    kept, zero = field.narrow(axis, 0, last), torch.zeros_like(field.narrow(axis, 0, 1))
    return torch.cat([zero, kept], dim=axis) - torch.cat([kept, zero], dim=axis)


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
