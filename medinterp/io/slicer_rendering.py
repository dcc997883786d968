"""How a scan looks in 3D Slicer's volume rendering: opacity and colour by value, as Slicer's own property file."""

from collections.abc import Sequence
from typing import Final

from medinterp.volume import Volume

Point = tuple[float, float]
Colour = tuple[float, float, float, float]

_BONE: Final[tuple[Sequence[Point], Sequence[Colour]]] = (
    [(-1024.0, 0.0), (150.0, 0.0), (300.0, 0.25), (1200.0, 0.85), (3071.0, 0.9)],
    [(-1024.0, 0.0, 0.0, 0.0), (150.0, 0.6, 0.3, 0.2), (500.0, 0.95, 0.87, 0.75), (3071.0, 1.0, 1.0, 1.0)],
)
"""Hounsfield units: soft tissue clear, bone and contrast agent solid."""


def rendering_preset(base: Volume, shown: tuple[float, float]) -> str:
    """Return a .vp file: bone for HU; else dark voxels clear and bright ones solid between the ends of the display.

    Args:
        base: the scan.
        shown: what it shows as black and as white.

    Source:
        What Slicer's vtkMRMLVolumePropertyStorageNode writes: linear interpolation, shading, diffuse, ambient,
        specular, specular power, then opacity by value, opacity by gradient, and colour by value.
    """
    opacity, colours = _BONE if base.unit == "HU" else _between(*shown)
    lines = ["1", "1", "0.7", "0.25", "0.2", "10", _listed(opacity), _listed([(0.0, 1.0), (255.0, 1.0)])]
    return "\n".join([*lines, _listed(colours)]) + "\n"


def _between(low: float, high: float) -> tuple[Sequence[Point], Sequence[Colour]]:
    def at(share: float) -> float:
        return low + share * (high - low)

    opacity = [(at(0.0), 0.0), (at(0.2), 0.0), (at(0.5), 0.08), (at(1.0), 0.6)]
    colours = [(at(0.0), 0.0, 0.0, 0.0), (at(0.4), 0.55, 0.35, 0.28), (at(1.0), 1.0, 0.96, 0.92)]
    return opacity, colours


def _listed(points: Sequence[Sequence[float]]) -> str:
    """Return how many numbers follow, and the numbers."""
    numbers = [repr(float(number)) for point in points for number in point]
    return " ".join([str(len(numbers)), *numbers])
