"""The BrainWeb benchmark keeps its protocol, on a stand-in that is never compared with what was published."""

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medinterp.brainweb import CHECK_DB, PERCENT, PHANTOM, PHANTOM_SHAPE, PUBLISHED, bench_brainweb, read_phantom
from medinterp.errors import InputError, ModelError
from medinterp.testing.phantoms import head
from medinterp.volume import Grid


def write_stand_in(path: Path, shape: tuple[int, int, int], spacing_mm: float) -> Path:
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = -spacing_mm * (np.array(shape) - 1) / 2
    values = head("T1", Grid(shape, affine))
    image = nibabel.Nifti1Image((255 * values / values.max()).astype(np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def test_the_stand_in_is_scored_by_the_protocol_and_not_beside_what_was_published(tmp_path: Path) -> None:
    path = write_stand_in(tmp_path / "head.nii.gz", (80, 96, 80), 2.0)
    verdict = bench_brainweb(path)
    gaussian, rician, ours = verdict.rows
    for percent in PERCENT:
        assert abs(gaussian.decibels[percent] + 20 * math.log10(percent / 100)) <= CHECK_DB
        assert ours.decibels[percent] > rician.decibels[percent] + (0.5 if percent == 1 else 2)
        assert rician.similarities[percent] < ours.similarities[percent] < 1
    assert not verdict.is_phantom
    words = verdict.describe()
    assert "cannot be compared" in words
    assert not any(name in words for name in PUBLISHED)


def test_too_few_voxels_to_keep_the_convention_are_refused(tmp_path: Path) -> None:
    path = write_stand_in(tmp_path / "small.nii.gz", (16, 16, 16), 10.0)
    with pytest.raises(ModelError, match=r"instead of 40\.00"):
        bench_brainweb(path)


def test_raw_bytes_are_read_first_axis_fastest(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, PHANTOM_SHAPE, dtype=np.uint8)
    content = values.tobytes(order="F")
    (tmp_path / f"{PHANTOM}.rawb").write_bytes(content)
    (tmp_path / f"{PHANTOM}.rawb.gz").write_bytes(gzip.compress(content, 1))
    for name in (f"{PHANTOM}.rawb", f"{PHANTOM}.rawb.gz"):
        np.testing.assert_array_equal(read_phantom(tmp_path / name), values.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.rawb", b"short", "other than"),
        ("a.rawb.gz", b"no gzip", "cannot be read"),
        ("missing.rawb", None, "cannot be read"),
        ("dark.rawb", bytes(math.prod(PHANTOM_SHAPE)), "from 0 to at most 255"),
    ],
)
def test_what_is_no_phantom_is_refused(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_phantom(tmp_path / name)


def test_the_command_tells_its_progress_and_one_line_of_what_is_wrong(tmp_path: Path) -> None:
    call = [
        sys.executable,
        "-m",
        "medinterp",
        "bench",
        "brainweb",
        "--t1",
        str(tmp_path / "a.rawb"),
        "--progress",
        "json",
    ]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert all(json.loads(line) for line in done.stderr.splitlines() if line.startswith("{"))
    assert done.returncode != 0
    assert len(lines) == 1
    assert "the phantom cannot be read" in lines[0]
