"""Registration of scans to the first one: rigid or affine by mutual information, or a transform that was given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64

from medinterp.errors import InputError
from medinterp.fusion.alignment import Kind, align
from medinterp.fusion.similarity import shared_information_bits
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.volume import Step, Transform, Volume

_TISSUE = 0.15  # of the range from the darkest to the 99th percentile: what is brighter is the patient
_POINTS = 2000


@dataclass(frozen=True)
class InverseConsistency:
    """How far a point comes back from where it went, there by one registration and back by the opposite one, in mm."""

    median_mm: float
    largest_mm: float


@dataclass(frozen=True, eq=False)
class Registration:
    """Where one scan lies in the reference's patient space, and how far that can be trusted.

    Args:
        transform: from points of the reference to points of the scan.
        kind: how it was found.
        information_before: mutual information in bits as the files place the scans.
        information_after: the same by the transform.
        shift_mm: how far the middle of the reference's tissue moved.
        consistency: of the registration and the opposite one; None where nothing was searched.
    """

    transform: Transform
    kind: Literal["rigid", "affine", "given"]
    information_before: float
    information_after: float
    shift_mm: float
    consistency: InverseConsistency | None = None


@dataclass(frozen=True)
class Registrar:
    """Finds where every scan lies in the first one's patient space.

    Mattes mutual information over a pyramid of resolutions, several starts at the coarsest, single thread and
    seeded: the same bits every time. What was given is taken as it is. The honest figure is inverse consistency: the
    search is done twice, in both directions, and a point that goes there and back should come home.

    It fails where scans share little anatomy (thin slabs, a few slices) or where they lie more than about 25° or
    40 mm apart and fill their fields of view differently; the figure is then large, which is reported.

    Args:
        kind: "rigid", "affine", or None to search for nothing.
        transforms: given ones, by input name, from the first scan to the named one.
        masks: where to look, by input name, on that input's grid; values above one half count.
    """

    kind: Kind | None = "rigid"
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    masks: Mapping[str, Volume] = field(default_factory=dict)

    def __call__(self, scans: Mapping[str, Volume], *, seed: int, on_step: OnStep = ignore) -> dict[str, Registration]:
        """Return a registration for every scan but the first that is registered or has a transform given.

        Raises:
            InputError: a mask or transform names no scan, a mask is on another grid, scans do not overlap, or the
                search failed.
        """
        first, *others = scans
        self._check(scans)
        found = {}
        for number, name in enumerate(others):
            on_step(StepInfo("register", number, len(others), name))
            if name in self.transforms:
                found[name] = _given(scans[first], scans[name], self.transforms[name])
            elif self.kind is not None:
                masks = self.masks.get(first), self.masks.get(name)
                found[name] = register(scans[first], scans[name], self.kind, masks=masks, seed=seed)
        on_step(StepInfo("register", len(others), len(others)))
        return found

    def _check(self, scans: Mapping[str, Volume]) -> None:
        first = next(iter(scans))
        for what, named in (("a transform", self.transforms), ("a registration mask", self.masks)):
            unknown = [name for name in named if name not in scans]
            if unknown:
                raise InputError(f"{what} for '{unknown[0]}', which is none of the inputs {', '.join(scans)}")
        if first in self.transforms:
            raise InputError(f"a transform for '{first}', the first input, which is the reference and stays in place")
        for name, mask in self.masks.items():
            scans[name].require_same_grid(mask, f"the registration mask of '{name}'")
            if not (mask.voxels > 0.5).any():
                raise InputError(f"the registration mask of '{name}' is empty")


def register(
    reference: Volume, scan: Volume, kind: Kind, *, masks: tuple[Volume | None, Volume | None] = (None, None), seed: int
) -> Registration:
    """Find the rigid or affine transform from a reference to a scan, and check it by the opposite registration.

    Raises:
        InputError: the scans do not overlap, or the search failed.
    """
    forth = align(reference, scan, kind, masks=masks, seed=seed)
    back = align(scan, reference, kind, masks=(masks[1], masks[0]), seed=seed)
    points = tissue_points(reference)
    apart = np.linalg.norm(back(forth(points)) - points, axis=-1)
    consistency = InverseConsistency(float(np.median(apart)), float(apart.max()))
    registration = _assess(reference, scan, forth, kind)
    parameters = {
        "kind": kind, "metric": "Mattes mutual information", "seed": seed, "matrix_ras_mm": forth.matrix.tolist(),
        "inverse_consistency_mm": consistency.median_mm,
    }  # fmt: skip
    transform = replace(registration.transform, step=Step("register", parameters))
    return replace(registration, transform=transform, consistency=consistency)


def _given(reference: Volume, scan: Volume, transform: Transform) -> Registration:
    return _assess(reference, scan, transform, "given")


def _assess(
    reference: Volume, scan: Volume, transform: Transform, kind: Literal["rigid", "affine", "given"]
) -> Registration:
    middle = tissue_points(reference).mean(axis=0)
    shift = float(np.linalg.norm(transform(middle) - middle))
    try:
        before = shared_information_bits(reference, scan, Transform(np.eye(4)))
    except InputError:  # the files put them side by side: nothing is shared before
        before = 0.0
    return Registration(transform, kind, before, shared_information_bits(reference, scan, transform), shift)


def tissue_points(volume: Volume, count: int = _POINTS) -> Float64[np.ndarray, "points 3"]:
    """Return about ``count`` evenly picked points of the patient, RAS mm: what is clearly brighter than the dark."""
    voxels = volume.voxels[0]
    low, high = (float(v) for v in np.percentile(voxels, (0.5, 99.0)))
    index = np.argwhere(voxels > low + _TISSUE * (high - low))
    if len(index) == 0:
        raise InputError("a scan without any tissue brighter than its background: nothing to register")
    return volume.grid.to_world(index[:: max(1, len(index) // count)])


def consistency_words(consistency: InverseConsistency) -> str:
    """Return inverse consistency as text."""
    return f"median {consistency.median_mm:.2f} mm, largest {consistency.largest_mm:.2f} mm"


def worst_consistency_mm(found: Sequence[Registration]) -> float | None:
    """Return the largest median inverse consistency, None where nothing was searched."""
    figures = [r.consistency.median_mm for r in found if r.consistency is not None]
    return max(figures, default=None)
