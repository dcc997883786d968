"""The two colour tables of every picture we make, as plain numbers: one diverging, one sequential, both with alpha.

Slicer, the report, the web page and meshes all draw from here, so a colour means the same everywhere. Both tables are
transparent at zero, so that the scan underneath stays readable, and are told apart by every kind of colour vision: the
diverging one sets red to yellow against blue to cyan with equal lightness at equal magnitude.
"""

import numpy as np
from jaxtyping import Float64

SIZE = 256
_WARM = ((0.62, 0.05, 0.10), (0.86, 0.20, 0.12), (0.97, 0.45, 0.16), (1.00, 0.72, 0.32))
_COOL = ((0.17, 0.28, 0.66), (0.22, 0.44, 0.88), (0.27, 0.62, 0.96), (0.41, 0.82, 1.00))
_SEQUENTIAL = (
    (0.28, 0.14, 0.46),
    (0.24, 0.29, 0.54),
    (0.17, 0.45, 0.56),
    (0.12, 0.60, 0.54),
    (0.36, 0.78, 0.38),
    (0.99, 0.91, 0.14),
)
_CLEAR_BELOW = 0.05
_OPAQUE_FROM = 0.35
_LARGEST_ALPHA = 0.9


def diverging() -> Float64[np.ndarray, "256 4"]:
    """Return the table for signed maps: red, green, blue, alpha in 0..1, from -limit to +limit, clear around zero."""
    magnitude = np.abs(np.linspace(-1.0, 1.0, SIZE))
    table = _with_alpha(_ramp(_WARM, magnitude), magnitude)
    table[: SIZE // 2, :3] = _ramp(_COOL, magnitude[: SIZE // 2])
    return table


def sequential() -> Float64[np.ndarray, "256 4"]:
    """Return the table for maps without sign: red, green, blue, alpha in 0..1, from 0 (clear) to limit."""
    magnitude = np.linspace(0.0, 1.0, SIZE)
    return _with_alpha(_ramp(_SEQUENTIAL, magnitude), magnitude)


def sign_colour(sign: int) -> tuple[float, float, float]:
    """Return the colour that stands for a positive (+1) or a negative (-1) cluster, as in the diverging table."""
    red, green, blue = _WARM[1] if sign > 0 else _COOL[1]
    return red, green, blue


def _ramp(anchors: tuple[tuple[float, float, float], ...], at: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "n 3"]:
    """Interpolate evenly spaced colours at positions 0..1."""
    places = np.linspace(0.0, 1.0, len(anchors))
    return np.stack([np.interp(at, places, channel) for channel in zip(*anchors, strict=True)], axis=1)


def _with_alpha(rgb: Float64[np.ndarray, "n 3"], magnitude: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "n 4"]:
    """Add alpha that rises from clear near zero to nearly opaque at a third of the range."""
    alpha = np.interp(magnitude, (_CLEAR_BELOW, _OPAQUE_FROM), (0.0, _LARGEST_ALPHA))
    return np.concatenate([rgb, alpha[:, None]], axis=1)
