"""Files as converters and toolboxes leave them, with what they are known to hold: NIfTI."""

import gzip
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medinterp.testing.dicom_files import oblique_affine, stored_voxels
from medinterp.testing.known_points import Points, Verdict, points_of_grid
from medinterp.testing.reading_cases import MADE, ReadingCase

_AFFINE, _VOXELS = oblique_affine(), stored_voxels()
_SHIFTED = _AFFINE + np.array([[0, 0, 0, 2.0]] + 3 * [[0, 0, 0, 0]])
_SHEARED = _AFFINE @ np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
_LEFT_HANDED = _AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
_SHAPE, _DATATYPE, _PIXDIM, _SLOPE, _CODES = 42, 70, 80, 112, 252  # offsets in a NIfTI-1 header


def _file(
    name: str = "scan.nii",
    *,
    voxels: np.ndarray = _VOXELS,
    qform: np.ndarray | None = _AFFINE,
    sform: np.ndarray | None = _AFFINE,
    holds: Sequence[Points] | None = None,
    change: Callable[[Path], None] = lambda path: None,
    kind: Any = nibabel.Nifti1Image,
) -> Callable[[Path], MADE]:
    """Return a maker of one file; it holds these voxels at the sform, or the qform, unless told otherwise.

    Without both their place is unknown: then it counts as where nibabel puts them, if the reader says so.
    """

    def make(folder: Path) -> MADE:
        folder.mkdir(parents=True, exist_ok=True)
        image = kind(voxels, _AFFINE)
        image.set_qform(qform, 0 if qform is None else 1)
        image.set_sform(sform, 0 if sform is None else 1)
        image.header.set_xyzt_units("mm")
        image.to_filename(folder / name)
        change(folder / name)
        if holds is not None:
            return folder / name, holds
        place = sform if sform is not None else image.header.get_best_affine() if qform is None else qform
        return folder / name, [points_of_grid(voxels, place)]

    return make


def _patched(offset: int, content: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[offset : offset + len(content)] = content
        path.write_bytes(bytes(data))

    return change


def _cut(kept: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:kept])

    return change


def _in_microns(folder: Path) -> MADE:
    folder.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(_VOXELS, np.diag([1000.0, 1000, 1000, 1]) @ _AFFINE)
    image.header.set_xyzt_units("micron")
    image.to_filename(folder / "scan.nii")
    return folder / "scan.nii", [points_of_grid(_VOXELS, _AFFINE)]


def _big_endian(folder: Path) -> MADE:
    folder.mkdir(parents=True, exist_ok=True)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nibabel.Nifti1Image(_VOXELS.astype(">i2"), _AFFINE, header)
    image.to_filename(folder / "scan.nii")
    return folder / "scan.nii", [points_of_grid(_VOXELS, _AFFINE)]


def _beside(content: dict[str, str]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.with_name("scan.json").write_text(json.dumps(content))

    return change


def _bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(32 << 20)))


_NAN = _VOXELS.astype(np.float32)
_NAN[0, 0, :2] = np.nan
_FOUR = np.stack([_VOXELS, _VOXELS + 5], axis=-1)
_BOTH = [points_of_grid(_VOXELS, _AFFINE), points_of_grid(_VOXELS + 5, _AFFINE)]
_FORMS = [points_of_grid(_VOXELS, _AFFINE), points_of_grid(_VOXELS, _SHIFTED)]
_ONE = [points_of_grid(_VOXELS, _AFFINE)]
_RGB = np.zeros(_VOXELS.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
_NOTED, _REFUSED = Verdict.NOTED, Verdict.REFUSED


def _case(
    name: str,
    make: Callable[[Path], MADE],
    expected: Verdict,
    words: str = "",
    *,
    alone: bool = False,
    **options: Any,
) -> ReadingCase:
    return ReadingCase(name, make, expected, words, options, "NIfTI", alone)


NIFTI_CASES: tuple[ReadingCase, ...] = (
    _case(".nii", _file(), _NOTED),
    _case(".nii.gz", _file("scan.nii.gz"), _NOTED),
    _case("modality not stated", _file(), _NOTED, "does not state the modality"),
    _case(".hdr and .img", _file("scan.hdr", kind=nibabel.Nifti1Pair), _NOTED),
    _case("NIfTI-2", _file(kind=nibabel.Nifti2Image), _NOTED),
    _case("big-endian", _big_endian, _NOTED),
    _case("left-handed axes", _file(qform=_LEFT_HANDED, sform=_LEFT_HANDED), _NOTED),
    _case("qform and sform 2 mm apart", _file(sform=_SHIFTED, holds=_FORMS), _REFUSED, "corners up to 2 mm"),
    _case("the same, qform chosen", _file(sform=_SHIFTED, holds=_ONE), _NOTED, use_form="qform"),
    _case("no orientation", _file(qform=None, sform=None), _NOTED, "DICOM export is refused"),
    _case("qform only", _file(sform=None), _NOTED),
    _case("sform only", _file(qform=None), _NOTED),
    _case("sheared sform", _file(qform=None, sform=_SHEARED), _NOTED, "not perpendicular"),
    _case("stale pixdim", _file(qform=None, change=_patched(_PIXDIM, struct.pack("<f", 7.0))), _NOTED, "pixdim"),
    _case("micrometres", _in_microns, _NOTED, "converted to mm"),
    _case("slope and intercept", _file(change=_patched(_SLOPE, struct.pack("<ff", 0.5, -3.0)),
                                       holds=[points_of_grid(_VOXELS * 0.5 - 3, _AFFINE)]), _NOTED),
    _case("4D", _file(voxels=_FOUR, holds=_BOTH), _REFUSED, "2 volumes"),
    _case("4D, a frame chosen", _file(voxels=_FOUR, holds=_BOTH[1:]), _NOTED, frame=1),
    _case("a trailing axis of one", _file(voxels=_VOXELS[..., None], holds=_ONE), _NOTED),
    _case("2D", _file(voxels=_VOXELS[:, :, 0], holds=[]), _REFUSED, "three axes", alone=True),
    _case("int64", _file(voxels=_VOXELS.astype(np.int64), kind=lambda v, a: nibabel.Nifti1Image(v, a, dtype=np.int64)),
          _NOTED),
    _case("colour", _file(voxels=_RGB, holds=[]), _REFUSED, "colour", alone=True),
    _case("complex", _file(voxels=_VOXELS.astype(np.complex64), holds=[]), _REFUSED, "complex", alone=True),
    _case("NaN", _file(voxels=_NAN, holds=[]), _REFUSED, "2 of 210", alone=True),
    _case("header claims 30000 voxels an axis",
          _file(change=_patched(_SHAPE, struct.pack("<3h", 30000, 30000, 30000)), holds=[]), _REFUSED, "claims"),
    _case("negative axis", _file(change=_patched(_SHAPE, struct.pack("<3h", -7, 6, 5)), holds=[]), _REFUSED),
    _case("unknown data type", _file(change=_patched(_DATATYPE, struct.pack("<h", 77)), holds=[]), _REFUSED),
    _case("truncated", _file(change=_cut(400), holds=[]), _REFUSED, "truncated|cannot be read"),
    _case("truncated, compressed", _file("scan.nii.gz", change=_cut(200), holds=[]), _REFUSED),
    _case("compressed file that goes on and on", _file("scan.nii.gz", change=_bomb, holds=_ONE), _REFUSED),
)  # fmt: skip
"""NIfTI files; every row of the expected behaviour of NIfTI."""
