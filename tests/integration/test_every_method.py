"""Every registered method by its name, from a file to a study folder with its certificate."""

import csv
import json
from pathlib import Path

import pytest

import medinterp
from medinterp.attribution import RegionAttribution
from medinterp.registry import names
from tests.integration.scans import write_scan

SMALLER = {
    "integrated_gradients": "integrated_gradients:tolerance=0.5",
    "gradient_shap": "gradient_shap:draws=3",
    "smoothgrad": "smoothgrad:draws=3",
    "occlusion": "occlusion:window_mm=6",
    "sampled_shapley": "sampled_shapley:orders=2",
    "kernel_shap": "kernel_shap:samples=32",
    "lime": "lime:samples=32",
}
STRAYS = "deconvolution"
"""Behind the shipped prior it is refused; see below."""


@pytest.mark.parametrize("method", sorted(set(names("attributors")) - {STRAYS}))
def test_a_method_by_name_gives_a_map_in_place_with_a_certificate(tmp_path: Path, method: str) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", shape=(24, 24, 20))
    study = medinterp.run(
        scan,
        tmp_path / "out",
        targets=("sphere:0,0,0,4",),
        methods=(SMALLER.get(method, method),),
        measure="contrast:gap_mm=1,width_mm=3",
        supervoxels="shells",
        halo=0,
        whole=False,
    )
    explained = study.result.explanations[0]
    volume, attribution = explained.maps["scan"], explained.attributions["scan"]
    assert explained.method == method
    assert volume.grid.mismatch(study.result.inputs["scan"].scan.grid) is None
    assert volume.voxels[0][explained.region.mask].any()
    assert explained.certificates["scan"].randomisation is not None
    record = json.loads((study.folder / "run.json").read_text())["explanations"][0]["maps"]["scan"]
    table = study.folder / "regions.tsv"
    assert table.exists() == isinstance(attribution, RegionAttribution) == ("divided_by" in record)
    if isinstance(attribution, RegionAttribution):
        rows = list(csv.DictReader(table.read_text().splitlines(), delimiter="\t"))
        assert len(rows) == len(attribution.regions)
        assert {row["unit"] for row in rows} == {explained.unit}


def test_a_map_that_lies_elsewhere_than_the_gradient_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", shape=(40, 40, 40))
    options = {"targets": ("sphere:0,0,0,3",), "halo": 16, "whole": False}
    with pytest.raises(medinterp.errors.MethodNotValid, match=f"of the map by {STRAYS} lies outside"):
        medinterp.run(scan, tmp_path / "out", methods=(STRAYS,), **options)
    assert not (tmp_path / "out").exists()
    medinterp.run(scan, tmp_path / "out", methods=("guided_backprop", "lrp"), **options)


def test_a_number_that_a_scan_does_not_have_is_given_after_only(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    options = {"targets": ("sphere:0,0,0,4",), "methods": ("saliency",), "measure": "removed_energy", "whole": False}
    study = medinterp.run(scan, tmp_path / "out", **options)
    explained = study.result.explanations[0]
    assert explained.value_before is None
    assert explained.unit == "a.u.²"
    assert "before" not in study.summary()


def test_a_fused_image_is_measured_by_linear_measures_only(tmp_path: Path) -> None:
    scans = {name: write_scan(tmp_path / f"{name}.nii.gz", seed=number) for number, name in enumerate(("t1", "t2"))}
    with pytest.raises(medinterp.errors.ConfigError, match="does not divide exactly"):
        medinterp.run(scans, tmp_path / "out", targets=("sphere:0,0,0,4",), measure="edge_sharpness")
    assert not (tmp_path / "out").exists()


def test_what_the_other_scans_add_to_one_is_explained_in_full(tmp_path: Path) -> None:
    scans = {name: write_scan(tmp_path / f"{name}.nii.gz", seed=number) for number, name in enumerate(("t1", "t2"))}
    study = medinterp.run(scans, tmp_path / "out", targets=("sphere:0,0,0,4",), measure="fused_minus_single:single=t1")
    explained, fused = study.result.explanations[0], study.result.fusion.fused.voxels[0]
    inside = explained.region.mask
    assert set(explained.maps) == {"t1", "t2"}
    assert explained.value_after != pytest.approx(float(fused[inside].mean()), rel=1e-3)
    explained_sum = sum(float(m.voxels.sum()) for m in explained.maps.values())
    shares = sum(a.noise_share[m] for m, a in explained.attributions.items())
    # the parts, the noise levels' shares and what the intensity offset holds are all there is
    assert explained_sum + shares + explained.offset_share == pytest.approx(explained.value_after, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("single", ["flair", "t1"])
def test_a_comparison_with_a_scan_that_is_not_fused_is_refused(tmp_path: Path, single: str) -> None:
    names = ("t1", "t2") if single == "flair" else ("t1",)
    scans = {name: write_scan(tmp_path / f"{name}.nii.gz", seed=number) for number, name in enumerate(names)}
    with pytest.raises(medinterp.errors.ConfigError, match=f"compares a fused image with the scan '{single}'"):
        medinterp.run(scans, tmp_path / "out", targets=("voxel:0,0,0",), measure=f"fused_minus_single:single={single}")
