"""What the Slicer module asks of the command line, how it runs it, and what it finds in a study; without Slicer."""

import ast
import json
import signal
import sys
import time
from pathlib import Path

import pytest
import typer

import medinterp
from medinterp.cli import app
from tests.integration.scans import write_scan
from tests.slicer_library import FOLDER, importable

importable()
import MedInterpLib.process as process_module  # noqa: E402
from MedInterpLib.command import PLACES, Question, QuestionError, find_program, sphere_target, voxel_target  # noqa: E402
from MedInterpLib.process import Line, Process, Progress, parse_line  # noqa: E402
from MedInterpLib.study import StudyError, read_study  # noqa: E402

HERE = {"scan": Path("scan.nii.gz")}, Path("study")


@pytest.mark.parametrize("whole", [True, False])
def test_the_command_line_understands_every_argument(whole):
    options = {"bundle": "mri_denoise", "halo": 8, "seed": 3, "max_memory_gb": 2.5, "whole": whole}
    target = sphere_target((1.5, -2.0, 1e-7), 4)
    question = Question(*HERE, target, ("saliency", "occlusion:window_mm=8"), "contrast", **options)
    name, *arguments = question.arguments()
    command = typer.main.get_command(app).commands[name]
    found = command.make_context(name, list(arguments)).params
    assert found["targets"] == ["sphere:1.5,-2,0,4"]
    assert found["methods"] == ["saliency", "occlusion:window_mm=8"]
    assert (found["measure"], found["bundle"], found["halo"], found["seed"]) == ("contrast", "mri_denoise", 8, 3)
    assert (found["max_memory_gb"], found["progress"].value, found["output"]) == (2.5, "json", "study")


@pytest.mark.parametrize("place", PLACES)
def test_several_scans_are_fused_whole_and_brought_together_as_asked(place):
    scans = {"scan": Path("a.nii.gz"), "second": Path("b.nii.gz")}
    name, *arguments = Question(scans, Path("study"), "auto", place=place, ledger=True).arguments()
    command = typer.main.get_command(app).commands[name]
    found = command.make_context(name, list(arguments)).params
    assert name == "run"
    assert found["inputs"] == ["scan=a.nii.gz", "second=b.nii.gz"]
    assert found["ledger"]
    assert found["resample"] == (place == "as they lie")
    assert (found["register"] and found["register"].value) == (None if place == "as they lie" else place)


def test_an_unknown_place_or_no_scan_is_refused():
    several = {"scan": Path("a"), "second": Path("b")}
    with pytest.raises(QuestionError, match="choose rigid, affine, as they lie"):
        Question(several, Path("study"), "auto", place="there").arguments()
    with pytest.raises(QuestionError, match="choose a scan"):
        Question({}, Path("study"), "auto").arguments()


@pytest.mark.parametrize("radius", [0, -1, float("nan")])
def test_a_sphere_needs_a_radius(radius):
    with pytest.raises(QuestionError, match="radius above 0"):
        sphere_target((0, 0, 0), radius)


def test_a_point_outside_of_all_numbers_is_refused():
    with pytest.raises(QuestionError, match="inside the scan"):
        voxel_target((0, float("inf"), 0))


def test_a_question_without_a_method_is_refused():
    with pytest.raises(QuestionError, match="at least one method"):
        Question(*HERE, "auto", ()).arguments()


def test_a_program_that_is_not_there_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "")
    for chosen, said in (("", "no program 'medinterp' is on the path"), ("/no/such", "'/no/such' is no program")):
        with pytest.raises(QuestionError, match=f"{said}: install medinterp"):
            find_program(chosen)
    assert find_program(sys.executable) == sys.executable


def test_lines_of_progress_are_told_from_others():
    event = {"stage": "explain", "done": 1, "total": 2, "detail": "lrp"}
    assert parse_line(json.dumps(event)) == Progress("explain", 1, 2, "lrp")
    for text in ("", "12", "[1]", '{"stage": 1}', "medinterp: error: no"):
        assert parse_line(text) == Line(text)


def test_everything_that_a_process_says_arrives_with_its_exit_code():
    event = json.dumps({"stage": "a", "done": 0, "total": 1, "detail": ""})
    script = "import sys; print('out'); print(sys.argv[1], file=sys.stderr); sys.exit(4)"
    said, ended = Process([sys.executable, "-c", script, event]).wait()
    assert ended == 4
    assert set(said) == {Line("out"), Progress("a", 0, 1, "")}


def test_a_cancelled_run_leaves_nothing_and_ends_its_children(tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", shape=(48, 48, 48))
    question = Question({"scan": scan}, tmp_path / "study", "sphere:0,0,0,6", ("occlusion:window_mm=2",))
    process = Process([sys.executable, "-m", "medinterp", *question.arguments()])
    said = []
    while not any(isinstance(one, Progress) and one.stage == "explain" for one in said):
        new, code = process.poll()
        said += new
        assert code is None, said
        time.sleep(0.05)
    begun = time.monotonic()
    process.cancel()
    asked_for_s = time.monotonic() - begun
    assert process.running
    said, code = process.wait()
    assert code == 130
    assert process.cancelled
    assert asked_for_s < 1.0, "control: cancelling waited for the end"  # sending a signal takes microseconds
    assert {path.name for path in tmp_path.iterdir()} == {"scan.nii.gz"}


def test_a_process_that_does_not_end_when_asked_is_killed_by_a_later_poll(monkeypatch):
    monkeypatch.setattr(process_module, "POLITE_S", 0.3)
    script = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    process = Process([sys.executable, "-c", script])
    while Line("on") not in process.poll()[0]:
        time.sleep(0.05)
    process.cancel()
    assert process.poll()[1] is None
    assert process.wait()[1] == -signal.SIGKILL


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("clusters.tsv", "input\tmap\nt1"),
        ("clusters.tsv", "a\tb\n1\t2"),
        ("slicer/scan/base.json", "[]"),
        ("slicer/scan/base.json", "{"),
        ("slicer/scan/m.json", "{}"),
        ("slicer/scan/m.json", '{"Description": "d", "Unit": "1", "Signed": true, "Limit": "x"}'),
    ],
)
def test_a_damaged_study_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / "slicer" / "scan").mkdir(parents=True)
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "slicer" / "scan" / "base.json").write_text('{"Unit": "a.u."}')
    (tmp_path / name).write_text(content)
    with pytest.raises(StudyError, match=r"write the study again|cannot be read") as refused:
        read_study(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_map_that_failed_a_check_says_so(tmp_path):
    (tmp_path / "slicer" / "scan").mkdir(parents=True)
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "slicer" / "scan" / "base.json").write_text('{"Unit": "a.u."}')
    about = {"Description": "Saliency", "Unit": "1", "Signed": True, "Limit": 1.0, "FailedChecks": ["it is odd"]}
    (tmp_path / "slicer" / "scan" / "m.json").write_text(json.dumps(about))
    assert read_study(tmp_path).doubts == ["scan, Saliency: it is odd"]


def test_a_study_is_read_as_it_was_written(tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", shape=(24, 24, 20))
    options = {"targets": ("sphere:0,0,0,4",), "methods": ("saliency", "input_x_gradient"), "halo": 0, "whole": False}
    medinterp.run(scan, tmp_path / "study", export="slicer", **options)
    study = read_study(tmp_path / "study")
    (scene,) = study.scenes
    assert [one.name for one in scene.overlays] == ["inputxgradient-mean", "saliency-mean"]
    for one in scene.overlays:
        assert one.signed
        assert one.limit > 0
        assert one.path.is_file()
        assert (scene.name, one.name) in study.peaks
    assert scene.base.is_file()
    assert scene.colours["diverging"].is_file()


def test_a_folder_that_is_no_study_for_slicer_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"holds no run\.json"):
        read_study(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(StudyError, match="--export slicer"):
        read_study(tmp_path)


def test_the_module_needs_nothing_that_slicer_lacks():
    allowed = {"slicer", "vtk", "qt", "ctk", "numpy", "MedInterpLib", "SampleData", *sys.stdlib_module_names}
    for path in FOLDER.rglob("*.py"):
        tree = ast.walk(ast.parse(path.read_text()))
        named = {a.name for node in tree if isinstance(node, ast.Import) for a in node.names}
        named |= {str(n.module) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)}
        assert {name.split(".")[0] for name in named} <= allowed, path
    listed = (FOLDER / "CMakeLists.txt").read_text()
    assert all(f"MedInterpLib/{path.name}" in listed for path in (FOLDER / "MedInterpLib").glob("*.py"))
