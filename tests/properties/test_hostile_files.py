"""Whatever is damaged or lies in a header, a volume or a MedinterpError comes of it; the command line stays calm."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from medinterp import io
from medinterp.cli import app
from medinterp.testing.hostile_files import FORMATS, ReaderFailed, damage_one, damaged, readable_formats, try_reading

_SEEDS = st.integers(0, 2**32 - 1)
_CLEAN = {name: kind.clean() for name, kind in FORMATS.items()}


@pytest.mark.parametrize("name", readable_formats())
def test_the_scan_that_is_damaged_here_reads_while_it_is_whole(name: str) -> None:
    assert try_reading(FORMATS[name], _CLEAN[name]) == "read"


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(seed=_SEEDS)
def test_a_damaged_scan_is_read_or_refused_and_never_anything_else(name: str, seed: int) -> None:
    assert try_reading(FORMATS[name], damaged(FORMATS[name], _CLEAN[name], np.random.default_rng(seed)))


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(content=st.binary(max_size=600))
def test_any_bytes_under_the_name_of_a_scan_are_read_or_refused(name: str, content: bytes) -> None:
    first = min(_CLEAN[name])
    prefix = _CLEAN[name][first][: len(content) // 2]  # so that half of it looks like one
    assert try_reading(FORMATS[name], {**_CLEAN[name], first: prefix + content})


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=10)
@given(seed=_SEEDS)
def test_the_command_line_never_shows_a_traceback(name: str, seed: int) -> None:
    files = damaged(FORMATS[name], _CLEAN[name], np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        done = CliRunner().invoke(app, ["inspect", str(Path(folder) / FORMATS[name].opened)])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_seed_damages_the_same_bytes(name: str) -> None:
    kind, content = FORMATS[name], next(iter(_CLEAN[name].values()))
    once, again = (damage_one(kind, content, np.random.default_rng(7)) for _ in range(2))
    assert once == again


def test_the_harness_sees_a_reader_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise KeyError("not on purpose")

    monkeypatch.setattr(io, "read", fail)
    with pytest.raises(ReaderFailed, match="not on purpose"):
        try_reading(FORMATS["nifti"], _CLEAN["nifti"])
