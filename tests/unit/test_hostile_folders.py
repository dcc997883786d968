"""Folders and files that were made to hang or to fill the memory: refused, or read in bounded time and memory."""

import gzip
import os
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from medinterp import io
from medinterp.errors import InputError
from medinterp.io.dicom_headers import DEFLATED, BoundedReader
from medinterp.io.source_files import list_files
from medinterp.testing import dicom_files as files
from medinterp.testing.hostile_files import FORMATS

_DEPTH = 1500  # beyond Python's limit of nested calls, within the longest path
_MB = 1 << 20


def slices() -> list[Dataset]:
    return files.series(files.stored_voxels((5, 4, 3)), files.oblique_affine())


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Folders in folders, made and removed one by one: the standard library's ways do it by nested calls."""
    made = [tmp_path / "0"]
    for _ in range(_DEPTH):
        made[-1].mkdir()
        made.append(made[-1] / "d")
    yield made[-2]
    for path in reversed(made[:-1]):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def test_a_scan_below_a_thousand_folders_is_found(deep: Path, tmp_path: Path) -> None:
    files.save(slices(), deep)
    assert io.read(tmp_path).grid.shape == (5, 4, 3)


def test_many_files_that_are_no_scans_are_counted_and_passed_over(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}.txt").touch()
    assert any("3000 x file that is not DICOM" in note for note in io.inspect(tmp_path).notes)


def test_links_in_circles_are_left_out(tmp_path: Path) -> None:
    folder = files.save(slices(), tmp_path / "scan")
    (folder / "itself").symlink_to(folder)
    (folder / "above").symlink_to(tmp_path)
    (folder / "one.dcm").symlink_to(folder / "other.dcm")
    (folder / "other.dcm").symlink_to(folder / "one.dcm")
    assert io.read(folder).grid.shape == (5, 4, 3)
    assert list_files(folder).notes == ("links not followed: 2 (they lead out of the folder)",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are made on Linux and macOS")
def test_pipes_in_a_folder_are_never_opened(tmp_path: Path) -> None:
    folder = files.save(slices(), tmp_path)
    os.mkfifo(folder / "0.dcm")
    os.mkfifo(folder / "scan.nii")
    assert io.read(folder).grid.shape == (5, 4, 3)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs the devices of Linux or macOS")
@pytest.mark.parametrize("name", ["pipe.dcm", "pipe.nii", "pipe.nii.gz", "pipe.hdr"])
def test_a_pipe_or_a_device_as_input_is_refused_before_it_is_opened(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / f"zero_{name}").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / f"zero_{name}"):
        with pytest.raises(InputError, match="neither a file nor a folder"):
            io.read(path)
        with pytest.raises(InputError, match="neither a file nor a folder"):
            io.inspect(path)


def test_an_element_that_claims_four_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path = files.save_one(slices()[0], tmp_path / "one.dcm")
    claimed = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 0xFFFFFFF0)
    path.write_bytes(path.read_bytes() + claimed)
    assert peak_mb(lambda: io.inspect(path)) < 50
    with BoundedReader(path) as file:
        assert len(file.read(1 << 62)) == path.stat().st_size


def test_large_private_elements_are_not_kept_with_the_headers(tmp_path: Path) -> None:
    made = slices()
    for one in made:
        one.private_block(0x0029, "TESTS", create=True).add_new(0x10, "OB", bytes(8 * _MB))
    volume = io.read(files.save(made, tmp_path))
    kept = [sum(len(e.value or b"") for e in header.elements() if e.VR == "OB")
            for header in volume.provenance.source.headers]  # fmt: skip
    assert max(kept) < 1000


@pytest.mark.parametrize("length", [0xFFFFFFFF, None])
def test_a_thousand_sequences_in_each_other_are_read_or_refused(length: int | None, tmp_path: Path) -> None:
    nested = b""
    for _ in range(1000):
        if length is None:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(nested)) + nested
            nested = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, len(item)) + item
        else:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, length) + nested + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
            nested = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, length) + item
            nested += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    made = slices()
    for number, one in enumerate(made):
        path = files.save_one(one, tmp_path / f"{number}.dcm")
        content = path.read_bytes()
        pixels = content.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
        path.write_bytes(content[:pixels] + nested + content[pixels:])
    said = io.inspect(tmp_path)
    if said.problems:  # pydicom follows those without a length at once, and Python's stack ends
        assert all("the header is damaged" in problem for problem in said.problems)
    else:
        assert io.read(tmp_path).grid.shape == (5, 4, 3)


def test_a_small_file_that_unpacks_to_much_more_than_its_header_tells_is_refused(tmp_path: Path) -> None:
    (content,) = FORMATS["nifti"].clean().values()
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(content + bytes(64 * _MB), 9))
    assert path.stat().st_size < _MB

    def refused() -> None:
        with pytest.raises(InputError, match="goes on far beyond"):
            io.read(path)

    assert peak_mb(refused) < 50


@pytest.mark.parametrize("preamble", [True, False])
def test_a_deflated_bomb_is_refused_without_inflating_it(preamble: bool, tmp_path: Path) -> None:
    meta = struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", len(DEFLATED)) + DEFLATED.encode()
    packed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packed.compress(bytes(64 * _MB)) + packed.flush()
    path = tmp_path / "bomb.dcm"
    path.write_bytes((bytes(128) + b"DICM" if preamble else b"") + meta + body)
    assert peak_mb(lambda: io.inspect(path, force=not preamble)) < 20
    with pytest.raises(InputError, match=r"deflated transfer syntax is not read|no DICOM scan found"):
        io.read(path, force=not preamble)


def peak_mb(call: object) -> float:
    """Return the most memory that Python objects took during a call."""
    tracemalloc.start()
    try:
        call()  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1] / _MB
    finally:
        tracemalloc.stop()
