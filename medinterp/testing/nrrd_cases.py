"""Files as 3D Slicer, ITK and teem leave them, with what they are known to hold: NRRD."""

import bz2
import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medinterp.testing.dicom_files import oblique_affine, stored_voxels
from medinterp.testing.known_points import Points, Verdict, points_of_grid
from medinterp.testing.reading_cases import MADE, ReadingCase

_AFFINE, _VOXELS = oblique_affine(), stored_voxels()
_TO_RAS = {"left-posterior-superior": (-1, -1, 1), "right-anterior-superior": (1, 1, 1), "LAS": (-1, 1, 1)}
_PACKED: Mapping[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "bzip2": bz2.compress,
    "ascii": lambda content: " ".join(map(str, np.frombuffer(content, "<i2"))).encode(),
}


def nrrd_bytes(
    voxels: np.ndarray = _VOXELS,
    *,
    affine: np.ndarray = _AFFINE,
    space: str | None = "left-posterior-superior",
    encoding: str = "gzip",
    lines: Sequence[str] = (),
    without: Sequence[str] = (),
    scale: float = 1.0,
) -> tuple[bytes, bytes]:
    """Return header and packed values of a NRRD file of 16-bit integers.

    Args:
        voxels: (I, J, K), or (T, I, J, K) with the frames along the fastest axis.
        affine: where they are, RAS mm.
        space: its name; None for a file that states spacings only.
        encoding: "raw", "gzip", "bzip2" or "ascii".
        lines: further header lines.
        without: fields to leave out.
        scale: units of space in a millimetre.
    """
    flip = np.array(_TO_RAS.get(space or "", (1, 1, 1))) * scale
    vectors = [f"({','.join(repr(float(x)) for x in affine[:3, axis] * flip)})" for axis in range(4)]
    more = ["none"] * (voxels.ndim - 3)
    header = {
        "type": "short", "dimension": str(voxels.ndim), "sizes": " ".join(map(str, voxels.shape)),
        "encoding": encoding, "endian": "little",
    }  # fmt: skip
    if space is None:
        header["spacings"] = " ".join(repr(float(mm)) for mm in np.linalg.norm(affine[:3, :3], axis=0))
    else:
        header |= {"space": space, "space directions": " ".join([*more, *vectors[:3]]), "space origin": vectors[3]}
    said = [f"{key}: {value}" for key, value in header.items() if key not in without]
    content = _PACKED[encoding](voxels.astype("<i2").tobytes(order="F"))
    return ("\n".join(["NRRD0005", *said, *lines]) + "\n\n").encode(), content


def _file(
    change: Callable[[bytes, bytes], bytes] = lambda header, content: header + content,
    holds: Sequence[Points] | None = None,
    **options: Any,
) -> Callable[[Path], MADE]:
    def make(folder: Path) -> MADE:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "scan.nrrd"
        path.write_bytes(change(*nrrd_bytes(**options)))
        place = options.get("affine", _AFFINE)
        return path, [points_of_grid(options.get("voxels", _VOXELS), place)] if holds is None else holds

    return make


def _detached(name: str, *, elsewhere: bool = False) -> Callable[[Path], MADE]:
    def make(folder: Path) -> MADE:
        (folder / "in").mkdir(parents=True, exist_ok=True)
        header, content = nrrd_bytes(encoding="raw", lines=[f"data file: {name}"])
        (folder / "in" / "scan.nhdr").write_bytes(header)
        (folder / ("." if elsewhere else "in") / "values.raw").write_bytes(content)
        return folder / "in" / "scan.nhdr", [points_of_grid(_VOXELS, _AFFINE)]

    return make


def _spacings_only() -> np.ndarray:
    """Return where nibabel would put a file without orientation, which stands for "unknown, and said so"."""
    steps = np.diag([*(np.linalg.norm(_AFFINE[:3, :3], axis=0) * (-1, 1, 1)), 1.0])
    steps[:3, 3] = -steps[:3, :3] @ ((np.array(_VOXELS.shape) - 1) / 2)
    return steps


_FRAMES = np.stack([_VOXELS, _VOXELS + 5])
_BOTH = [points_of_grid(one, _AFFINE) for one in _FRAMES]
_SHEARED = _AFFINE @ np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
_UNKNOWN = [points_of_grid(_VOXELS, _spacings_only())]
_NOTED, _REFUSED = Verdict.NOTED, Verdict.REFUSED


def _case(name: str, make: Callable[[Path], MADE], expected: Verdict, words: str = "", **how: Any) -> ReadingCase:
    return ReadingCase(name, make, expected, words, kind="NRRD", **how)


NRRD_CASES: tuple[ReadingCase, ...] = (
    _case("left-posterior-superior, gzip", _file(), _NOTED, "does not state the modality"),
    _case("right-anterior-superior, raw", _file(space="right-anterior-superior", encoding="raw"), _NOTED),
    _case("LAS, bzip2", _file(space="LAS", encoding="bzip2"), _NOTED),
    _case("ascii", _file(encoding="ascii"), _NOTED),
    _case("modality and unit as keys", _file(lines=["Modality:=CT"]), _NOTED, "states it"),
    _case("micrometres", _file(scale=1000.0, lines=['space units: "um" "um" "um"']), _NOTED, "converted to mm"),
    _case("sheared", _file(affine=_SHEARED), _NOTED, "not perpendicular"),
    _case("spacings without a space", _file(space=None, holds=_UNKNOWN), _NOTED, "DICOM export is refused"),
    _case("a space without left and right", _file(space="scanner-xyz"), _REFUSED, "left and right"),
    _case("no origin", _file(without=["space origin"], holds=_UNKNOWN), _REFUSED, "no origin"),
    _case("two volumes", _file(voxels=_FRAMES, lines=["kinds: list domain domain domain"], holds=_BOTH),
          _REFUSED, "2 volumes"),
    _case("two volumes, one chosen", _file(voxels=_FRAMES, lines=["kinds: list domain domain domain"], holds=_BOTH[1:]),
          _NOTED, options={"frame": 1}),
    _case("colour", _file(voxels=np.stack([_VOXELS] * 3), lines=["kinds: RGB-color domain domain domain"], holds=[]),
          _REFUSED, "colour", ours_alone=True),
    _case("header and data apart", _detached("values.raw"), _NOTED),
    _case("data by a path out of the folder", _detached("../values.raw", elsewhere=True), _REFUSED, "same folder"),
    _case("no byte order", _file(without=["endian"], holds=[]), _REFUSED, "byte order"),
    _case("truncated", _file(lambda header, content: header + content[:-40], holds=[]), _REFUSED, "truncated"),
    _case("truncated, raw", _file(lambda header, content: header + content[:-40], encoding="raw", holds=[]), _REFUSED),
    _case("header cut", _file(lambda header, content: header[:60], holds=[]), _REFUSED, "cut off"),
    _case("header claims 30000 voxels an axis", _file(
        lambda header, content: header.replace(b"sizes: 7 6 5", b"sizes: 30000 30000 30000") + content, holds=[]),
        _REFUSED, "claims"),
    _case("compressed file that goes on and on",
          _file(lambda header, content: header + gzip.compress(gzip.decompress(content) + bytes(32 << 20))),
          _REFUSED, "goes on"),
)  # fmt: skip
"""NRRD files."""
