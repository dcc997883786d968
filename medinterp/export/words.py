"""Numbers and methods in words that a reader of the report understands."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medinterp.export.slices import obliqueness_deg, orientation
from medinterp.volume import Grid

_TIMES = "\u00d7"
_MINUS = "\u2212"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LONGEST_LIST = 12
_KEEP = "\u00a0"  # a space at which no line is broken


@dataclass(frozen=True)
class MethodWords:
    """What a method is called, and what its map does and does not say."""

    title: str
    says: str
    says_not: str


_METHODS = {
    "saliency": MethodWords(
        "Saliency",
        "Each voxel shows how fast the measured number changes when that voxel alone becomes brighter. Warm voxels "
        "push the number up, cool voxels push it down, voxels without colour hardly matter.",
        "It does not say how much of the number a voxel is responsible for, and it is exact only for small changes "
        "around this very scan.",
    ),
    "input_x_gradient": MethodWords(
        f"Input {_TIMES} gradient",
        "Each voxel shows its share of the measured number, in the number's own unit. On this kind of network the "
        "shares of all voxels, with the one share owed to the assumed noise level, add up to the number; the "
        "completeness row below says how closely.",
        "A large share is not a large influence: a bright voxel with a small weight can hold much of the number. It "
        "does not say what the number would be had the tissue been different.",
    ),
    "integrated_gradients": MethodWords(
        "Integrated gradients",
        "Each voxel shows its share of the difference between the number on this scan and the number on the "
        "baseline, in the number's own unit. The shares add up to that difference; the completeness row below says "
        "how closely.",
        "The shares depend on the baseline: another baseline asks another question. They do not say what a single "
        "voxel does on its own, away from the path between baseline and scan.",
    ),
    "equivalent_filter": MethodWords(
        "Equivalent filter",
        "Each voxel shows the weight with which it enters the measured number: the filter that the network amounted "
        "to at this place. A narrow filter keeps detail, a wide one averages; cool voxels are subtracted.",
        "The filter belongs to this scan and this place: the network forms another one elsewhere. A weight is not a "
        "share; a dark voxel with a large weight adds little to the number.",
    ),
}
_ALWAYS = (
    "It explains what the model computed, mistakes included; it does not show disease, and it does not prove that "
    "the anatomy under a colour is real."
)


def method_words(name: str) -> MethodWords:
    """Return the words for a method by its registered name; a method of a plugin gets words that fit any map."""
    known = _METHODS.get(name)
    if known is None:
        title = name.replace("_", " ").capitalize()
        says = "Each voxel shows what this method ascribes to it for the measured number: warm above zero, cool below."
        known = MethodWords(title, says, "What its values mean beyond that is said in the method's own documentation.")
    return MethodWords(known.title, known.says, f"{known.says_not} {_ALWAYS}")


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
