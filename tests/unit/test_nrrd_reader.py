"""NRRD is read where its header says; what our writer wrote comes back bit by bit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medinterp.errors import InputError
from medinterp.io import inspect, read, read_nrrd
from medinterp.io.nrrd import write_nrrd, write_seq_nrrd
from medinterp.testing.dicom_files import oblique_affine
from medinterp.testing.nrrd_cases import nrrd_bytes
from medinterp.volume import Grid, Provenance, Source, Volume


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 20.0)] * 3),
    origin=st.tuples(*[st.floats(-500.0, 500.0)] * 3),
    unit=st.sampled_from(["HU", "a.u.", "mm2/s"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_back_bit_by_bit(shape, spacing, origin, unit, seed, tmp_path: Path) -> None:
    affine = oblique_affine(spacing)
    affine[:3, 3] = origin
    values = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    written = Volume(values, Grid(shape, affine), unit, "MR", Provenance(Source("memory")))
    found = read_nrrd(write_nrrd(written, tmp_path / "x.nrrd", description="test"))
    assert np.array_equal(found.voxels, values)
    assert np.array_equal(found.grid.affine, affine)
    assert (found.unit, found.modality) == (unit, "MR")


def test_a_sequence_is_read_frame_by_frame(tmp_path: Path) -> None:
    grid = Grid((4, 3, 2), oblique_affine())
    values = {name: np.full((1, 4, 3, 2), n, np.float32) for n, name in enumerate(("scan", "denoised"))}
    volumes = {name: Volume(v, grid, "a.u.", "MR", Provenance(Source("memory"))) for name, v in values.items()}
    path = write_seq_nrrd(volumes, tmp_path / "x.seq.nrrd", description="test", index="step")
    with pytest.raises(InputError, match="2 volumes"):
        read(path)
    for n in range(2):
        assert float(read(path, frame=n).voxels.mean()) == n
    assert inspect(path).volumes[0].frames == 2


def test_big_endian_and_padded_raw_files_are_read(tmp_path: Path) -> None:
    header, content = nrrd_bytes(encoding="raw", lines=["byte skip: -1"])
    swapped = np.frombuffer(content, "<i2").astype(">i2").tobytes()
    path = tmp_path / "scan.nrrd"
    path.write_bytes(header.replace(b"little", b"big") + b"something else" + swapped)
    expected = np.frombuffer(content, "<i2").reshape((7, 6, 5), order="F")
    assert np.array_equal(read(path).voxels[0], expected.astype(np.float32))


def test_a_link_out_of_the_folder_is_not_followed_to_the_data(tmp_path: Path) -> None:
    header, content = nrrd_bytes(encoding="raw", lines=["data file: values.raw"])
    (tmp_path / "elsewhere.raw").write_bytes(content)
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "scan.nhdr").write_bytes(header)
    (folder / "values.raw").symlink_to(tmp_path / "elsewhere.raw")
    with pytest.raises(InputError, match="not in its folder"):
        read(folder / "scan.nhdr")


def test_a_nrrd_file_in_a_folder_is_listed_and_read(tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").write_bytes(b"".join(nrrd_bytes()))
    entry = inspect(tmp_path).volumes[0]
    assert (entry.kind, entry.shape, entry.problems) == ("nrrd", (7, 6, 5), ())
    assert read(tmp_path).grid.shape == (7, 6, 5)
