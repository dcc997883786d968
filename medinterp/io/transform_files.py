"""Transform files: ITK's .tfm and .h5 (LPS, from reference to scan), written as .tfm; 4x4 matrices as text (RAS)."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from medinterp.errors import InputError
from medinterp.io.source_files import require_path
from medinterp.volume.provenance import Step
from medinterp.volume.transform import Transform

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
_ITK_SUFFIXES = (".tfm", ".h5", ".hdf5", ".hdf", ".xfm", ".mat")
_ITK_TEXT = "#Insight Transform"


def read_transform(path: Path) -> Transform:
    """Read the transform that brings a scan onto the reference (the first input).

    Two conventions, told apart by the file:

    - ITK's transform files (SimpleITK, ANTs, 3D Slicer's "save as .tfm/.h5") hold the map from points of the reference
      to points of the scan, in LPS mm.
    - A text file with a 4x4 matrix holds the map that *moves the scan* onto the reference, in RAS mm: what 3D Slicer
      shows in its Transforms module for the transform under which the scan lies.

    Raises:
        InputError: there is no such file, it is neither of these, or the transform is not affine.
    """
    path = require_path(path)
    if not path.is_file():
        raise InputError("a transform that is a folder; expected a file: .tfm, .h5 or a text with a 4x4 matrix")
    if path.suffix.lower() in _ITK_SUFFIXES or _begins_as_itk(path):
        matrix, kind = itk_matrix(_read_itk(path)), "ITK transform file"
    else:
        matrix, kind = np.linalg.inv(_checked(_read_matrix(path))), "4x4 matrix"
    return Transform(matrix, Step("given transform", {"file": kind, "matrix_ras_mm": matrix.tolist()}))


def write_transform(transform: Transform, path: Path) -> Path:
    """Write a transform as ITK text (.tfm): what 3D Slicer, ANTs and SimpleITK load, and ``read_transform`` reads.

    The map goes from points of the reference to points of the scan, LPS mm; 17 digits, so nothing is lost.
    """
    matrix = _FLIP @ transform.matrix @ _FLIP
    numbers = " ".join(f"{value:.17g}" for value in (*matrix[:3, :3].ravel(), *matrix[:3, 3]))
    path.write_text(
        f"{_ITK_TEXT} File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\nParameters: {numbers}\n"
        "FixedParameters: 0 0 0\n",
        encoding="ascii",
    )
    return path


def itk_matrix(transform: Any) -> Float64[np.ndarray, "4 4"]:
    """Return a linear SimpleITK transform as a matrix in RAS mm; its own points are LPS.

    Raises:
        InputError: the transform bends space.
    """
    if transform.GetDimension() != 3 or not transform.IsLinear():
        raise InputError(
            f"a transform of {transform.GetDimension()} dimensions named {transform.GetName()}: expected a rigid or "
            "affine one in 3D; deformations would change the voxels' shape and are not taken"
        )
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    for axis in range(3):  # by a long base, so that rounding does not matter
        point = np.zeros(3)
        point[axis] = 1000.0
        matrix[:3, axis] = (np.array(transform.TransformPoint(point.tolist())) - origin) / 1000.0
    return np.asarray(_FLIP @ matrix @ _FLIP)


def _begins_as_itk(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_ITK_TEXT)) == _ITK_TEXT.encode()


def _read_itk(path: Path) -> Any:
    import SimpleITK as sitk  # noqa: N813 - slow to import, and reading scans must stay fast

    try:
        return sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(
            "a transform file that ITK cannot read; expected .tfm or .h5 as 3D Slicer, ANTs or SimpleITK write them"
        ) from error


def _read_matrix(path: Path) -> Float64[np.ndarray, "rows columns"]:
    try:
        return np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError("a transform file that is no matrix; expected four lines of four numbers, or .tfm") from error


def _checked(matrix: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "4 4"]:
    return Transform(matrix).matrix
