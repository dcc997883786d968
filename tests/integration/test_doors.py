"""Three doors, one path: command line, Python and MONAI's bundle runner give the same bits."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from numpy.typing import NDArray

import medinterp
import medinterp.errors
from medinterp import io
from medinterp.bundle import load_pipeline
from medinterp.catalogue import find_bundle
from tests.integration.scans import write_scan

_MAPS = ("denoised_MR", "removednoise_MR", "sigma_MR", "inputxgradientmean_map")
_TARGET = "sphere:3,-4,2,5"


def _volumes(study: Path) -> dict[str, NDArray[np.float64]]:
    return {m: nibabel.load(study / "nifti" / f"scan_desc-{m}.nii.gz").get_fdata() for m in _MAPS}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.nii.gz")


@pytest.fixture(scope="module")
def by_python(scan: Path) -> Path:
    folder = scan.parent / "python"
    return medinterp.run(scan, folder, targets=(_TARGET,)).folder


def test_the_command_line_gives_the_bits_of_python(scan: Path, by_python: Path) -> None:
    command = [sys.executable, "-m", "medinterp", "run", str(scan), "-o", str(scan.parent / "cli")]
    subprocess.run([*command, "--target", _TARGET, "--progress", "none"], check=True, capture_output=True, timeout=300)
    for name, values in _volumes(scan.parent / "cli").items():
        assert np.array_equal(values, _volumes(by_python)[name]), name


def test_monai_bundle_run_gives_the_bits_of_python(scan: Path, by_python: Path) -> None:
    bundle = find_bundle("mri_denoise")
    arguments = {
        "config_file": str(bundle / "configs" / "inference.json"), "bundle_root": str(bundle),
        "dataset_dir": str(scan), "output_dir": str(scan.parent / "monai"), "targets": f"['{_TARGET}']",
    }  # fmt: skip
    command = [sys.executable, "-m", "monai.bundle", "run"]
    for key, value in arguments.items():
        command += [f"--{key}", value]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, values in _volumes(scan.parent / "monai").items():
        assert np.array_equal(values, _volumes(by_python)[name]), name


@pytest.mark.filterwarnings("ignore")  # MONAI's own deprecation notes are not ours to judge
def test_the_folder_is_a_complete_monai_bundle_and_its_evaluator_gives_the_same_image(
    scan: Path, by_python: Path, tmp_path: Path
) -> None:
    bundle = find_bundle("mri_denoise")
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(bundle),
        dataset_dir=str(scan),
        output_dir=str(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.evaluator.run()
    saved = nibabel.load(next(tmp_path.rglob("*denoised.nii.gz")))
    ours = nibabel.load(by_python / "nifti" / "scan_desc-denoised_MR.nii.gz")
    assert np.array_equal(saved.get_fdata(), ours.get_fdata())
    # float32 headers: a micrometre is far below any voxel
    assert np.allclose(saved.affine, ours.affine, atol=1e-3)


def test_the_network_can_be_called_with_one_tensor() -> None:
    network = load_pipeline(find_bundle("mri_denoise")).denoiser.network  # type: ignore[attr-defined]
    noisy = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert network(noisy).shape == noisy.shape


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_samples(scan: Path, tmp_path: Path) -> None:
    options = {"targets": (), "sampler": "sde", "steps": 2}
    one, two, other = (
        medinterp.run(scan, tmp_path / name, seed=seed, **options).result.inputs["scan"].denoised.voxels
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_removed_noise_and_denoised_image_add_up_to_the_scan(scan: Path, by_python: Path) -> None:
    volumes = _volumes(by_python)
    # float32 storage of all three
    assert np.allclose(volumes["denoised_MR"] + volumes["removednoise_MR"], io.read(scan).voxels[0], atol=1e-3)


def test_contributions_and_the_noise_share_add_up_to_the_measurement(by_python: Path) -> None:
    record = json.loads((by_python / "run.json").read_text())["explanations"][0]
    total = float(_volumes(by_python)["inputxgradientmean_map"].sum()) + record["maps"]["scan"]["noise_share"]["scan"]
    # the bar of the shipped network: 1e-5 in float32
    assert total == pytest.approx(record["value_after"], rel=1e-5)


def test_the_run_record_holds_no_path(scan: Path, by_python: Path) -> None:
    text = (by_python / "run.json").read_text() + (by_python / "report.html").read_text()
    assert str(scan.parent) not in text


def test_a_dry_run_writes_nothing(scan: Path) -> None:
    command = [sys.executable, "-m", "medinterp", "run", str(scan), "-o", str(scan.parent / "dry"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "peak memory" in done.stdout
    assert not (scan.parent / "dry").exists()


def test_two_scans_are_fused_and_explained_on_their_own_grids(tmp_path: Path) -> None:
    t1 = write_scan(tmp_path / "a.nii.gz")
    t2 = write_scan(tmp_path / "b.nii.gz", shape=(28, 28, 28), shift_mm=1.5)
    options = {"targets": (_TARGET,), "resample": True, "seed": 0}
    result = medinterp.run({"t1": t1, "t2": t2}, tmp_path / "out", **options).result
    assert result.fusion is not None
    explained = result.explanations[0]
    assert {m: v.grid.shape for m, v in explained.maps.items()} == {"t1": (32, 30, 24), "t2": (28, 28, 28)}
    accounted = sum(float(v.voxels.sum(dtype=np.float64)) for v in explained.maps.values())
    accounted += sum(a.noise_share[m] for m, a in explained.attributions.items())
    # exact for frozen fusion weights; interpolation weights and images are float32
    assert accounted == pytest.approx(explained.value_after, rel=1e-4)


def test_scans_on_different_grids_are_not_fused_silently(tmp_path: Path) -> None:
    t1, t2 = write_scan(tmp_path / "a.nii.gz"), write_scan(tmp_path / "b.nii.gz", shift_mm=1.5)
    with pytest.raises(medinterp.errors.GridMismatch, match="mm apart"):
        medinterp.run({"t1": t1, "t2": t2}, tmp_path / "out")


@pytest.mark.parametrize("wanted", ["nifti", "report, slicer"])
def test_a_study_holds_what_was_asked_for_and_always_its_record(tmp_path: Path, wanted: str) -> None:
    study = medinterp.run(
        write_scan(tmp_path / "scan.nii.gz"), tmp_path / "out", targets=("voxel:0,0,0",), export=wanted
    )
    kinds = {"nifti": "nifti", "dicom": "dicom", "slicer": "slicer", "report": "report.html"}
    found = {path.name for path in study.folder.iterdir()}
    always = {"run.json", "clusters.tsv", "dataset_description.json"}
    assert found == always | {kinds[word.strip()] for word in wanted.split(",")}


def test_an_unknown_export_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(medinterp.errors.ConfigError, match=r"no export 'jpeg': choose of .*nifti"):
        medinterp.run(tmp_path / "never_read.nii.gz", tmp_path / "out", export="nifti,jpeg")
