"""What every writer of a study must do, ours and plugins': run each check of WRITER_CHECKS on one and a study."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from medinterp.export.contents import StudyContents, Writer
from medinterp.volume import Volume


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def check_it_writes_files_or_says_why_not(writer: Writer, contents: StudyContents, folder: Path) -> None:
    """Something lies in the folder, or a note says why nothing does; notes are sentences."""
    notes = writer(contents, folder)
    assert all(isinstance(note, str) and note for note in notes), f"notes {notes!r}: expected sentences"
    assert _files(folder) or notes, "the writer wrote nothing and gave no note that says why"
    assert all(path.stat().st_size for path in _files(folder)), "an empty file"


def check_file_names_do_not_name_the_source(writer: Writer, contents: StudyContents, folder: Path) -> None:
    """No part of a source's path is in a file name: it may name the patient."""
    writer(contents, folder)
    secrets = [p.name.partition(".")[0] for one in contents.result.inputs.values()
               for p in one.scan.provenance.source.paths]  # fmt: skip
    for path in _files(folder):
        told = [secret for secret in secrets if len(secret) > 4 and secret in path.name]
        assert not told, f"{path.name} holds part of the source's file name"


def check_the_result_is_left_as_it_is(writer: Writer, contents: StudyContents, folder: Path) -> None:
    """No voxel of the result changes."""
    before = [_digest(volume) for volume in _volumes(contents)]
    writer(contents, folder)
    assert [_digest(volume) for volume in _volumes(contents)] == before, "the writer changed voxels of the result"


def check_it_writes_the_same_files_twice(writer: Writer, contents: StudyContents, folder: Path) -> None:
    """Two studies of the same result hold files of the same names."""
    first, second = folder / "first", folder / "second"
    for place in (first, second):
        place.mkdir()
        writer(contents, place)
    names = [sorted(path.relative_to(place).as_posix() for path in _files(place)) for place in (first, second)]
    assert names[0] == names[1], f"{set(names[0]) ^ set(names[1])} are in one of two studies only"


def _volumes(contents: StudyContents) -> list[Volume]:
    maps = [volume for explained in contents.result.explanations for volume in explained.maps.values()]
    return [one.scan for one in contents.result.inputs.values()] + maps


def _digest(volume: Volume) -> str:
    return hashlib.sha256(volume.voxels.tobytes()).hexdigest()


WRITER_CHECKS: tuple[Callable[[Writer, StudyContents, Path], None], ...] = (
    check_it_writes_files_or_says_why_not,
    check_file_names_do_not_name_the_source,
    check_the_result_is_left_as_it_is,
    check_it_writes_the_same_files_twice,
)
