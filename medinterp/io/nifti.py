"""NIfTI: reading with the geometry checked, writing so that every viewer puts the voxels in the same place."""

import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from medinterp.errors import InputError
from medinterp.io.deflate import gzipped
from medinterp.io.left_open import frame_index, kind_of
from medinterp.io.nifti_header import NO_ORIENTATION, Form, open_image, place, sidecar_of, trimmed
from medinterp.io.source_files import require_path, require_whole_stream, sha256_of
from medinterp.io.value_range import require_usable_range
from medinterp.volume import Grid, Provenance, Source, Volume

logger = logging.getLogger(__name__)

FORM_CODE = 1  # scanner-based coordinates
DESCRIPTION_LENGTH = 79  # of 80 bytes, the last being zero
GEOMETRY_TOLERANCE_MM = 1e-3


def read_nifti(path: str | Path, *, use_form: Form | None = None, frame: int | None = None) -> Volume:
    """Read a NIfTI file where its header says it is; refuse what viewers would place differently.

    The modality is the JSON sidecar's; without one it is "CT" (HU) when the minimum is below -200, at least 1 % of the
    voxels lie between -1100 and -200 and at least 90 % between -1100 and 3100 or at the minimum (padding); else "MR".
    A signed map of MR values in the hundreds passes for CT by this rule: give such files a sidecar with "Modality".

    Args:
        path: .nii, .nii.gz or .hdr with its .img.
        use_form: "qform" or "sform", needed when the two disagree.
        frame: which volume of a 4D file, from 0.

    Raises:
        UnsupportedSeries: qform and sform disagree, or several volumes and none chosen.
        InputError: damaged, too large to be true, no scan of real numbers, or values beyond single precision.
        NonFiniteInput: NaN or infinity.
    """
    path = require_path(Path(path))
    image = open_image(path)
    index = _frame_index(trimmed(image.shape), frame)
    grid, notes = place(image, use_form)
    voxels = _values(image, index)
    require_whole_stream(Path(image.file_map["image"].filename or path), int(image.dataobj.offset) + _bytes(image))
    require_usable_range(voxels)
    modality, unit, why = kind_of(voxels, sidecar_of(path), "the JSON sidecar")
    notes.append(why)
    if index is not None:
        notes.append(f"frame {index} of {trimmed(image.shape)[3]} was read")
    for note in notes:
        logger.log(logging.WARNING if note.startswith("warning") else logging.INFO, "%s", note)
    files = tuple(dict.fromkeys([path, Path(image.file_map["image"].filename or path)]))
    source = Source("nifti", sha256_of(files), files, (), tuple(notes))
    return Volume(voxels[None], grid, unit, modality, Provenance(source))


def count_frames(path: str | Path) -> tuple[tuple[int, int, int], int]:
    """Return the shape of one volume of a NIfTI file, and how many it holds; reads the header only."""
    shape = trimmed(open_image(require_path(Path(path))).shape)
    return (shape[0], shape[1], shape[2]), int(np.prod(shape[3:], dtype=int))


def _frame_index(shape: tuple[int, ...], frame: int | None) -> int | None:
    """Return which volume to read of a 4D file, None of a 3D one."""
    if len(shape) > 4:
        raise InputError(f"a NIfTI file of shape {shape}: expected 3D, or 4D with one volume to choose")
    return frame_index(shape[3] if len(shape) == 4 else 1, frame, "4D NIfTI")


def _values(image: Any, index: int | None) -> Float32[np.ndarray, "I J K"]:
    """Read one volume with its scale slope and intercept applied."""
    extra = (0,) * (len(image.shape) - 3) if index is None else (index, *(0,) * (len(image.shape) - 4))
    where = (slice(None), slice(None), slice(None), *extra)
    try:
        with np.errstate(all="ignore"):  # what overflows is infinite, and Volume counts and refuses that
            voxels = np.asarray(image.dataobj[where])
            return np.asarray(voxels, dtype=np.float32)
    except (EOFError, OSError, OverflowError, ValueError, zlib.error) as error:
        raise InputError(
            f"the voxels of the NIfTI file cannot be read ({type(error).__name__}): it is truncated or damaged; "
            "copy it again"
        ) from error


def _bytes(image: Any) -> int:
    """Return how many bytes the voxels take, uncompressed."""
    return int(np.prod(image.shape, dtype=np.int64)) * int(image.get_data_dtype().itemsize)


def write_nifti(
    volume: Volume, path: Path, *, description: str, sidecar: Mapping[str, Any], signed: bool = False
) -> tuple[Path, ...]:
    """Write one channel as float32 NIfTI-1 with qform equal to sform, and a JSON sidecar beside it.

    The same volume gives the same bytes. A sheared grid has no qform: it gets the sform alone, which ITK refuses
    rather than misplaces.

    Args:
        volume: one channel.
        path: ends in .nii or .nii.gz; names that end in _seg or _label would make viewers show a label map.
        description: what the values are; the first 79 bytes go into the header, all of it into the sidecar.
        sidecar: what else the JSON file should say.
        signed: give the display range as symmetric about zero.

    Returns:
        The NIfTI file and the sidecar.

    Raises:
        InputError: several channels, a bad name, or a grid that NIfTI cannot tell within 1e-3 mm.
    """
    _require_writable(volume, path)
    header = _header(volume, description, signed=signed)
    body = header.binaryblock + bytes(4) + volume.voxels[0].astype("<f4", copy=False).tobytes(order="F")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzipped(body) if path.name.endswith(".gz") else body)
    return path, write_sidecar(volume, path, description=description, sidecar=sidecar)


def write_sidecar(volume: Volume, path: Path, *, description: str, sidecar: Mapping[str, Any]) -> Path:
    """Write the JSON file beside a NIfTI file of the given path, and return its own path."""
    beside = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    said = {"Description": description, "Unit": volume.unit, "Modality": volume.modality, **sidecar}
    beside.write_text(json.dumps(said, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    return beside


def _require_writable(volume: Volume, path: Path) -> None:
    name = path.name.removesuffix(".gz")
    if not name.endswith(".nii"):
        raise InputError(f"a NIfTI file name must end in .nii or .nii.gz, not '{path.suffix}'")
    if name.removesuffix(".nii").lower().endswith(("_seg", "_label")):
        raise InputError("a NIfTI name that ends in _seg or _label is shown as a label map; choose another")
    if volume.voxels.shape[0] != 1:
        raise InputError(f"{volume.voxels.shape[0]} channels: a NIfTI volume holds one; write them one by one")
    if max(volume.grid.shape) > np.iinfo(np.int16).max:
        raise InputError(f"a grid of {volume.grid.shape}: NIfTI-1 holds at most 32767 voxels along an axis")


def _header(volume: Volume, description: str, *, signed: bool) -> Any:
    import nibabel

    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape(volume.grid.shape)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    _set_place(header, volume.grid, known=NO_ORIENTATION not in volume.provenance.source.notes)
    header.set_xyzt_units("mm")
    header.set_intent("estimate" if signed else "none", name=volume.unit.encode("ascii", "replace")[:15].decode())
    header["descrip"] = description.encode("ascii", "replace")[:DESCRIPTION_LENGTH]
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    limit = max(abs(low), abs(high))
    header["cal_min"], header["cal_max"] = (-limit, limit) if signed else (low, high)
    return header


def _set_place(header: Any, grid: Grid, *, known: bool) -> None:
    """Set pixdim, qform and sform, and make sure that what they say is the grid within 1e-3 mm.

    A scan whose file states no orientation stays without one, so that nobody takes our guess for the scanner's word.
    """
    affine: Float64[np.ndarray, "4 4"] = grid.affine
    header["pixdim"][1:4] = grid.spacing_mm
    assumed = Grid(grid.shape, np.asarray(header.get_base_affine(), dtype=np.float64))
    if not known and assumed.mismatch(grid, GEOMETRY_TOLERANCE_MM) is None:
        return
    if grid.is_orthogonal:
        header.set_qform(affine, code=FORM_CODE)
        rounded = np.asarray(header.get_qform(), dtype=np.float64)
        header.set_sform(rounded, code=FORM_CODE)
    else:
        header.set_sform(affine, code=FORM_CODE)
    why = Grid(grid.shape, np.asarray(header.get_best_affine(), dtype=np.float64)).mismatch(grid, GEOMETRY_TOLERANCE_MM)
    if why is not None:
        raise InputError(f"NIfTI cannot tell this grid in the place it is: {why} after rounding; resample it first")
