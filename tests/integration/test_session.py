"""Questions one after another about one scan: the answers of a run, without measuring its noise again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medinterp import io
from medinterp.bundle import load_pipeline
from medinterp.catalogue import find_bundle
from medinterp.errors import ConfigError
from medinterp.options import RunOptions
from medinterp.pipeline import Pipeline
from medinterp.preparation import build_explanations
from medinterp.sampling.samplers import ReverseSDE
from tests.integration.scans import write_scan

METHODS = ("saliency", "input_x_gradient", "equivalent_filter")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(find_bundle("mri_denoise"))


def test_an_open_scan_answers_as_a_run_does_and_measures_its_noise_once(pipeline: Pipeline, tmp_path: Path) -> None:
    scan = io.read(write_scan(tmp_path / "scan.nii.gz"))
    measured = []

    def estimate(volume):
        measured.append(volume)
        return pipeline.estimator(volume)

    opened = replace(pipeline, estimator=estimate).open("scan", scan)
    for target in ("sphere:0,0,0,4", "voxel:2,1,0"):
        asked = build_explanations(RunOptions(targets=(target,), methods=METHODS, halo=8))
        expected = pipeline.run({"scan": scan}, asked, whole=False).explanations
        for answer, wanted in zip(opened(asked), expected, strict=True):
            np.testing.assert_array_equal(answer.maps["scan"].voxels, wanted.maps["scan"].voxels)
            assert answer.certificates == wanted.certificates
    assert len(measured) == 1


def test_a_halo_is_refused_where_the_image_is_drawn_at_random(pipeline: Pipeline, tmp_path: Path) -> None:
    opened = replace(pipeline, sampler=ReverseSDE()).open("scan", io.read(write_scan(tmp_path / "scan.nii.gz")))
    with pytest.raises(ConfigError, match="halo with a random sampler"):
        opened(build_explanations(RunOptions(targets=("voxel:0,0,0",), halo=8)))
