"""Reading NRRD: voxels where the header says, sizes checked against the file before anything is allocated."""

import bz2
import gzip
import logging
import warnings
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from medinterp.errors import InputError
from medinterp.io.left_open import frame_index, kind_of
from medinterp.io.nifti_header import BOMB_BYTES, BOMB_RATIO, DEFLATE_LIMIT
from medinterp.io.nrrd_header import NrrdHeader, read_nrrd_header
from medinterp.io.source_files import BLOCK_BYTES, require_path, sha256_of, unreadable
from medinterp.io.value_range import require_usable_range
from medinterp.volume import Provenance, Source, Volume

logger = logging.getLogger(__name__)

MOST_PER_BYTE: Final = {"raw": 1, "gzip": DEFLATE_LIMIT, "bzip2": 50_000, "ascii": 4}
"""Bytes of values that a byte of the file can stand for at most; of text, "0 " is two bytes for up to eight."""


def read_nrrd(path: str | Path, *, frame: int | None = None) -> Volume:
    """Read a NRRD file where its header says it is.

    Axes without a direction in space count volumes, of which one is chosen. Modality and unit are those that the key
    "Modality" and the sample units of the header state, else the JSON sidecar's, else the values decide, as for NIfTI.

    Args:
        path: .nrrd, or .nhdr with its data file beside it.
        frame: which volume of several, from 0.

    Raises:
        UnsupportedSeries: the header's space does not say where left and right are.
        InputError: damaged, too large to be true, no scan of real numbers, several volumes and none chosen, or values
            beyond single precision.
        NonFiniteInput: NaN or infinity.

    Source:
        "Definition of NRRD File Format", teem.sourceforge.net/nrrd/format.html.
    """
    path = require_path(Path(path))
    header = read_nrrd_header(path)
    index = frame_index(header.frames, frame, "NRRD")
    voxels = _volume(header, _values(header), index or 0)
    require_usable_range(voxels)
    modality, unit, why = kind_of(voxels, header.stated, "the NRRD header or a JSON sidecar")
    notes = [*header.notes, why]
    if index is not None:
        notes.append(f"frame {index} of {header.frames} was read")
    for note in notes:
        logger.log(logging.WARNING if note.startswith("warning") else logging.INFO, "%s", note)
    files = tuple(dict.fromkeys([path, header.data]))
    source = Source("nrrd", sha256_of(files), files, (), tuple(notes))
    return Volume(voxels[None], header.grid, unit, modality, Provenance(source))


def count_nrrd_frames(path: str | Path) -> tuple[tuple[int, int, int], int]:
    """Return the shape of one volume of a NRRD file, and how many it holds; reads the header only."""
    header = read_nrrd_header(require_path(Path(path)))
    return header.grid.shape, header.frames


def _volume(header: NrrdHeader, values: NDArray[Any], index: int) -> Float32[np.ndarray, "I J K"]:
    """Return one volume, its axes in the file's order."""
    stored = values.reshape(header.sizes, order="F")
    others = [axis for axis in range(stored.ndim) if axis not in header.spatial]
    frames = np.moveaxis(stored, others, range(len(others))).reshape(-1, *header.grid.shape)
    with np.errstate(all="ignore"):  # what overflows is infinite, and Volume counts and refuses that
        return np.ascontiguousarray(frames[index], dtype=np.float32)


def _values(header: NrrdHeader) -> NDArray[Any]:
    """Return all stored values."""
    count = int(np.prod(header.sizes, dtype=object))
    wanted = count * header.dtype.itemsize
    try:
        held = header.data.stat().st_size - max(header.offset, 0)
    except OSError as error:
        raise unreadable(error, "the data file of a NRRD header") from error
    if wanted > held * MOST_PER_BYTE[header.encoding]:
        raise InputError(
            f"the NRRD header claims shape {header.sizes}, {wanted} bytes, but the file holds {max(held, 0)}: it is "
            "truncated or its header is wrong"
        )
    if header.encoding in ("gzip", "bzip2") and wanted > BOMB_BYTES and wanted > held * BOMB_RATIO:
        raise InputError(f"the compressed file of {held} bytes would expand to {wanted}, as no scan does; store it raw")
    try:
        if header.encoding == "ascii":
            return _from_text(header, count)
        return np.frombuffer(_unpacked(header, wanted, held), dtype=header.dtype)
    except InputError:
        raise
    except (EOFError, OSError, ValueError, zlib.error) as error:
        why = type(error).__name__
        raise InputError(f"the voxels of the NRRD file cannot be read ({why}): it is truncated or damaged") from error


def _unpacked(header: NrrdHeader, wanted: int, held: int) -> bytes:
    """Return exactly the wanted bytes, and read compressed files to their end, where the checksum is."""
    with header.data.open("rb") as file:
        file.seek(held - wanted if header.offset == -1 else header.offset)
        if header.encoding == "raw":
            content = file.read(wanted)
            if len(content) < wanted:
                raise EOFError
            return content
        opened: Any = gzip.GzipFile(fileobj=file) if header.encoding == "gzip" else bz2.BZ2File(file)
        content = b"".join(iter(lambda: opened.read(BLOCK_BYTES) if opened.tell() < wanted else b"", b""))
        if len(content) < wanted:
            raise EOFError
        if len(content) > wanted or opened.read(1):
            raise InputError("the file goes on beyond the voxels its header tells of; copy it again")
        return bytes(content)


def _from_text(header: NrrdHeader, count: int) -> NDArray[Any]:
    """Return values written as text; what is no number ends them, and too few are an error."""
    with header.data.open("rb") as file:
        file.seek(max(header.offset, 0))
        text = file.read().decode("ascii")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            values = np.fromstring(text.replace(",", " "), dtype=np.float64, sep=" ")
        except DeprecationWarning as error:
            raise ValueError("no numbers") from error
    if values.size != count:
        raise EOFError
    return values
