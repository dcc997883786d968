"""Memory, devices and plans: what a run may take is refused or said before it begins."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medinterp import planning
from medinterp.denoisers.tiled import BYTES_PER_VOXEL
from medinterp.errors import ConfigError, DeviceError, InputError, OutputError
from medinterp.export.record import write_dataset_description, write_run_json
from medinterp.options import RunOptions
from medinterp.planning import PlannedExplanation, plan
from medinterp.preparation import check_output, name_inputs
from medinterp.rates import Rates
from medinterp.resources import check_device, memory_budget, memory_errors

SHIPPED = 100
"""Bytes that the shipped network takes for each voxel."""


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    values = np.random.default_rng(0).normal(100, 5, (200, 16, 16)).astype(np.float32)
    image = nibabel.Nifti1Image(values, np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.to_filename(path)
    return path


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan for a machine of known speed; probing the real one takes seconds, and test_rates.py does that."""
    monkeypatch.setattr(planning.Rates, "probe", lambda _: Rates(1e-8, 2e-8, 0.5e-8))
    monkeypatch.setattr(planning, "seconds_per_voxel", lambda *_: 1.0)


def test_a_plan_counts_the_halo_of_every_tile_twice(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "memory_budget", lambda *_: 200 * 16 * 16 * SHIPPED - 1)
    monkeypatch.setattr(planning, "_explaining", lambda *_: [])
    found = plan(scan, RunOptions())
    assert found.tiles["scan"] is not None
    cut, radius = found.tiles["scan"][0], 80  # the shipped network's
    extents = [min(k + cut + radius, 200) - max(0, (k - radius) // 8 * 8) for k in range(0, 200, cut)]
    assert found.seconds == sum(extents) * 16 * 16
    assert found.seconds > 200 * 16 * 16
    assert found.peak_gb >= max(extents) * 16 * 16 * SHIPPED / 1e9
    assert "in tiles of" in found.describe()


def test_a_plan_of_explaining_alone_promises_no_denoising(scan: Path) -> None:
    found = plan(scan, RunOptions(targets=("voxel:3,4,5",), whole=False))
    assert found.seconds == 0
    assert "only what matters to the targets" in found.describe()


def test_a_plan_of_a_sampler_counts_every_evaluation_and_holds_the_graphs_of_one_step(scan: Path) -> None:
    def planned(method: str, **sampling: object) -> PlannedExplanation:
        options = RunOptions(targets=("voxel:100,8,8",), methods=(method,), halo=16, **sampling)
        return plan(scan, options).explanations[0]

    one = planned("saliency")
    short, long = (planned("saliency", sampler="ode", steps=steps) for steps in (2, 8))
    ruled = planned("lrp", sampler="ode", steps=8)
    assert one.seconds is not None
    assert short.seconds is not None
    assert long.seconds is not None
    assert short.seconds > 3 * one.seconds  # three evaluations, each made twice
    assert long.seconds / short.seconds == pytest.approx(15 / 3)
    assert long.peak_gb == short.peak_gb
    assert ruled.peak_gb > 2 * long.peak_gb  # no checkpoints: a rule is not there when a graph is made again


def test_a_plan_says_what_every_explanation_computes(scan: Path) -> None:
    methods = ("saliency", "input_x_gradient", "integrated_gradients", "occlusion:window_mm=4")
    found = plan(scan, RunOptions(targets=("voxel:100,8,8",), methods=methods, whole=False))
    first, shared, path, outside = found.explanations
    assert first.work.crop == (168, 16, 16)  # from 100 - 80 and to 101 + 80, to whole cells
    assert (first.work.forward, first.work.backward) == (1, 1)
    assert shared.seconds is not None
    assert first.seconds is not None
    assert shared.seconds < first.seconds  # it reads the same gradient
    assert path.work.backward == 18
    assert (outside.work.backward, outside.work.peak_gb) == (0, None)
    assert outside.work.crop[0] < first.work.crop[0]
    assert "18 gradients" in found.describe()
    assert found.explaining_seconds is not None


def test_a_plan_counts_a_full_certificate_beside_its_map(scan: Path) -> None:
    options = {"targets": ("voxel:100,8,8",), "methods": ("saliency", "occlusion:window_mm=8"), "whole": False}
    basic, full = (plan(scan, RunOptions(certificate=word, **options)) for word in ("basic", "full"))  # type: ignore[arg-type]
    gradient, outside = full.explanations
    assert basic.explanations[0].checks is None
    assert gradient.checks is not None
    assert outside.checks is not None
    assert gradient.checks.crop == outside.checks.crop == (24, 16, 16)  # from 92 to 109, to whole cells
    assert gradient.checks.backward == 8 + 5 + 5 + 2
    assert gradient.checks.forward > 500
    assert (outside.checks.backward, outside.checks.forward > gradient.checks.forward) == (0, True)
    assert gradient.seconds is not None
    assert gradient.work.seconds is not None
    assert gradient.checks.seconds is not None
    assert gradient.seconds == gradient.work.seconds + gradient.checks.seconds
    assert gradient.checks.peak_gb is not None
    assert gradient.checks.peak_gb > 4 * 24 * 16 * 16 * BYTES_PER_VOXEL / 1e9  # four scans are measured at once
    assert "its full certificate: " in full.describe()


def test_a_plan_counts_the_windows_that_touch_the_crop_and_the_gradient_that_a_rule_is_compared_with(
    scan: Path,
) -> None:
    options = RunOptions(targets=("voxel:100,8,8",), methods=("occlusion:window_mm=4", "lrp"), halo=4, whole=False)
    outside, ruled = plan(scan, options).explanations
    assert outside.work.crop == (16, 16, 16)
    assert outside.work.forward == 4**3 + 3
    assert ruled.work.backward == 2


def test_a_target_that_is_found_while_running_is_planned_at_a_likely_place(scan: Path) -> None:
    assert plan(scan, RunOptions()).explanations[0].work.crop[1:] == (16, 16)


@pytest.mark.parametrize("whole", [True, False])
def test_a_gradient_beyond_the_memory_is_refused_before_the_work(
    scan: Path, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "memory_budget", lambda *_: 64_000_000)
    options = RunOptions(targets=("sphere:100,8,8,90",), whole=whole)
    with pytest.raises(DeviceError, match=r"takes 0\.\d GB and 0\.1 GB are left"):
        plan(scan, options)


@pytest.mark.parametrize("changes", [{"targets": ("sphere:1",)}, {"methods": ("crystal",)}, {"measure": "crystal"}])
def test_a_plan_is_refused_where_the_run_would_be(scan: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        plan(scan, RunOptions(**changes))  # type: ignore[arg-type]


def test_no_input_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="no input"):
        name_inputs({})


@pytest.mark.parametrize("limit", [0.001, 1e9])
def test_a_memory_limit_that_cannot_be_is_refused(limit: float) -> None:
    with pytest.raises(DeviceError, match="--max-memory"):
        memory_budget(limit)


@pytest.mark.parametrize("name", ["", "quantum", "meta", "cpu:5", "cuda:77"])
def test_an_absent_device_is_refused(name: str) -> None:
    with pytest.raises(DeviceError):
        check_device(name)


@pytest.mark.parametrize("raised", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_running_out_of_memory_is_one_clear_error(raised: Exception) -> None:
    with pytest.raises(DeviceError, match="out of memory"), memory_errors():
        raise raised


def test_other_errors_of_a_computation_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_errors():
        raise RuntimeError("shapes differ")


def test_an_output_inside_an_input_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="lies inside"):
        check_output(tmp_path / "in" / "out", {"scan": tmp_path / "in"}, RunOptions())


@pytest.mark.parametrize("what", ["input", "mask"])
def test_overwriting_never_deletes_what_the_run_reads(tmp_path: Path, what: str) -> None:
    study = tmp_path / "out"
    study.mkdir()
    write_dataset_description(study, version="0.1.0")
    write_run_json(study, {})
    held = study / "held.nii"
    held.touch()
    inputs = {"scan": held if what == "input" else tmp_path / "elsewhere.nii"}
    options = RunOptions(overwrite=True, targets=(str(held),) if what == "mask" else ())
    with pytest.raises(OutputError, match="holds an input"):
        check_output(study, inputs, options)
    assert held.exists()


@pytest.mark.parametrize("output", ["loop/x", "~no-such-user/x", "y" * 300, "file/x", "file"])
def test_an_output_that_cannot_be_made_is_refused_before_work(
    tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("file").touch()
    with pytest.raises(OutputError) as caught:
        check_output(output, {"scan": Path("elsewhere")}, RunOptions())
    assert "\n" not in str(caught.value)
