"""Our own door into bundles: nothing runs that is not allowed."""

import json
from pathlib import Path
from typing import Any

import pytest

from medinterp.bundle import load_pipeline
from medinterp.catalogue import bundle_folders, find_bundle
from medinterp.errors import BundleError, WeightsMismatch
from medinterp.pipeline import Pipeline


def _bundle(folder: Path, **changes: Any) -> Path:
    config = json.loads((find_bundle("mri_denoise") / "configs" / "inference.json").read_text())
    config.update(changes)
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    return folder


def test_the_shipped_bundle_makes_a_pipeline() -> None:
    assert isinstance(load_pipeline(find_bundle("mri_denoise")), Pipeline)


@pytest.mark.parametrize("name", bundle_folders())
def test_a_bundle_takes_identifiers_out_where_its_configuration_says_so(name: str) -> None:
    config = json.loads((find_bundle(name) / "configs" / "inference.json").read_text())
    assert config["deidentify"] is False
    assert config["run"]["deidentify"] == "@deidentify"


def test_an_expression_is_refused_before_anything_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    folder = _bundle(tmp_path / "b", network_def=f"$__import__('pathlib').Path('{marker}').touch()")
    with pytest.raises(BundleError, match="does not evaluate"):
        load_pipeline(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "medinterp.app.Path",  # reachable through our module, but not ours
        "medinterp.app.run",  # ours, but not a class
        "monai.bundle.run",
        "monai.networks.nets.no_such_net",
        "builtins.eval",
    ],
)
def test_a_target_that_is_not_an_allowed_class_is_refused(tmp_path: Path, target: str) -> None:
    folder = _bundle(tmp_path / "b", network_def={"_target_": target, "args": "echo"})
    with pytest.raises(BundleError, match=r"asks for|not a class"):
        load_pipeline(folder)


def test_a_reference_hidden_behind_references_is_checked_too(tmp_path: Path) -> None:
    folder = _bundle(tmp_path / "b", network_def="@other", other={"_target_": "os.system", "command": "true"})
    with pytest.raises(BundleError, match=r"os\.system"):
        load_pipeline(folder)


@pytest.mark.parametrize("text", ["@nowhere", "@network_def::widths::9", "prefix @seed", "%elsewhere.json::x"])
def test_broken_or_mixed_references_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BundleError):
        load_pipeline(_bundle(tmp_path / "b", network_def=text))


def test_weights_whose_hash_differs_are_refused(tmp_path: Path) -> None:
    source = find_bundle("mri_denoise")
    folder = _bundle(tmp_path / "b")
    (folder / "configs" / "metadata.json").write_text((source / "configs" / "metadata.json").read_text())
    (folder / "models").mkdir()
    damaged = bytearray((source / "models" / "model.pt").read_bytes())
    damaged[-1] ^= 1
    (folder / "models" / "model.pt").write_bytes(damaged)
    with pytest.raises(WeightsMismatch, match="restore the bundle"):
        load_pipeline(folder)


def test_an_unknown_bundle_lists_the_known_ones() -> None:
    with pytest.raises(BundleError, match="mri_denoise"):
        find_bundle("crystal_ball")
