"""Stored DICOM pixels become values: decoding, rescale slice by slice, padding set aside."""

import filecmp
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from medinterp.errors import InputError, UnsupportedSeries
from medinterp.io.dicom_headers import DicomFile, Plane, damage, refuse_deflated
from medinterp.io.dicom_quiet import unquoted
from medinterp.io.source_files import unreadable

# A padding value this far (of the range of the other values) outside them is no measurement; one that blends in is.
PADDING_APART = 0.01
DECODERS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pylibjpeg-rle"


@dataclass(frozen=True, eq=False)
class Values:
    """A stack's values and what was done to get them."""

    voxels: Float32[np.ndarray, "I J K"]
    notes: tuple[str, ...]


def read_values(planes: Sequence[Plane]) -> Values:
    """Decode and rescale planes in the order given: I along a row, J down a column, K along the stack."""
    first = planes[0]
    voxels = np.empty((first.columns, first.rows, len(planes)), dtype=np.float32)
    padded = np.zeros(voxels.shape, dtype=bool)
    for k, stored in enumerate(_stored(planes)):
        plane = planes[k]
        voxels[:, :, k] = (stored * plane.slope + plane.intercept).T  # float64 until it is stored
        padded[:, :, k] = _padding(plane, stored).T
    notes = []
    if len({(plane.slope, plane.intercept) for plane in planes}) > 1:
        notes.append("rescale slope and intercept differ between slices: applied slice by slice")
    if _set_padding_aside(voxels, padded):
        share = 100 * float(padded.mean())
        notes.append(f"padding ({share:.1f} % of the voxels) was set to the smallest measured value")
    return Values(voxels, tuple(notes))


def same_pixels(one: Plane, other: Plane) -> bool:
    """Whether two planes hold the same image, whatever their headers say otherwise."""
    if one.frame == other.frame and filecmp.cmp(one.path, other.path, shallow=False):
        return True
    if (one.rows, one.columns, one.slope, one.intercept) != (other.rows, other.columns, other.slope, other.intercept):
        return False
    first, second = next(_stored([one])), next(_stored([other]))
    return bool(np.array_equal(first, second))


def _stored(planes: Sequence[Plane]) -> Iterator[Shaped[np.ndarray, "rows columns"]]:
    """Yield the stored integers of each plane; a file is decoded once for all neighbours that come from it."""
    for path, members in groupby(planes, key=lambda plane: plane.path):
        group = list(members)
        pixels = _decode(path, group[0])
        for plane in group:
            yield pixels[plane.frame]


@unquoted()
def _decode(path: Path, plane: Plane) -> Shaped[np.ndarray, "frames rows columns"]:
    """Decode all frames of one file.

    Raises:
        UnsupportedSeries: the compression needs a package that is not installed.
        InputError: the pixels are cut off or damaged.
    """
    import pydicom

    try:
        with DicomFile(path) as file:
            dataset = pydicom.dcmread(file, force=True)
        refuse_deflated(dataset.file_meta)
        _name_encoding(dataset)
        pixels = np.asarray(dataset.pixel_array)
    except damage() as error:
        if isinstance(error, OSError) and error.errno is not None:  # without it: pydicom's, for a broken structure
            raise unreadable(error, "a DICOM file") from error
        raise _explain(error, plane) from error
    shape = (-1, plane.rows, plane.columns)
    if pixels.ndim not in (2, 3) or pixels.shape[-2:] != shape[1:]:
        raise InputError(f"decoded pixels of shape {pixels.shape}, but the header says {plane.rows} x {plane.columns}")
    return pixels.reshape(shape)


def _name_encoding(dataset: Any) -> None:
    """State the transfer syntax that a file without preamble was found to have."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" in dataset.file_meta:
        return
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _explain(error: Exception, plane: Plane) -> InputError:
    """Say whether a decoder is missing or the file is damaged; pydicom's own words may quote the header."""
    from pydicom.pixels import get_decoder

    meta = getattr(plane.header, "file_meta", {})
    syntax = meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated:
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            return UnsupportedSeries(
                f"the pixels are compressed ({syntax.name}) and no installed package decodes them: {DECODERS}, "
                "or decompress the files with 'dcmdjpeg' or 'gdcmconv --raw'"
            )
    return InputError(
        f"the pixels of a {plane.columns} x {plane.rows} slice cannot be decoded ({type(error).__name__}): the file is "
        "truncated or damaged; copy it again from its source"
    )


def _padding(plane: Plane, stored: Shaped[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """Return where a plane holds its padding value, or a value of its padding range."""
    low = _as_stored(plane.facts["PixelPaddingValue"], stored.dtype)
    if low is None:
        return np.zeros(stored.shape, dtype=bool)
    high = _as_stored(plane.facts["PixelPaddingRangeLimit"], stored.dtype)
    low, high = sorted((low, low if high is None else high))
    return np.asarray((stored >= low) & (stored <= high))


def _as_stored(value: int | None, dtype: Any) -> int | None:
    """Return a padding value as the pixels' own type; some files write a negative one as a large unsigned one."""
    if value is None:
        return None
    bits = 8 * np.dtype(dtype).itemsize
    number = value % (1 << bits)
    return number - (1 << bits) if np.issubdtype(dtype, np.signedinteger) and number >> (bits - 1) else number


def _set_padding_aside(voxels: Float32[np.ndarray, "I J K"], padded: Bool[np.ndarray, "I J K"]) -> bool:
    """Replace padding that stands apart from the measured values by their minimum, in place; say whether it did."""
    if not padded.any() or padded.all():
        return False
    measured, padding = voxels[~padded], voxels[padded]
    low, high = float(measured.min()), float(measured.max())
    margin = PADDING_APART * (high - low)
    if padding.max() > low - margin and padding.min() < high + margin:
        return False
    voxels[padded] = low
    return True
