"""Where the planes of a DICOM stack lie: one regular grid, or every reason why not, in mm and degrees."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from medinterp.io.dicom_headers import Plane

SAME_PLACE_MM = 0.01  # far below any slice distance, far above the rounding of a 16-character decimal string
JITTER = 0.015  # of the slice distance: slices up to 1 % out of place, seen against a line fitted through them
VISIBLE_JITTER_MM = 1e-3  # below this a slice is where the grid says it is, by the grid's own tolerance
TILT_DEGREES = 0.05  # more than rounded direction cosines (four digits) can feign
UNIT_TOLERANCE = 1e-3  # of direction cosines; four written digits stay below it
ORIENTATION_TOLERANCE = 1e-4  # two planes with cosines this close are parallel (highdicom's tolerance too)
CONVERT = (
    "convert the series with dcm2niix and give medinterp the corrected NIfTI it writes "
    "(its name ends in _Tilt, _Eq or _Tilt_Eq), checking it by eye"
)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Layout:
    """The lattice through a stack's planes, or what forbids one."""

    affine: Float64[np.ndarray, "4 4"] | None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def plane_faults(planes: Sequence[Plane]) -> list[str]:
    """Say what keeps planes from lying on one grid before their positions are looked at."""
    faults: list[str] = []
    sizes = Counter((plane.columns, plane.rows) for plane in planes)
    if len(sizes) > 1:
        listed = ", ".join(f"{columns} x {rows} ({count} slices)" for (columns, rows), count in sizes.most_common())
        faults.append(f"slices of different sizes: {listed}; keep one size in the folder")
    lost = sum(plane.position is None or plane.orientation is None for plane in planes)
    if lost:
        faults.append(f"{lost} of {len(planes)} slices carry no position or orientation: the geometry is unknown")
    spacings = np.array([plane.spacing for plane in planes if plane.spacing is not None])
    if len(spacings) < len(planes):
        faults.append("no Pixel Spacing: the size of a voxel is unknown")
    elif not np.allclose(spacings, spacings[0], rtol=1e-4, atol=0):
        faults.append("slices of different pixel spacing; keep one in the folder")
    elif (spacings <= 0).any():
        faults.append("a Pixel Spacing of zero or less")
    if len({plane.facts["FrameOfReferenceUID"] for plane in planes}) > 1:
        faults.append("slices of different frames of reference: their positions cannot be compared")
    if not lost and not _is_rotation(planes[0]):
        faults.append("the row and column directions are not perpendicular unit vectors")
    return faults


def _is_rotation(plane: Plane) -> bool:
    axes = np.reshape(np.asarray(plane.orientation), (2, 3))
    return bool(np.abs(axes @ axes.T - np.eye(2)).max() < UNIT_TOLERANCE)


def slice_normal(plane: Plane) -> Float64[np.ndarray, "3"]:
    """Return the unit vector row direction x column direction, LPS."""
    orientation = np.asarray(plane.orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal))


def by_position(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Group planes that lie at the same place; groups ascend along row x column."""
    normal = slice_normal(planes[0])
    ordered = sorted(planes, key=lambda plane: (float(np.asarray(plane.position) @ normal), plane.instance or 0))
    groups = [[ordered[0]]]
    for plane in ordered[1:]:
        distance = (np.asarray(plane.position) - np.asarray(groups[-1][0].position)) @ normal
        if distance > SAME_PLACE_MM:
            groups.append([plane])
        else:
            groups[-1].append(plane)
    return groups


def lay_out(planes: Sequence[Plane]) -> Layout:
    """Fit one lattice through planes sorted by position, one at each place, or say why there is none."""
    if len(planes) < 2:
        return Layout(None, problems=("a single slice is not a volume: give the folder that holds the whole series",))
    positions = np.stack([np.asarray(plane.position) for plane in planes])
    normal = slice_normal(planes[0])
    distances = positions @ normal
    drift, degrees = _drift(positions, normal, distances)
    problems = [] if degrees <= TILT_DEGREES else [f"gantry tilt of {degrees:.1f} degrees (the slices are sheared)"]
    problems += _spacing_faults(distances, positions)
    if problems:
        search = "find the missing files, or " if any("missing" in problem for problem in problems) else ""
        return Layout(None, problems=(f"{' and '.join(problems)}: {search}{CONVERT}",))
    index = np.arange(len(planes))
    step = np.polyfit(index, distances, 1)[0] * (normal + drift)
    origin = positions.mean(axis=0) - step * index.mean()
    residual = float(np.linalg.norm(positions - origin - index[:, None] * step, axis=1).max())
    spacing = float(np.linalg.norm(step))
    if residual > JITTER * spacing:
        why = f"a slice lies {residual:.3f} mm off the regular grid (more than 1 % of the {spacing:.3f} mm spacing)"
        return Layout(None, problems=(f"{why}; {CONVERT}",))
    return Layout(_affine(planes[0], origin, step), notes=tuple(_remarks(planes, residual, spacing, degrees)))


def _drift(
    positions: Float64[np.ndarray, "n 3"], normal: Float64[np.ndarray, "3"], distances: Float64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "3"], float]:
    """Return the sideways drift per mm along the normal, and its angle in degrees; right for any spacing."""
    along = distances - distances.mean()
    sideways = (positions - positions.mean(axis=0)) - along[:, None] * normal
    drift = along @ sideways / (along @ along)
    return drift, float(np.degrees(np.arctan(np.linalg.norm(drift))))


def _spacing_faults(distances: Float64[np.ndarray, " n"], positions: Float64[np.ndarray, "n 3"]) -> list[str]:
    """Name every hole of a stack, or its unequal distances, in mm."""
    gaps = np.diff(distances)
    index = np.arange(len(distances))
    off = distances - np.polyval(np.polyfit(index, distances, 1), index)
    if np.abs(off).max() <= JITTER * gaps.mean():
        return []
    base = float(gaps.min())
    multiples = np.rint(gaps / base)
    # A hole is a whole number of slice distances; with jitter at both of its ends it misses that by up to 2 x 1.5 %.
    if (multiples >= 1).all() and (np.abs(gaps - multiples * base) <= 2 * JITTER * base).all():
        return [_hole(int(k), int(multiples[k]) - 1, distances, positions, base) for k in np.flatnonzero(multiples > 1)]
    kinds = Counter(f"{gap:.2f}" for gap in gaps)
    listed = ", ".join(f"{gap} mm ({count} times)" for gap, count in kinds.most_common(6))
    rest = " and others" if len(kinds) > 6 else ""
    return [f"unequal slice spacing: {listed}{rest}"]


def _hole(
    k: int, count: int, distances: Float64[np.ndarray, " n"], positions: Float64[np.ndarray, "n 3"], base: float
) -> str:
    centre = (positions[k] + positions[k + 1]) / 2 * (-1, -1, 1)
    slices = "1 slice is" if count == 1 else f"{count} slices are"
    return (
        f"{slices} missing: a gap of {distances[k + 1] - distances[k]:.2f} mm where slices are {base:.2f} mm apart, "
        f"between {distances[k]:.2f} and {distances[k + 1]:.2f} mm along the slice axis "
        f"(RAS {centre[0]:.1f}, {centre[1]:.1f}, {centre[2]:.1f} mm)"
    )


def _affine(
    plane: Plane, origin: Float64[np.ndarray, "3"], step: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "4 4"]:
    """Return the RAS+ affine: I along a row, J down a column, K along the stack."""
    orientation, spacing = np.asarray(plane.orientation), np.asarray(plane.spacing)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * spacing[1]
    affine[:3, 1] = orientation[3:] * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return LPS_TO_RAS @ affine


def _remarks(planes: Sequence[Plane], residual: float, spacing: float, degrees: float) -> list[str]:
    """Return what the user should know about a stack that is read."""
    notes: list[str] = []
    if residual > VISIBLE_JITTER_MM:
        notes.append(
            f"warning: slice positions jitter by up to {residual:.4f} mm "
            f"({100 * residual / spacing:.2f} % of the {spacing:.3f} mm spacing); read as regular"
        )
    if degrees > np.degrees(1e-4):
        notes.append(f"warning: the slices drift sideways by {degrees:.3f} degrees; the grid keeps this shear")
    stated = planes[0].facts["SpacingBetweenSlices"]
    if stated and abs(abs(stated) - spacing) > 0.01 * spacing:
        notes.append(
            f"warning: the header says {abs(stated):.3f} mm between slices, the positions say {spacing:.3f} mm; "
            "the positions are used"
        )
    return notes + _end_remarks(planes)


def _end_remarks(planes: Sequence[Plane]) -> list[str]:
    """Say when numbering hints at slices beyond the ends, which positions cannot show."""
    numbers = sorted(plane.instance for plane in planes if plane.instance is not None)
    total = planes[0].facts["ImagesInAcquisition"]
    if len(planes) > len({plane.path for plane in planes}) or len(set(numbers)) < len(planes):
        return []
    if (total and total > len(planes)) or numbers[0] > 1:
        why = f"the header counts {total}" if total and total > len(planes) else f"numbering begins at {numbers[0]}"
        return [f"{len(planes)} slices read but {why}: slices beyond the ends may be absent"]
    return []
