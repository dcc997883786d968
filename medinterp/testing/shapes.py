"""Smooth random functions of place and signed distances to simple shapes, from which the synthetic head is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Numbers = Sequence[float | int]


def single(values: Numbers) -> Field:
    """Return the values in single precision, so that what they meet stays so."""
    return np.asarray(values, dtype=np.float32)


def total(rows: Field) -> Field:
    """Return the sum of each row (N, few)."""
    return rows @ np.ones(rows.shape[1], dtype=np.float32)  # several times faster than a sum over a short axis


def length(rows: Field) -> Field:
    """Return the Euclidean length of each row (N, 3)."""
    return np.sqrt(total(rows * rows))


@dataclass(frozen=True)
class Sphere:
    """A sphere whose place and size are part of the known truth."""

    centre_mm: tuple[float, float, float]
    radius_mm: float

    def distance(self, points: Field) -> Field:
        """Return the signed distance in mm, negative inside."""
        return length(points - single(self.centre_mm)) - np.float32(self.radius_mm)


@dataclass(frozen=True, eq=False)
class Waves:
    """A smooth random function of place: a sum of plane waves of one wavelength band, unit variance."""

    vectors: Field
    phases: Field

    def __call__(self, points: Field) -> Field:
        """Return the function at points (N, 3)."""
        return np.float32(np.sqrt(2 / len(self.phases))) * total(np.sin(points @ self.vectors.T + self.phases))


@lru_cache(maxsize=64)
def waves(seed: int, wavelength_mm: float, count: int, *, spread: float = 0.25) -> Waves:
    """Draw the waves of ``seed``: directions even over the sphere, wavelengths within ``spread`` of the given one."""
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((count, 3))
    lengths = wavelength_mm * (1 + spread * generator.uniform(-1, 1, (count, 1)))
    vectors *= 2 * np.pi / lengths / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Waves(vectors.astype(np.float32), generator.uniform(0, 2 * np.pi, count).astype(np.float32))


def ellipsoid(points: Field, centre: Numbers, semi_axes: Numbers, tilt_deg: float = 0.0) -> Field:
    """Return the signed distance to an ellipsoid to first order, negative inside; ``tilt_deg`` turns it about x."""
    offset = points - single(centre)
    if tilt_deg:
        c, s = np.float32(np.cos(np.radians(tilt_deg))), np.float32(np.sin(np.radians(tilt_deg)))
        offset = np.stack([offset[:, 0], c * offset[:, 1] + s * offset[:, 2], c * offset[:, 2] - s * offset[:, 1]], 1)
    scaled = offset / single(semi_axes)
    radius = length(scaled)
    slope = length(scaled / single(semi_axes))
    return (radius * (radius - 1) / np.maximum(slope, 1e-6)).astype(np.float32, copy=False)


def capsule(points: Field, start: Numbers, end: Numbers, radius_mm: float) -> Field:
    """Return the signed distance to a straight tube with round ends, negative inside."""
    first, axis = single(start), single(end) - single(start)
    along = np.clip((points - first) @ axis / np.float32(axis @ axis), 0, 1)
    return length(points - first - along[:, None] * axis) - np.float32(radius_mm)


def union(*distances: Field, blend_mm: float = 4.0) -> Field:
    """Return the distance to the union of shapes, their joints rounded over ``blend_mm``."""
    result = distances[0]
    for other in distances[1:]:
        overlap = np.clip(0.5 + 0.5 * (other - result) / blend_mm, 0, 1)
        result = other * (1 - overlap) + result * overlap - blend_mm * overlap * (1 - overlap)
    return result


def bell(t: Field, centre: float, width: float) -> Field:
    """Return a smooth bump of height 1 around ``centre``."""
    return np.exp(-(((t - centre) / width) ** 2))


def step(t: Field, at: float, width: float) -> Field:
    """Return a smooth step from 0 to 1 around ``at``."""
    return 0.5 + 0.5 * np.tanh((t - at) / width)
