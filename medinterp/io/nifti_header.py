"""What a NIfTI header says about place, size and unit, read so that a lying header does no harm."""

import json
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from medinterp.errors import InputError, UnsupportedSeries
from medinterp.io.source_files import MAX_VOXELS, unreadable
from medinterp.volume import Grid

Form = Literal["qform", "sform"]

# Float32 quaternions and rounded scanner cosines move a corner by up to 1e-4 mm (measured on 20 real files from six
# programs); no two forms that were meant to differ are this close.
FORMS_TOLERANCE_MM = 0.01
MM_OF_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}  # codes of xyzt_units: unknown, metre, mm, micron
DEFLATE_LIMIT = 1032  # no deflate stream expands more
BOMB_RATIO = 200  # scans expand up to 20 times, small masks more; above this only a GiB is inflated
BOMB_BYTES = 1 << 30
SIDECAR_BYTES = 1 << 20
NO_ORIENTATION = (
    "no orientation: the file states none (in NIfTI, qform and sform codes are 0), so left and right are unknown and "
    "DICOM export is refused; the axes are taken as left, anterior, superior with the origin in the middle"
)


def open_image(path: Path) -> Any:
    """Open a NIfTI file without reading its voxels, after comparing what it claims with its size.

    Raises:
        InputError: unreadable, damaged, not NIfTI, or too large to be true.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():  # of a signalling NaN, or an odd extension
            warnings.simplefilter("ignore")
            image = nibabel.load(path)  # type: ignore[no-untyped-call,unused-ignore]
    except OSError as error:
        if error.errno is not None:
            raise unreadable(error, "the NIfTI file") from error
        raise _damaged(error) from error
    except (EOFError, ValueError, TypeError, ArithmeticError, ImageFileError, HeaderDataError, zlib.error) as error:
        raise _damaged(error) from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise InputError("the file is not NIfTI (Analyze 7.5 states no orientation); convert it to NIfTI")
    _refuse_lies(image, path)
    return image


def _damaged(error: Exception) -> InputError:
    return InputError(
        f"the NIfTI file cannot be read ({type(error).__name__}): it is truncated, damaged or not NIfTI; copy it again"
    )


def _refuse_lies(image: Any, path: Path) -> None:
    """Compare the size a header claims with the size of the file before anything is allocated."""
    shape, dtype = [int(n) for n in image.shape], image.get_data_dtype()
    if dtype.fields is not None or dtype.kind == "c":
        raise InputError(f"{'complex' if dtype.kind == 'c' else 'colour'} voxels: expected one real number a voxel")
    if len(shape) < 3 or min(shape) < 1:
        raise InputError(
            f"the NIfTI header claims shape {tuple(shape)}: expected three axes; a single slice is not a volume"
        )
    if int(np.prod(shape[:3], dtype=object)) > MAX_VOXELS:
        raise InputError(
            f"the NIfTI header claims shape {tuple(shape)}: more than {MAX_VOXELS} voxels a volume; crop it"
        )
    claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    data = Path(image.file_map["image"].filename or path)
    try:
        held = data.stat().st_size
    except OSError as error:
        raise unreadable(error, "the image file of a NIfTI pair") from error
    packed = data.name.lower().endswith((".gz", ".bz2", ".zst"))
    limit = held * DEFLATE_LIMIT if packed else held
    if claimed > limit:
        raise InputError(
            f"the NIfTI header claims shape {tuple(shape)}, {claimed} bytes, but the file of {held} bytes cannot hold "
            "them: it is truncated or its header is wrong"
        )
    if packed and claimed > BOMB_BYTES and claimed > held * BOMB_RATIO:
        raise InputError(
            f"the compressed file of {held} bytes would expand to {claimed}, as no scan does; if it is one, store it "
            "uncompressed (.nii)"
        )


@np.errstate(all="ignore")  # what a damaged header gives is checked, not warned about
def place(image: Any, use_form: Form | None) -> tuple[Grid, list[str]]:
    """Return where the voxels are, in mm, and what to note about it.

    Raises:
        UnsupportedSeries: qform and sform disagree and none was chosen, or the chosen one is absent.
    """
    affine, notes = _choose_form(image, use_form)
    code = int(image.header["xyzt_units"]) & 7
    if code not in MM_OF_UNIT:
        raise InputError(f"unknown spatial unit (code {code}) in the NIfTI header: expected metre, mm or micron")
    if MM_OF_UNIT[code] != 1.0:
        affine = np.diag([*[MM_OF_UNIT[code]] * 3, 1.0]) @ affine
        notes.append(f"coordinates were in {'metres' if code == 1 else 'microns'}; converted to mm")
    grid = Grid(_shape(image), affine)
    if not grid.is_orthogonal:
        notes.append(
            "warning: the voxel axes are not perpendicular (sheared, as from a tilted gantry); the shear is kept"
        )
    stated = np.asarray(image.header.get_zooms()[:3], dtype=np.float64) * MM_OF_UNIT[code]
    if not np.allclose(stated, grid.spacing_mm, rtol=1e-3):
        spacings = (" x ".join(f"{mm:.4g}" for mm in spacing) for spacing in (stated, grid.spacing_mm))
        notes.append("warning: the header's pixdim says {} mm, its affine {} mm; the affine is used".format(*spacings))
    return grid, notes


def _choose_form(image: Any, use_form: Form | None) -> tuple[Float64[np.ndarray, "4 4"], list[str]]:
    forms = _forms(image, use_form)
    if use_form is not None:
        if use_form not in forms:
            raise UnsupportedSeries(f"use_form='{use_form}', but that form's code is 0 in this file")
        return forms[use_form], [f"the {use_form} was used, as asked"]
    if not forms:
        return np.asarray(image.header.get_base_affine(), dtype=np.float64), [NO_ORIENTATION]
    if len(forms) == 2:
        shape = _shape(image)
        why = Grid(shape, forms["sform"]).mismatch(Grid(shape, forms["qform"]), FORMS_TOLERANCE_MM)
        if why is not None:
            raise UnsupportedSeries(
                f"qform and sform disagree ({why}), and viewers differ in which they trust; choose one with "
                "--use qform or --use sform (use_form= in Python)"
            )
    return forms.get("sform", forms.get("qform", np.eye(4))), []


def _shape(image: Any) -> tuple[int, int, int]:
    i, j, k = (int(n) for n in image.shape[:3])
    return i, j, k


def _forms(image: Any, use_form: Form | None) -> dict[str, Float64[np.ndarray, "4 4"]]:
    """Return the affines whose codes are set; a broken quaternion matters only when the qform is used."""
    from nibabel.spatialimages import HeaderDataError

    forms: dict[str, Float64[np.ndarray, "4 4"]] = {}
    if int(image.header["sform_code"]) > 0:
        forms["sform"] = np.asarray(image.header.get_sform(), dtype=np.float64)
    if int(image.header["qform_code"]) > 0 and use_form != "sform":
        try:
            forms["qform"] = np.asarray(image.header.get_qform(), dtype=np.float64)
        except (HeaderDataError, ValueError) as error:
            raise UnsupportedSeries(
                "the qform of the NIfTI header is not a rotation; if its sform is right, choose it with --use sform"
            ) from error
    return forms


def sidecar_of(path: Path) -> dict[str, Any]:
    """Return the JSON file beside a NIfTI file (BIDS, dcm2niix, ours), or nothing."""
    name = path.name[: path.name.lower().rindex(".nii")] if ".nii" in path.name.lower() else path.stem
    sidecar = path.with_name(f"{name}.json")
    try:
        if not sidecar.is_file() or sidecar.stat().st_size > SIDECAR_BYTES:
            return {}
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without trailing axes of length 1 beyond the third."""
    sizes = [int(n) for n in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)
