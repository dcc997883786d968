"""Which files a study holds follows --export, and every registered writer keeps its role."""

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

import medinterp
from medinterp import registry
from medinterp.app import Study
from medinterp.export.contents import StudyContents, Writer
from medinterp.export.drawn import draw_maps
from medinterp.testing.writer_conformance import WRITER_CHECKS
from tests.integration.scans import write_scan

_TARGET = "sphere:3,-4,2,5"
_ALWAYS = {"clusters.tsv", "dataset_description.json", "run.json"}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan(tmp_path_factory.mktemp("scan") / "doe_jane_19700101.nii.gz")


@pytest.fixture(scope="module")
def usual(scan: Path) -> Study:
    return medinterp.run(scan, scan.parent / "usual", targets=(_TARGET,))


@pytest.fixture
def contents(usual: Study) -> StudyContents:
    return StudyContents(usual.result, usual.facts, tuple(draw_maps(usual.result)))


def test_a_nifti_scan_gets_the_usual_files(usual: Study) -> None:
    assert names_in(usual.folder) == {*_ALWAYS, "nifti", "slicer", "dicom", "report.html"}
    objects = {"scan-denoised", "scan-inputxgradient-mean"}
    objects |= {f"scan-inputxgradient-mean-{what}.dcm" for what in ("pm", "clusters")}
    assert names_in(usual.folder / "dicom") == objects


def test_a_dicom_scan_also_gets_its_numbers_as_a_report_and_the_clusters_outlines(usual: Study, tmp_path: Path) -> None:
    series = usual.folder / "dicom" / "scan-denoised"
    study = medinterp.run(series, tmp_path / "out", targets=(_TARGET,)).folder
    assert {"scan-measurements.dcm", "scan-inputxgradient-mean-contours.dcm"} <= names_in(study / "dicom")
    assert not [note for note in json.loads((study / "run.json").read_text())["notes"] if "presentation" in note]


def test_only_what_was_chosen_is_written_and_the_record_says_so(scan: Path, tmp_path: Path) -> None:
    study = medinterp.run(scan, tmp_path / "out", targets=(_TARGET,), export="slicer")
    assert names_in(study.folder) == {*_ALWAYS, "slicer"}
    assert json.loads((study.folder / "run.json").read_text())["parameters"]["export"] == "slicer"
    assert "slicer" in study.summary()
    assert "report.html" not in study.summary()


def test_a_scene_made_alone_has_the_bytes_of_one_that_copies_the_nifti_files(
    scan: Path, usual: Study, tmp_path: Path
) -> None:
    alone = medinterp.run(scan, tmp_path / "out", targets=(_TARGET,), export="slicer").folder
    for path in (alone / "slicer" / "scan").glob("*.nii.gz"):
        beside = usual.folder / "slicer" / "scan" / path.name
        # descriptions differ (each says what its file is for), the voxels must not
        assert path.stat().st_size > 352
        assert read_voxels(path) == read_voxels(beside), path.name


def read_voxels(path: Path) -> bytes:
    import nibabel

    return nibabel.load(path).get_fdata().tobytes()


def leave_a_mark(contents: StudyContents, folder: Path) -> list[str]:
    (folder / "mark.txt").write_text(", ".join(contents.result.inputs))
    return ["a mark is all that was left"]


def test_a_plug_in_is_chosen_by_name_and_its_note_is_told(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = registry._declared
    mine = EntryPoint("mark", f"{__name__}:leave_a_mark", "medinterp.writers")
    monkeypatch.setattr(
        registry, "_declared", lambda group: EntryPoints([*real(group), *([mine] if group == mine.group else [])])
    )
    study = medinterp.run(scan, tmp_path / "out", targets=(_TARGET,), export="report,mark").folder
    assert (study / "mark.txt").read_text() == "scan"
    assert json.loads((study / "run.json").read_text())["notes"] == ["a mark is all that was left"]
    assert "a mark is all that was left" in (study / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("check", WRITER_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", registry.names("writers"))
def test_every_registered_writer_conforms(
    name: str, check: Callable[..., None], contents: StudyContents, tmp_path: Path
) -> None:
    check(registry.load("writers", name), contents, tmp_path)


def test_the_checks_catch_a_writer_that_is_silent_or_tells_the_source(contents: StudyContents, tmp_path: Path) -> None:
    def silent(contents: StudyContents, folder: Path) -> list[str]:
        return []

    def telling(contents: StudyContents, folder: Path) -> list[str]:
        (folder / contents.result.inputs["scan"].scan.provenance.source.paths[0].name).write_text("x")
        return []

    def changing(contents: StudyContents, folder: Path) -> list[str]:
        folder.mkdir(exist_ok=True)
        (folder / f"{len(list(folder.parent.rglob('*')))}.txt").write_text("x")
        return []

    wrong: dict[str, Writer] = {"writes_files": silent, "source": telling, "twice": changing}
    for number, (words, writer) in enumerate(wrong.items()):
        (check,) = [c for c in WRITER_CHECKS if words in c.__name__]
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(AssertionError):
            check(writer, contents, folder)
