"""The screened Poisson equation on a box: the image whose gradients are nearest to those asked for, solved by DCT."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

Spacing = tuple[float, float, float]
Gradient = tuple[Tensor, Tensor, Tensor]


def forward_gradient(image: Float[Tensor, "B C I J K"], spacing_mm: Spacing) -> Gradient:
    """Return the differences to the next voxel along I, J and K, per mm; zero at the last voxel of each axis."""
    i, j, k = (_difference(image, axis) / mm for axis, mm in zip((2, 3, 4), spacing_mm, strict=True))
    return i, j, k


def divergence_adjoint(field: Gradient, spacing_mm: Spacing) -> Float[Tensor, "B C I J K"]:
    """Return the transpose of ``forward_gradient`` applied to a field (minus its divergence)."""
    parts = [_difference_adjoint(v, axis) / mm for v, axis, mm in zip(field, (2, 3, 4), spacing_mm, strict=True)]
    return torch.stack(parts).sum(dim=0)


def solve_screened(
    field: Gradient, base: Float[Tensor, "B C I J K"], *, spacing_mm: Spacing, length_mm: float
) -> Float[Tensor, "B C I J K"]:
    """Return the image F that minimises ``sum |grad F - field|² + |F - base|² / length_mm²``.

    Linear in field and base, differentiable, and exact: borders reflect (Neumann), so that the discrete cosine
    transform diagonalises the equation. Where ``field`` is the gradient of ``base``, F is ``base``. Structures much
    finer than ``length_mm`` follow the field, much coarser ones the base.

    Source:
        Bhat et al., "Fourier analysis of the 2D screened Poisson equation for gradient domain problems", ECCV 2008.
    """
    screening = 1.0 / length_mm**2
    right = screening * base + divergence_adjoint(field, spacing_mm)
    transforms = [_cosines(n, base) for n in base.shape[2:]]
    spectrum = right
    for axis, cosines in zip((2, 3, 4), transforms, strict=True):
        spectrum = _along(cosines, spectrum, axis)
    spectrum = spectrum / (screening + _eigenvalues(base, spacing_mm))
    for axis, cosines in zip((2, 3, 4), transforms, strict=True):
        spectrum = _along(cosines.T, spectrum, axis)
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


def _along(matrix: Tensor, image: Tensor, axis: int) -> Tensor:
    return torch.movedim(torch.tensordot(matrix, image, dims=([1], [axis])), 0, axis)


def _eigenvalues(like: Tensor, spacing_mm: Spacing) -> Tensor:
    """Return those of the Laplacian for each cosine."""
    total = torch.zeros(1, dtype=torch.float64)
    for axis, mm in zip((2, 3, 4), spacing_mm, strict=True):
        n = like.shape[axis]
        own = (2 - 2 * torch.cos(math.pi / n * torch.arange(n, dtype=torch.float64))) / mm**2
        total = total + own.reshape([-1 if a == axis else 1 for a in range(5)])
    return total.to(like)
