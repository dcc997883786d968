"""The fused image of a run: carried once, told in full, and honest about what nobody measured."""

import numpy as np
import pytest
import torch

from medinterp.fusing import plan_fusing
from medinterp.fusion.fusers import VarianceWeighted
from medinterp.fusion.gradient_domain import GradientDomain
from medinterp.fusion.registration import Registrar
from medinterp.results import FusionResult
from medinterp.testing.motion import move, random_motion
from medinterp.volume import Grid, Provenance, Source, Transform, Volume


def scan(unit: str = "a.u.", shape: tuple[int, int, int] = (14, 12, 10), spacing: float = 2.0, seed: int = 0) -> Volume:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    axes = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    grid = Grid(shape, affine)
    inside = np.linalg.norm(grid.to_world(axes), axis=-1) < 8
    noise = np.random.default_rng(seed).normal(size=shape)
    voxels = 100.0 * inside + noise if unit != "HU" else np.where(inside, 40.0, -1000.0) + noise
    modality = "CT" if unit == "HU" else "MR"
    return Volume(voxels[None].astype(np.float32), grid, unit, modality, Provenance(Source("memory")))


def fused(scans: dict[str, Volume], *, ledger: bool = False, motion: Transform | None = None) -> FusionResult:
    found = {}
    if motion is not None:
        found = Registrar(None, {list(scans)[1]: motion})(scans, seed=0)
    fusing = plan_fusing(VarianceWeighted(), scans, found, seed=0)
    images = {m: torch.from_numpy(v.voxels.copy())[None] for m, v in scans.items()}
    return fusing.result(images, {m: torch.full((1, 1, 1, 1, 1), 5.0) for m in scans}, ledger=ledger)


def test_contributions_sum_to_the_fused_image_and_weights_to_one() -> None:
    found = fused({"t1": scan(), "ct": scan("HU", (12, 12, 12), 1.7)})
    total = sum(v.voxels for v in found.contributions.values())
    # float32: three roundings of values up to 1
    np.testing.assert_allclose(total, found.fused.voxels, atol=3e-7)
    np.testing.assert_allclose(sum(w.voxels for w in found.weights.values()), 1.0, atol=1e-6)
    assert sum(found.mean_weights.values()) == pytest.approx(1.0, abs=1e-5)
    assert found.scales["ct"].offset == 1000.0


def test_where_ct_was_not_measured_the_carried_image_holds_air_and_not_water() -> None:
    found = fused({"t1": scan(), "ct": scan("HU", (6, 6, 6), 1.7)})
    assert float(found.carried["ct"].voxels[0, 0, 0, 0]) == -1000.0
    assert found.carried["ct"].unit == "HU"
    assert float(found.weights["ct"].voxels[0, 0, 0, 0]) == 0.0


def test_a_registered_scan_is_carried_once_by_its_transform_and_comes_back_on_its_own_grid() -> None:
    reference, other = scan(), scan(seed=1)
    motion = random_motion(20.0, 30.0, np.zeros(3), np.random.default_rng(0))
    moved = move(other, motion)
    found = fused({"t1": reference, "t2": moved}, motion=motion)
    # the motion put the same voxels elsewhere and its transform puts them back, so nothing is interpolated
    np.testing.assert_array_equal(found.carried["t2"].voxels, other.voxels)
    before = found.alignments["t2"].before.voxels
    assert float(np.abs(before - other.voxels).mean()) > 1.0  # control: by the files they are apart
    steps = [step.name for step in found.fused.provenance.steps]
    assert steps == ["fuse"]
    how = found.fused.provenance.steps[0].parameters["carried"]["t2"]
    assert how["interpolation"] == "none, same grid"
    assert how["transform"] == "known motion"
    other_grid = fused({"t1": reference, "t2": moved}).on_own_grids["t2"]
    assert other_grid.grid.mismatch(moved.grid) is None


def test_the_ledger_of_volumes_sums_to_the_fused_image() -> None:
    found = fused({"t1": scan(), "t2": scan(seed=1), "ct": scan("HU")}, ledger=True)
    assert found.ledger is not None
    assert found.ledger.evaluations == 8
    total = sum(v.voxels for v in found.ledger.credits.values())
    # credits are stored as float32
    np.testing.assert_allclose(total, found.fused.voxels, atol=3e-7)
    assert sum(found.ledger.shares.values()) == pytest.approx(1.0)
    assert set(found.ledger.interactions) == {("t1", "t2"), ("t1", "ct"), ("t2", "ct")}
    assert found.ledger.displaced_share > 0


def test_ct_is_counted_from_air_by_any_fuser_that_takes_offsets() -> None:
    scans = {"t1": scan(), "ct": scan("HU")}
    for fuser in (VarianceWeighted(), GradientDomain()):
        assert plan_fusing(fuser, scans, {}, 0).joining.fuser.offsets == {"ct": 1000.0}
    kept = plan_fusing(VarianceWeighted({"ct": 500.0}), scans, {}, 0).joining.fuser.offsets
    assert kept == {"ct": 500.0}  # what was chosen is not overruled
