"""What --export takes: writers and groups by name, told before anything is read."""

import json
import sys

import pytest
from typer.testing import CliRunner

import medinterp
from medinterp import registry
from medinterp.catalogue import EXPORT_GROUPS, USUAL_EXPORT, choose_writers
from medinterp.cli import app
from medinterp.errors import ConfigError, PluginError

_USUAL = ("nifti", "dicom_series", "parametric_map", "segmentation", "slicer", "report")


def test_the_usual_set_is_volumes_scene_dicom_and_report() -> None:
    assert choose_writers(USUAL_EXPORT) == _USUAL


def test_scans_from_dicom_get_report_and_outlines_for_the_pacs_unless_something_was_asked_for() -> None:
    assert set(choose_writers("usual", dicom=True)) == {*_USUAL, "structured_report", "presentation_state"}
    assert choose_writers("usual,dicom", dicom=True)[-1] == "report"
    assert choose_writers("nifti,dicom", dicom=True) == choose_writers("nifti,dicom")


def test_groups_commas_and_repeats_come_to_each_writer_once_with_the_report_last() -> None:
    chosen = choose_writers("report,nifti, dicom,segmentation,nifti")
    assert chosen == ("nifti", "dicom_series", "parametric_map", "segmentation", "report")


def test_groups_and_defaults_name_registered_writers() -> None:
    known = set(registry.names("writers"))
    assert {writer for members in EXPORT_GROUPS.values() for writer in members} <= known
    assert not known & set(EXPORT_GROUPS), "a group hides a writer"


def test_meshes_without_their_packages_are_refused_before_the_scan_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trimesh" else object())
    monkeypatch.delitem(sys.modules, "medinterp.export.meshes", raising=False)
    with pytest.raises(PluginError, match=r"pip install 'medinterp\[meshes\]'"):
        medinterp.run("no/such/scan.nii.gz", "no-study", export="meshes")


@pytest.mark.parametrize("word", ["niftii", "", "nifti,,slicer", "dicom slicer"])
def test_an_unknown_word_is_refused_with_the_known_ones_before_the_scan_is_looked_for(word: str) -> None:
    with pytest.raises(ConfigError, match=r"no export '.*nifti.*dicom \(dicom_series"):
        medinterp.run("no/such/scan.nii.gz", "no-study", export=word)


def test_the_command_line_refuses_it_in_one_line_with_the_exit_code_of_an_option() -> None:
    done = CliRunner().invoke(app, ["run", "no-scan.nii", "-o", "no-study", "--export", "nifti,niftii"])
    assert done.exit_code == ConfigError.exit_code
    assert "no export 'niftii'" in done.output
    assert done.output.count("\n") == 1


def test_info_lists_writers_and_their_groups() -> None:
    found = json.loads(CliRunner().invoke(app, ["info", "--json"]).output)
    assert set(_USUAL) <= set(found["writers"])
    assert found["export_groups"]["dicom"] == list(EXPORT_GROUPS["dicom"])
    assert tuple(found["export_groups"]["usual"]) == _USUAL
    assert "groups of writers" in CliRunner().invoke(app, ["info"]).output
