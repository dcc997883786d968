"""What a NRRD header says about size, place and values, read so that a lying header does no harm."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from medinterp.errors import InputError, UnsupportedSeries
from medinterp.io.nifti_header import NO_ORIENTATION, sidecar_of
from medinterp.io.source_files import MAX_VOXELS, unreadable
from medinterp.volume import Grid

HEADER_BYTES = 1 << 20
MM_OF_UNIT: Final = {
    "": 1.0,
    "mm": 1.0,
    "millimeter": 1.0,
    "m": 1e3,
    "cm": 10.0,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
}
_TO_RAS: Final = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
_TYPES: Final = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_ONE_VALUE_OF_MANY: Final = ("color", "vector", "complex", "matrix", "gradient", "quaternion", "normal")


@dataclass(frozen=True, eq=False)
class NrrdHeader:
    """A NRRD header.

    Args:
        grid: of one volume.
        sizes: along every axis of the file, the fastest first.
        spatial: which three axes are space.
        dtype: of the stored values.
        encoding: "raw", "gzip", "bzip2" or "ascii".
        data: the file with the values.
        offset: of the values in that file, bytes; -1 where they are its end.
        stated: "Modality" and "Unit", as far as they are.
        notes: what was odd.
    """

    grid: Grid
    sizes: tuple[int, ...]
    spatial: tuple[int, ...]
    dtype: np.dtype[Any]
    encoding: str
    data: Path
    offset: int
    stated: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def frames(self) -> int:
        """How many volumes the file holds."""
        return int(np.prod([n for axis, n in enumerate(self.sizes) if axis not in self.spatial], dtype=int))


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Read a header, and compare what it claims with what a scan can be.

    Raises:
        InputError: unreadable, damaged, or no volume of single real numbers.
        UnsupportedSeries: its space does not say where left and right are.
    """
    fields, end = _fields(path)
    sizes = tuple(int(n) for n in np.atleast_1d(fields["sizes"]))
    spatial = _spatial_axes(fields, sizes)
    shape = (sizes[spatial[0]], sizes[spatial[1]], sizes[spatial[2]])
    if min(sizes) < 1 or int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise InputError(f"the NRRD header claims shape {sizes}: expected 1 to {MAX_VOXELS} voxels a volume; crop it")
    grid, notes = _place(fields, shape, spatial)
    encoding = _encoding(str(fields["encoding"]).lower())
    data, offset = _whereabouts(fields, path, end)
    stated = {**sidecar_of(path), **_stated(fields)}
    return NrrdHeader(grid, sizes, spatial, _dtype(fields, encoding), encoding, data, offset, stated, tuple(notes))


def _fields(path: Path) -> tuple[dict[str, Any], int]:
    """Return the parsed fields and where the header ends."""
    import nrrd

    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError as error:
        raise unreadable(error, "the NRRD file") from error
    ends = [head.find(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in head]
    if not head.startswith(b"NRRD000") or not (ends or path.suffix.lower() == ".nhdr"):
        raise InputError("the file is not NRRD, or its header is cut off or longer than 1 MB; copy it again")
    end = min(ends, default=len(head))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the header, which may hold patient data
            fields = dict(nrrd.read_header(head[:end].splitlines(keepends=True)))
    except (nrrd.NRRDError, ArithmeticError, LookupError, StopIteration, TypeError, ValueError) as error:
        raise _damaged(type(error).__name__) from error
    missing = [name for name in ("type", "dimension", "sizes", "encoding") if name not in fields]
    if missing or np.size(fields["sizes"]) != fields["dimension"] or fields["dimension"] < 1:
        raise _damaged(f"missing or contradicting: {', '.join(missing) or 'dimension and sizes'}")
    return fields, end


def _damaged(why: str) -> InputError:
    return InputError(f"the NRRD header cannot be read ({why}): it is truncated, damaged or not NRRD; copy it again")


def _spatial_axes(fields: Mapping[str, Any], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return which three axes are space: those with a direction, or all of a 3D file."""
    kinds = [str(kind).lower() for kind in fields.get("kinds", [])]
    if any(word in kind for kind in kinds for word in _ONE_VALUE_OF_MANY):
        raise InputError("colour, vector or other values of several numbers: expected one real number a voxel")
    directions = fields.get("space directions")
    if directions is None:
        space = tuple(range(len(sizes))) if len(sizes) == 3 else ()
    else:
        rows = [None if row is None else np.asarray(row, dtype=np.float64) for row in directions]
        space = tuple(n for n, row in enumerate(rows) if row is not None and not np.isnan(row).all())
        if len(rows) != len(sizes) or any(rows[n].shape != (3,) for n in space):  # type: ignore[union-attr]
            raise _damaged("as many directions of three numbers as axes were expected")
    if len(space) != 3:
        raise InputError(f"the NRRD file has {len(space)} axes in space of {len(sizes)}: expected three in one volume")
    return space


def _place(fields: Mapping[str, Any], shape: tuple[int, int, int], spatial: tuple[int, ...]) -> tuple[Grid, list[str]]:
    """Return where the voxels are, in mm, and what to note about it."""
    notes: list[str] = []
    if "space directions" not in fields or ("space" not in fields and "space origin" not in fields):
        spacings = np.atleast_1d(fields.get("spacings", np.ones(3))).astype(np.float64)
        spacings = np.where(np.isfinite(spacings) & (spacings != 0), np.abs(spacings), 1.0)
        spacings = spacings if len(spacings) == 3 else np.ones(3)
        steps = np.diag([*(spacings * (-1, 1, 1)), 1.0])
        steps[:3, 3] = -steps[:3, :3] @ ((np.array(shape) - 1) / 2)
        return Grid(shape, steps), [NO_ORIENTATION]
    space = str(fields.get("space", "")).lower()
    if space not in _TO_RAS:
        raise UnsupportedSeries(
            "the NRRD file's space does not say where left and right are: expected left-posterior-superior, "
            "right-anterior-superior or left-anterior-superior; store it anew from the program it comes from"
        )
    units = {str(unit).strip('" ').lower() for unit in fields.get("space units", ["mm"])}
    if len(units) != 1 or not units <= set(MM_OF_UNIT):
        raise InputError("unknown or mixed space units in the NRRD header: expected mm, cm, m or um")
    scale = MM_OF_UNIT[units.pop()]
    if scale != 1.0:
        notes.append("coordinates were not in mm; converted to mm")
    grid = Grid(shape, _affine(fields, spatial, np.array(_TO_RAS[space]) * scale))
    if not grid.is_orthogonal:
        notes.append(
            "warning: the voxel axes are not perpendicular (sheared, as from a tilted gantry); the shear is kept"
        )
    return grid, notes


def _affine(
    fields: Mapping[str, Any], spatial: tuple[int, ...], to_ras_mm: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "4 4"]:
    affine = np.eye(4)
    for column, axis in enumerate(spatial):
        affine[:3, column] = np.asarray(fields["space directions"][axis], dtype=np.float64) * to_ras_mm
    origin = np.asarray(fields.get("space origin", (np.nan,)), dtype=np.float64)
    if origin.shape != (3,):
        raise InputError("the NRRD header states no origin of three numbers, so where the scan lies is unknown")
    affine[:3, 3] = origin * to_ras_mm
    return affine


def _encoding(word: str) -> str:
    for name, words in {"raw": ("raw",), "gzip": ("gzip", "gz"), "bzip2": ("bzip2", "bz2"),
                        "ascii": ("ascii", "text", "txt")}.items():  # fmt: skip
        if word in words:
            return name
    raise InputError("unknown NRRD encoding: expected raw, gzip, bzip2 or ascii; store it anew")


def _dtype(fields: Mapping[str, Any], encoding: str) -> np.dtype[Any]:
    name = str(fields["type"]).lower()
    code = next((code for code, names in _TYPES.items() if name in names), None)
    if code is None:
        raise InputError("unknown NRRD type: expected one real number a voxel, of 8 to 64 bits")
    order = str(fields.get("endian", "")).lower()
    if encoding == "ascii" or code.endswith("1"):
        return np.dtype(code)
    if order not in ("little", "big"):
        raise _damaged("no byte order")
    return np.dtype(("<" if order == "little" else ">") + code)


def _whereabouts(fields: Mapping[str, Any], path: Path, end: int) -> tuple[Path, int]:
    """Return the file with the values and where they begin; another file must lie beside the header."""
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    if int(fields.get("line skip", fields.get("lineskip", 0))) or skip < -1:
        raise InputError("NRRD files that skip lines are not read; store it anew")
    name = fields.get("data file", fields.get("datafile"))
    if name is None:
        return path, -1 if skip == -1 else end + skip
    beside = path.parent / str(name)
    if not str(name).strip() or str(name) != beside.name or "%" in beside.name or beside.name.startswith("LIST"):
        raise InputError("the NRRD header names its data by a path or a list: expected one file in the same folder")
    if not beside.is_file() or beside.resolve().parent != path.parent.resolve():
        raise InputError("the data file of the NRRD header is not in its folder; copy it there")
    return beside, skip


def _stated(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what key and value pairs say of modality and unit."""
    said = {"Modality": fields.get("Modality"), "Unit": str(fields.get("sample units", "")).strip('" ')}
    return {key: value for key, value in said.items() if value}
