"""Numbers and records in words that a reader of the report understands."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from medinterp.export.slices import obliqueness_deg, orientation
from medinterp.volume import Grid

_TIMES = "\u00d7"
_MINUS = "\u2212"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LONGEST_LIST = 12
_KEEP = "\u00a0"  # a space at which no line is broken


def measure_words(name: str) -> str:
    """Return what a measure is called in a sentence."""
    return name.replace("_", " ")


def number(value: float, digits: int = 4) -> str:
    """Write a number with a few significant digits, for example "0.01230", "−1.500 × 10⁻⁷", "not available".

    A whole number is written without decimals.
    """
    value = float(value)
    if math.isnan(value):
        return "not available"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if value.is_integer() and abs(value) < 1e6:
        return f"{value:.0f}".replace("-", _MINUS)
    if not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}{_KEEP}{_TIMES}{_KEEP}10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", _MINUS)
    return (f"{value:#.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:.0f}").replace("-", _MINUS)


def quantity(value: float, unit: str, digits: int = 4) -> str:
    """Write a number with its unit; the unit "1" is not written."""
    return number(value, digits) if unit in ("1", "") else f"{number(value, digits)}{_KEEP}{unit}"


def grid_rows(grid: Grid) -> tuple[tuple[str, str], ...]:
    """Describe a grid in rows of a table: voxels, spacing, field of view, orientation."""
    field = (n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True))
    angle = obliqueness_deg(grid)
    turned = f", oblique by up to {angle:.1f}°" if angle >= 0.05 else ""
    sheared = "" if grid.is_orthogonal else ", sheared"
    return (
        ("Grid", f" {_TIMES} ".join(str(n) for n in grid.shape) + " voxels"),
        ("Spacing", f" {_TIMES} ".join(f"{mm:.3f}" for mm in grid.spacing_mm) + " mm"),
        ("Field of view", f" {_TIMES} ".join(f"{mm:.0f}" for mm in field) + " mm"),
        ("Voxel axes run towards", f"{orientation(grid)}{turned}{sheared}"),
    )


def record_tables(run: Mapping[str, Any]) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Lay a nested run record out as captioned tables of two columns; plain entries come first, under "Run"."""
    plain = [(label(k), plain_text(v)) for k, v in run.items() if not isinstance(v, Mapping)]
    nested = [(label(k), tuple(_flat(v))) for k, v in run.items() if isinstance(v, Mapping) and v]
    return ((("Run", tuple(plain)),) if plain else ()) + tuple(nested)


def label(key: object) -> str:
    """Turn a key of a record into a label: underscores become spaces, the first letter a capital."""
    words = str(key).replace("_", " ").strip()
    return words[:1].upper() + words[1:] if re.fullmatch(r"[a-z ]+", words) else words


def plain_text(value: Any) -> str:
    """Write one entry of a record for people; long lists are cut, and say so."""
    if value is None:
        return "none"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return number(float(value), digits=6)
    if isinstance(value, Mapping):
        return ", ".join(f"{label(k)}: {plain_text(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        rest = f", … ({len(value)} in all)" if len(value) > _LONGEST_LIST else ""
        return ", ".join(plain_text(v) for v in value[:_LONGEST_LIST]) + rest or "none"
    return str(value)


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """List a nested mapping as rows; the keys on the way are joined by a middle dot."""
    rows: list[tuple[str, str]] = []
    for key, value in record.items():
        name = f"{prefix} · {key}" if prefix else label(key)
        rows += _flat(value, name) if isinstance(value, Mapping) and value else [(name, plain_text(value))]
    return rows
