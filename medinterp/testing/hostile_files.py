"""Damaged and lying scan files, made from real ones by a seed: every reader must read or refuse them, and never fail.

A row of ``FORMATS`` is one kind of scan; a reader of another format adds a row. ``damaged`` makes the files of one
case, ``try_reading`` says what a reader made of them, or raises ``ReaderFailed``.
"""

import gzip
import logging
import struct
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.random import Generator

from medinterp import io, registry
from medinterp.errors import MedinterpError
from medinterp.testing import dicom_files
from medinterp.volume import Grid, Provenance, Source, Volume

SECRET: Final = "Phantom^Numbers"  # the patient of every DICOM file here; no message may name them
Files = Mapping[str, bytes]
_LONGEST: Final = 1 << 20
_SHAPE: Final = (5, 4, 3)
_NUMBERS: Final = (0, 1, 2, 3, 4, 7, 8, 16, 64, 127, 128, 255, 256, 512, 1024, 32767, 32768, 65535, 2**31 - 1, 2**31,
                   2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
_FLOATS: Final = (0.0, -0.0, 1.0, -1.0, 1e-38, 1e-300, 1e38, 1e300, float("nan"), float("inf"), float("-inf"))
_TEXTS: Final = (b"", b" ", b"\0", b"-1", b"0", b"1", b"1.5", b"1\\2", b"1\\2\\3\\4\\5\\6\\7", b"NaN", b"inf",
                 b"1e400", b"99999999999999999999", b"\xff\xfe", b"\\\\\\", b"\x1b$B", b"A" * 300,
                 b"../../etc/passwd")  # fmt: skip
_MARKS: Final = (b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0",
                 b"SQ\0\0\xff\xff\xff\xff", b"UN\0\0\xff\xff\xff\xff", b"\xff\xff\xff\xff",
                 b"\n\n", b": ", b":=")  # fmt: skip


class ReaderFailed(AssertionError):
    """A reader neither read nor refused a file, or said what it must not; the message is its traceback."""


@dataclass(frozen=True)
class HostileFormat:
    """One kind of scan to damage.

    Args:
        reader: the registered reader it is for.
        clean: makes the files of a scan that reads, by name.
        opened: the name that is read; empty for the folder itself.
        head: how many bytes at the start of a file are header, where most damage goes.
        change: changes one field of the header and keeps the rest well-formed.
    """

    reader: str
    clean: Callable[[], Files]
    opened: str
    head: int
    change: Callable[[bytes, Generator], bytes]


def damaged(kind: HostileFormat, files: Files, generator: Generator) -> Files:
    """Return the files of a scan with one of them damaged: fields, bytes, length, or all of it."""
    name = str(generator.choice(sorted(files)))
    return {**files, name: damage_one(kind, files[name], generator)}


def damage_one(kind: HostileFormat, content: bytes, generator: Generator) -> bytes:
    """Return the content of one file, damaged; of a packed file the unpacked content, mostly."""
    inside = _unpacked(content) if generator.random() < 0.7 else None
    if inside is not None:
        return gzip.compress(damage_one(kind, inside, generator), 1, mtime=0)
    for _ in range(int(generator.integers(0, 4))):
        content = kind.change(content, generator)
    for _ in range(int(generator.integers(0, 3)) or int(generator.random() < 0.3)):
        content = _change_bytes(content, kind.head, generator)
    return content


def _unpacked(content: bytes) -> bytes | None:
    """Return what is in a gzip file; None where that is nothing, damaged or long."""
    if content[:2] != b"\x1f\x8b":
        return None
    try:
        unpacker = zlib.decompressobj(wbits=31)
        inside = unpacker.decompress(content, _LONGEST)
    except zlib.error:
        return None
    return inside if unpacker.eof else None


def try_reading(kind: HostileFormat, files: Files) -> Literal["read", "refused"]:
    """Write the files, describe them and read them.

    Raises:
        ReaderFailed: anything but a volume or a MedinterpError came of it, a library warned, or a text or a log named
            the patient or the folder.
    """
    with (
        _listening() as logged,
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        path = Path(folder) / kind.opened
        outcome, said = _outcome(path)
        said += [f"{warning.category.__name__}: {warning.message}" for warning in warned]
        if warned or any(secret in text for text in (*said, *logged) for secret in (SECRET, folder)):
            raise ReaderFailed("; ".join([*said, *logged]))
    return outcome


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what is logged, whoever logs it, and keep it off the screen."""
    heard: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in (None, "nibabel.global", "pydicom")]
    before = [one.handlers for one in loggers]
    try:
        for one in loggers:
            one.handlers = [listener]
        yield heard
    finally:
        for one, handlers in zip(loggers, before, strict=True):
            one.handlers = handlers


def _outcome(path: Path) -> tuple[Literal["read", "refused"], list[str]]:
    """Return what became of a path, and everything that was said of it."""
    try:
        said = [io.inspect(path).describe()]
        try:
            volume = io.read(path)
        except MedinterpError as refusal:
            return "refused", [*said, str(refusal)]
        return "read", [*said, *volume.provenance.source.notes]
    except MedinterpError as refusal:
        return "refused", [str(refusal)]
    except Exception as error:  # whatever it is, it is what is looked for
        raise ReaderFailed(traceback.format_exc()) from error


def _change_bytes(content: bytes, head: int, generator: Generator) -> bytes:
    """Flip, overwrite, cut out, repeat, insert or cut off bytes, mostly in the header."""
    reach = max(1, min(head, len(content)) if generator.random() < 0.9 else len(content))
    at, length = int(generator.integers(0, reach)), int(generator.integers(1, 17))
    kind = int(generator.integers(0, 7))
    if kind == 0 and content:
        return content[:at] + bytes([content[at] ^ (1 << int(generator.integers(0, 8)))]) + content[at + 1 :]
    if kind == 1:
        return content[:at] + generator.bytes(length) + content[at + length :]
    if kind == 2:
        return content[:at] + content[at + length :]
    if kind == 3:
        return content[:at] + content[at : at + length] * int(generator.integers(2, 50)) + content[at + length :]
    if kind == 4:
        mark = _MARKS[int(generator.integers(0, len(_MARKS)))]
        return content[:at] + mark + content[at + len(mark) * int(generator.integers(0, 2)) :]
    if kind == 5:
        return content[:at]
    number = _number(int(generator.choice((1, 2, 4, 8))), generator)
    return content[:at] + number + content[at + len(number) :]


def _number(size: int, generator: Generator) -> bytes:
    """Return a number of so many bytes that programs get wrong, in either order of bytes."""
    order = "<" if generator.random() < 0.8 else ">"
    if size in (4, 8) and generator.random() < 0.4:
        with np.errstate(over="ignore"):
            value = np.array(_FLOATS[int(generator.integers(0, len(_FLOATS)))]).astype(f"{order}f{size}")
        return bytes(value.tobytes())
    number = _NUMBERS[int(generator.integers(0, len(_NUMBERS)))] % (1 << (8 * size))
    return number.to_bytes(size, "little" if order == "<" else "big")


def _change_nifti(content: bytes, generator: Generator) -> bytes:
    """Overwrite one number of a NIfTI-1 header."""
    import nibabel

    dtype = nibabel.Nifti1Header.template_dtype
    name = str(generator.choice(list(dtype.names)))
    field, offset = dtype.fields[name][:2]
    size = field.base.itemsize if field.base.kind in "iuf" else 1
    at = offset + size * int(generator.integers(0, max(1, field.itemsize // size)))
    return content[:at] + _number(size, generator) + content[at + size :]


def _change_dicom(content: bytes, generator: Generator) -> bytes:
    """Give one element at the top of a well-formed DICOM file another value, and its right length."""
    found = list(_elements(content))
    if not found:
        return content
    start, value_at, end = found[int(generator.integers(0, len(found)))]
    old, head = content[value_at:end], content[start:value_at]
    numeric = head[4:6] in (b"US", b"SS", b"UL", b"SL", b"FL", b"FD")
    text = _TEXTS[int(generator.integers(0, len(_TEXTS)))]
    value = _number(len(old), generator) if numeric and len(old) in (2, 4, 8) else text
    value += b" " * (len(value) % 2)
    if generator.random() < 0.1:
        return content[:start] + content[end:]
    size = struct.pack("<I" if len(head) == 12 else "<H", len(value))
    return content[:start] + head[: -len(size)] + size + value + content[end:]


def _elements(content: bytes) -> list[tuple[int, int, int]]:
    """Return start, start of value, and end of the elements at the top of an Explicit VR Little Endian file."""
    found, at = [], 132
    while at + 12 <= len(content):
        long = content[at + 4 : at + 6] in (b"OB", b"OW", b"OF", b"SQ", b"UN", b"UT", b"UC", b"UR")
        value_at = at + (12 if long else 8)
        length = int.from_bytes(content[at + 8 : at + 12] if long else content[at + 6 : at + 8], "little")
        if value_at + length > len(content):
            break
        found.append((at, value_at, value_at + length))
        at = value_at + length
    return found


def _change_lines(content: bytes, generator: Generator) -> bytes:
    """Overwrite, repeat or drop one word of a header in lines of text."""
    head, blank, body = content.partition(b"\n\n")
    lines = head.split(b"\n")
    at = int(generator.integers(0, len(lines)))
    words = lines[at].split(b" ")
    words[int(generator.integers(0, len(words)))] = _TEXTS[int(generator.integers(0, len(_TEXTS)))]
    drop, repeat = generator.random(2) < 0.1
    lines[at : at + 1] = [] if drop else [b" ".join(words)] * (2 if repeat else 1)
    return b"\n".join(lines) + blank + body


def _volume() -> Volume:
    voxels = dicom_files.stored_voxels(_SHAPE).astype(np.float32)[None]
    return Volume(voxels, Grid(_SHAPE, dicom_files.oblique_affine()), "a.u.", "MR", Provenance(Source("memory")))


def _nifti(suffix: str) -> Files:
    """Return a NIfTI file in 16-bit integers, as scanners write them: packed, plain, or as a pair."""
    import nibabel

    volume = _volume()
    kind = nibabel.Nifti1Pair if suffix == ".hdr" else nibabel.Nifti1Image
    image = kind(volume.voxels[0].astype(np.int16), volume.grid.affine)
    image.header.set_xyzt_units("mm")
    with tempfile.TemporaryDirectory() as folder:
        image.to_filename(Path(folder) / f"scan{suffix}")
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _nrrd() -> Files:
    from medinterp.io.nrrd import write_nrrd

    with tempfile.TemporaryDirectory() as folder:
        write_nrrd(_volume(), Path(folder) / "scan.nrrd", description="numbers", about={})
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _dicom(*, multiframe: bool) -> Files:
    """Return a classic series of three files, or one enhanced file."""
    voxels, affine = dicom_files.stored_voxels(_SHAPE), dicom_files.oblique_affine()
    made = [dicom_files.enhanced(voxels[None], affine)] if multiframe else dicom_files.series(voxels, affine)
    files = {}
    for number, dataset in enumerate(made):
        with tempfile.TemporaryDirectory() as folder:
            files[f"{number}.dcm"] = dicom_files.save_one(dataset, Path(folder) / "one.dcm").read_bytes()
    return files


FORMATS: Final[Mapping[str, HostileFormat]] = {
    "nifti": HostileFormat("nifti", lambda: _nifti(".nii"), "scan.nii", 352, _change_nifti),
    "nifti_gz": HostileFormat("nifti", lambda: _nifti(".nii.gz"), "scan.nii.gz", 352, _change_nifti),
    "nifti_pair": HostileFormat("nifti", lambda: _nifti(".hdr"), "scan.hdr", 348, _change_nifti),
    "dicom": HostileFormat("dicom", lambda: _dicom(multiframe=False), "", 1200, _change_dicom),
    "enhanced": HostileFormat("dicom", lambda: _dicom(multiframe=True), "0.dcm", 3000, _change_dicom),
    "nrrd": HostileFormat("nrrd", _nrrd, "scan.nrrd", 700, _change_lines),
}


def readable_formats() -> tuple[str, ...]:
    """Return the names of the formats that an installed reader is for."""
    readers = registry.names("readers")
    return tuple(name for name, kind in FORMATS.items() if kind.reader in readers)
