"""A synthetic head as a continuous function of place: tissues and signed distances at any point, in RAS mm.

Origin near the middle of the brain; x to the right, y to the front, z up. Everything paired is drawn for ``|x|`` and
then bent by a smooth, unsymmetric warp. Lesion and calcification are exact spheres, untouched by the warp.
Cortex: sulci are sheets that run inwards from the brain's hull along the nodal lines of a random wave on the sphere of
directions; grey matter is what lies within a cortical thickness of the fluid, so gyri and sulci follow by themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from medinterp.testing.shapes import Field, Sphere, bell, capsule, ellipsoid, length, single, step, total, union, waves

Layer = tuple["Tissue", Field]


class Tissue(Enum):
    """What a point of the head is made of."""

    AIR = "air"
    SKIN = "skin"
    FAT = "fat"
    MUSCLE = "muscle"
    BONE = "compact bone"
    MARROW = "bone marrow"
    CSF = "cerebrospinal fluid"
    GREY = "grey matter"
    WHITE = "white matter"
    DEEP_GREY = "deep grey nuclei"
    PALLIDUM = "globus pallidus"
    STEM = "brain stem"
    DURA = "dura"
    BLOOD = "flowing blood"
    VITREOUS = "vitreous body"
    LESION = "lesion"
    CALCIFICATION = "calcification"


LESION = Sphere((21.0, 5.0, 29.0), 5.0)
CALCIFICATION = Sphere((-24.0, -30.0, 22.0), 3.0)


@dataclass(frozen=True, eq=False)
class Place:
    """Points in the head: as given, and bent and folded onto the right half, where the anatomy is drawn."""

    world: Field
    bent: Field
    folded: Field

    @classmethod
    def of(cls, points: Field) -> "Place":
        """Bend and fold points (N, 3) in RAS mm."""
        bend = np.stack([waves(seed, 70.0, 5)(points) for seed in (11, 12, 13)], axis=1)
        bent = points + single([1.2, 1.8, 1.8]) * bend
        folded = bent.copy()
        folded[:, 0] = np.abs(folded[:, 0])
        return cls(points, bent, folded)

    def keep(self, inside: NDArray[np.bool_]) -> "Place":
        """Return the points where ``inside`` is True."""
        return Place(self.world[inside], self.bent[inside], self.folded[inside])


def _cerebrum(place: Place) -> Field:
    """Hull of both hemispheres: an ellipsoid cut off below by the skull base and the tentorium."""
    x, y, z = place.folded.T
    floor = -17.0 - 21.0 * bell(x, 33.0, 17.0) * bell(y, 4.0, 24.0) + 12.0 * bell(x, 0.0, 16.0) * step(-y, 22.0, 6.0)
    hull = ellipsoid(place.folded, (0, -1, 9), (55, 69, 56))
    return -union(-hull, (z - floor) / 1.25, blend_mm=8.0)


def _cerebellum(place: Place) -> Field:
    left_right = ellipsoid(place.folded, (20, -43, -33), (23, 23, 18))
    return union(left_right, ellipsoid(place.folded, (0, -38, -31), (14, 20, 19)), blend_mm=5.0)


def _stem(place: Place) -> Field:
    tube = capsule(place.folded, (0, -12, -4), (0, -21, -100), 8.5)
    return union(tube, ellipsoid(place.folded, (0, -9, -29), (14, 11, 13)), blend_mm=5.0)


@lru_cache(maxsize=1)
def _lobules() -> tuple[Field, NDArray[np.intp]]:
    """Return directions of the cells of cortex of one hemisphere, and the gyrus that each belongs to."""
    generator = np.random.default_rng(25)
    cells, gyri = (_even_directions(count, generator) for count in (160, 62))
    return cells, np.argmax(cells @ gyri.T, axis=1)


def _even_directions(count: int, generator: np.random.Generator) -> Field:
    """Spread directions over the sphere along a golden spiral, then jitter them."""
    turn, height = np.arange(count) * np.pi * (3 - 5**0.5), 1 - (2 * np.arange(count) + 1) / count
    ring = np.sqrt(1 - height**2)
    points = np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)
    points += 0.5 * count**-0.5 * generator.standard_normal(points.shape)
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def _sulci(place: Place, depth: Field) -> Field:
    """Distance in mm to the nearest sulcal sheet, given the depth below the hull; sheets end at their own depth."""
    cells, gyri = _lobules()
    arm = place.folded - single([19, -2, 8])
    arm_mm = length(arm)
    bend = np.stack([waves(s, 24.0, 6)(place.bent) for s in (21, 22, 23)], axis=1)
    seen = arm / np.maximum(arm_mm, 1)[:, None] + np.float32(0.045) * bend
    score = seen @ cells.T
    own = np.argmax(score, axis=1)
    same = gyri[own][:, None] == gyri
    reach = waves(24, 40.0, 8)(place.bent)
    main = _border(np.where(same, -9, score), own, seen, cells) * arm_mm
    np.put_along_axis(score, own[:, None], -9, axis=1)
    dimple = _border(np.where(same, score, -9), own, seen, cells) * arm_mm
    core = -ellipsoid(place.folded, (0, -4, 0), (36, 38, 24))  # the basal ganglia are not folded
    depth = np.maximum(depth, core + 20)
    main = np.hypot(main, np.maximum(depth - np.maximum(16 + 5 * reach, 7), 0))
    return np.minimum(main, np.hypot(dimple, np.maximum(depth - np.maximum(4 + 3 * reach, 0.5), 0)))


def _border(score: Field, own: NDArray[np.intp], seen: Field, cells: Field) -> Field:
    """Sine of the angle to the border between a point's own cell and the best of the others left in ``score``."""
    across = cells[own] - cells[np.argmax(score, axis=1)]
    return (total(seen * across) / np.maximum(length(across), 1e-6)).astype(np.float32, copy=False)


def _fissures(place: Place) -> Field:
    """Distance in mm to the midline cleft and to the Sylvian fissure of each side."""
    x, y, z = place.folded.T
    core = ellipsoid(place.folded * single([0, 1, 1]), (0, 0, 5), (1, 42, 24))
    midline = np.hypot(x, np.maximum(-core, 0))
    level = (z + 4 + 0.5 * y - 0.5 * (x - 42) + 2.5 * waves(31, 45.0, 5)(place.bent)) / 1.22
    sylvian = np.sqrt(level**2 + np.maximum(33 - x, 0) ** 2 + np.maximum(-26 - y, 0) ** 2) - 0.5
    insula = np.sqrt(np.maximum(np.abs(level) - 8, 0) ** 2 + (x - 34.5) ** 2 + np.maximum(np.abs(y - 4) - 17, 0) ** 2)
    return np.minimum(np.minimum(midline, sylvian), insula)


def _cortex(place: Place, hull: Field) -> Iterator[Layer]:
    """Grey and white matter of the cerebrum, inside its hull."""
    depth = -hull
    fluid = 0.35 + 0.9 * np.exp(-np.maximum(depth, 0) / 5)
    nearest = np.minimum(np.minimum(_sulci(place, depth), _fissures(place)) - fluid, depth)
    thickness = 2.7 + 0.35 * waves(41, 30.0, 6)(place.bent)
    yield Tissue.GREY, -nearest
    yield Tissue.WHITE, thickness - nearest


def _nuclei(place: Place) -> Iterator[Layer]:
    p = place.folded
    yield Tissue.DEEP_GREY, union(ellipsoid(p, (9.5, -13, 4), (8, 12, 8)), ellipsoid(p, (8, -20, 6), (6, 6, 6)))
    yield Tissue.DEEP_GREY, ellipsoid(p, (25.5, 3, 2), (4.6, 15, 9.5))
    yield (
        Tissue.DEEP_GREY,
        union(ellipsoid(p, (13, 17, 9), (5, 9, 7.5)), capsule(p, (14, 12, 14), (17, -18, 19), 2.4), blend_mm=3.0),
    )
    yield Tissue.PALLIDUM, ellipsoid(p, (19, -1, 0), (3.6, 8, 6))


def _ventricles(place: Place) -> Iterator[Layer]:
    p = place.folded
    horn = ellipsoid(p, (7.5, 15, 11), (4.2, 15, 6.5), -20.0)
    body = capsule(p, (8, 10, 15), (12, -20, 16), 4.2)
    atrium = union(capsule(p, (13, -22, 14), (22, -33, 6), 5.0), capsule(p, (22, -33, 6), (20, -46, 3), 2.8))
    temporal = capsule(p, (22, -32, 4), (30, -8, -16), 2.0)
    yield Tissue.CSF, union(horn, body, atrium, temporal, blend_mm=3.0)
    yield Tissue.CSF, ellipsoid(p, (0, -7, 1), (1.9, 14, 8))
    yield Tissue.CSF, ellipsoid(p, (0, -25, -32), (6, 3.5, 8))


def _hindbrain(place: Place) -> Iterator[Layer]:
    """Cerebellum with its leaves, and the brain stem."""
    hull = _cerebellum(place)
    offset = (place.folded - single([6, -24, -32])) * single([0.55, 1, 1])
    leaf = np.abs(np.sin(np.pi * (length(offset) + 1.2 * waves(51, 25.0, 5)(place.bent)) / 4.4))
    fluid = 3.0 * (1 - leaf) - 1.9
    yield Tissue.GREY, np.maximum(hull, np.where(hull > -7, fluid - 0.08 * (hull + 7), -1))
    core = ellipsoid(place.folded, (15, -36, -32), (15, 10, 8))
    yield Tissue.WHITE, np.minimum(core, np.maximum(hull + 2.5, 4 * (0.72 - leaf)))
    yield Tissue.STEM, _stem(place)


def _orbits_and_sinuses(place: Place, lid: Field) -> Iterator[Layer]:
    """Eyes in their fat, and the air cells of the face; ``lid`` keeps the eyes behind the skin."""
    p = place.folded
    yield Tissue.BONE, np.maximum(ellipsoid(p, (25, 42, -32), (18.5, 25, 16)), lid)
    yield Tissue.FAT, np.maximum(ellipsoid(p, (25, 44, -32), (16, 25, 13.5)), lid)
    yield Tissue.MUSCLE, np.maximum(np.abs(ellipsoid(p, (24, 42, -32), (10, 22, 9))) - 1.1, lid)
    yield Tissue.MUSCLE, capsule(p, (25, 46, -32), (10, 17, -27), 1.8)
    yield Tissue.MUSCLE, np.maximum(ellipsoid(p, (26, 53, -32), (12, 12, 12)), lid)
    yield Tissue.VITREOUS, ellipsoid(p, (26, 53, -32), (10.7, 10.7, 10.7))
    cells = 1.2 * np.sin(place.bent @ single([0.5, 0.7, 0.3])) * np.sin(place.bent @ single([-0.6, 0.4, 0.6]))
    yield Tissue.BONE, ellipsoid(p, (0, 44, -42), (10, 26, 17))
    yield Tissue.AIR, ellipsoid(p, (4.2, 44, -42), (3.4, 24, 15)) + cells
    yield Tissue.AIR, ellipsoid(p, (7, 20, -34), (6, 9, 7))
    yield Tissue.AIR, ellipsoid(p, (25, 42, -62), (12, 15, 12))
    yield Tissue.AIR, ellipsoid(p, (46, -24, -42), (6, 9, 11)) + 2 * cells


def surface(points: Float32[np.ndarray, "N 3"]) -> Field:
    """Return the signed distance in mm to the skin, negative inside the head, to first order near the skin."""
    return _shells(Place.of(points))[0]


def _shells(place: Place) -> tuple[Field, Field, Field, Field]:
    """Signed distances to the skin, the face, the outer table of the skull, and the cavity within."""
    cavity = union(_cerebrum(place), _cerebellum(place), _stem(place), blend_mm=10.0) - 2.2
    bone = cavity - (6.0 + 0.6 * waves(61, 60.0, 6)(place.bent) + 2.5 * step(-place.bent[:, 2], 22.0, 8.0))
    face = union(
        ellipsoid(place.folded, (0, 26, -48), (56, 51, 64)),
        ellipsoid(place.folded, (0, -22, -90), (46, 44, 90)),
        ellipsoid(place.folded, (0, 77, -50), (8, 12, 16)),
        blend_mm=12.0,
    )
    return union(bone - (5.5 + 0.8 * waves(62, 50.0, 6)(place.bent)), face, blend_mm=10.0), face, bone, cavity


def layers(points: Float32[np.ndarray, "N 3"]) -> Iterator[Layer]:
    """Yield tissues from the outside in, each with its signed distance in mm at every point; later ones cover earlier.

    Distances are exact to first order near a surface, which is all that partial volume needs.
    """
    place = Place.of(points)
    scalp, face, bone, cavity = _shells(place)
    yield Tissue.SKIN, scalp
    yield Tissue.FAT, scalp + 2.0
    temple = ellipsoid(place.folded, (60, 10, -18), (8, 30, 30))
    yield Tissue.MUSCLE, np.maximum(np.minimum(face + 7, temple), scalp + 3)
    yield Tissue.BONE, bone
    yield Tissue.MARROW, np.maximum(np.maximum(bone + 1.7, 1.9 - cavity), -25 - place.bent[:, 2])
    yield from _orbits_and_sinuses(place, scalp + 1.5)
    yield Tissue.DURA, cavity
    yield Tissue.CSF, cavity + 0.8
    yield from _contents(place, cavity)
    yield Tissue.LESION, LESION.distance(points)
    yield Tissue.CALCIFICATION, CALCIFICATION.distance(points)


def _contents(place: Place, cavity: Field) -> Iterator[Layer]:
    """What lies inside the skull; costly, so worked out only where there is brain."""
    inside = cavity < 2
    part = place.keep(inside)
    for source in (_hindbrain(part), _cortex(part, _cerebrum(part)), _nuclei(part), _ventricles(part), _midline(part)):
        for tissue, distance in source:
            full = np.full(inside.shape, 100, dtype=np.float32)
            full[inside] = distance
            yield tissue, full


def _midline(place: Place) -> Iterator[Layer]:
    """Falx and the sinus along its upper edge."""
    core = ellipsoid(place.folded * single([0, 1, 1]), (0, 0, 3), (1, 52, 36))
    low = -6 - place.folded[:, 2]
    yield Tissue.DURA, np.maximum(np.maximum(place.folded[:, 0] - 0.5, -core), low)
    rim = ellipsoid(place.folded * single([0, 1, 1]), (0, -1, 9), (1, 68, 55))
    yield Tissue.BLOOD, np.maximum(np.hypot(place.folded[:, 0], np.minimum(rim, 0)) - 3.0, low)
