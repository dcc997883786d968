"""Registration finds known motion, takes given transforms in their own convention, and resamples nothing."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medinterp.errors import GridMismatch, InputError
from medinterp.fusion.registration import Registrar, register, tissue_points
from medinterp.fusion.similarity import mutual_information_bits
from medinterp.io.transform_files import itk_matrix, read_transform, write_transform
from medinterp.testing.motion import move, random_motion
from medinterp.testing.phantoms import small_scan
from medinterp.volume import Step, Transform, Volume

SHAPE = (44, 52, 34)


@pytest.fixture(scope="module")
def t1() -> Volume:
    return small_scan(SHAPE, modality="T1", sigma=20.0, generator=np.random.default_rng(0))


@pytest.fixture(scope="module")
def moved_t2() -> tuple[Volume, Transform]:
    t2 = small_scan((40, 50, 30), modality="T2", sigma=20.0, generator=np.random.default_rng(1))
    motion = random_motion(12.0, 15.0, np.array([0.0, 0.0, 10.0]), np.random.default_rng(5))
    return move(t2, motion), motion


def test_a_known_motion_between_contrasts_is_found_within_a_millimetre(
    t1: Volume, moved_t2: tuple[Volume, Transform]
) -> None:
    scan, motion = moved_t2
    found = register(t1, scan, "rigid", seed=0)
    error = found.transform.distance_mm(motion, tissue_points(t1))
    # voxels are 3.6 x 3.7 x 4.4 mm here: a quarter of one
    assert float(np.median(error)) <= 1.0
    assert found.consistency is not None
    assert found.consistency.median_mm <= 1.0
    assert found.information_after > 1.2 * found.information_before
    # control: without registration the same points are off by the motion itself
    assert float(np.median(Transform(np.eye(4)).distance_mm(motion, tissue_points(t1)))) > 10.0


def test_the_same_seed_gives_the_same_bits(t1: Volume, moved_t2: tuple[Volume, Transform]) -> None:
    matrices = [register(t1, moved_t2[0], "rigid", seed=3).transform.matrix for _ in range(2)]
    assert np.array_equal(*matrices)


def test_affine_finds_a_stretch_that_rigid_cannot(t1: Volume) -> None:
    t2 = small_scan((40, 50, 30), modality="T2", sigma=10.0, generator=np.random.default_rng(1))
    stretch = Transform(np.diag([1.06, 0.95, 1.04, 1.0]))
    moved, points = move(t2, stretch), tissue_points(t1)
    errors = {
        kind: float(np.median(register(t1, moved, kind, seed=0).transform.distance_mm(stretch, points)))
        for kind in ("rigid", "affine")
    }
    assert errors["affine"] <= 1.0
    assert errors["rigid"] > 1.5  # the control: a rigid map cannot stretch


def test_placing_a_grid_interpolates_nothing_and_composes_exactly(t1: Volume) -> None:
    one = random_motion(10.0, 5.0, np.zeros(3), np.random.default_rng(1))
    two = random_motion(7.0, 9.0, np.ones(3), np.random.default_rng(2))
    points = tissue_points(t1, 50)
    np.testing.assert_allclose(one.then(two)(points), two(one(points)), atol=1e-9)
    np.testing.assert_allclose(one.inverse()(one(points)), points, atol=1e-9)
    index = (3.0, 4.0, 5.0)
    placed = one.place(t1.grid).to_world(index)  # where the reference sees this voxel
    np.testing.assert_allclose(one(placed), t1.grid.to_world(index), atol=1e-9)


@pytest.mark.parametrize("suffix", [".tfm", ".h5"])
def test_an_itk_transform_file_is_read_as_lps_from_reference_to_scan(tmp_path: Path, suffix: str) -> None:
    itk = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, -0.2, 0.3, (10.0, 20.0, 30.0))
    path = tmp_path / f"t{suffix}"
    sitk.WriteTransform(itk, str(path))
    found = read_transform(path)
    point = np.array([5.0, -7.0, 11.0])
    lps = np.array(itk.TransformPoint((-5.0, 7.0, 11.0)))
    np.testing.assert_allclose(found(point), lps * (-1, -1, 1), atol=1e-6)
    # control: the same numbers taken as RAS put the point elsewhere
    assert np.linalg.norm(found(point) - np.array(itk.TransformPoint(point.tolist()))) > 10


def test_a_transform_comes_back_from_its_file_and_itk_reads_it_the_same(tmp_path: Path) -> None:
    motion = random_motion(10.0, 5.0, np.ones(3), np.random.default_rng(4))
    path = write_transform(motion, tmp_path / "t.tfm")
    np.testing.assert_allclose(read_transform(path).matrix, motion.matrix, atol=1e-10)  # 17 digits, over 1 m
    lps = sitk.ReadTransform(str(path)).TransformPoint((-5.0, 7.0, 11.0))
    np.testing.assert_allclose(np.array(lps) * (-1, -1, 1), motion(np.array([5.0, -7.0, 11.0])), atol=1e-9)


def test_a_text_matrix_moves_the_scan_onto_the_reference_in_ras(tmp_path: Path) -> None:
    motion = random_motion(10.0, 5.0, np.zeros(3), np.random.default_rng(1))  # reference to scan
    np.savetxt(tmp_path / "m.txt", np.linalg.inv(motion.matrix))  # as 3D Slicer shows it: scan to reference
    np.testing.assert_allclose(read_transform(tmp_path / "m.txt").matrix, motion.matrix, atol=1e-9)


def test_the_two_conventions_of_one_motion_agree(tmp_path: Path) -> None:
    itk = sitk.AffineTransform(3)
    itk.SetTranslation((4.0, -6.0, 8.0))
    sitk.WriteTransform(itk, str(tmp_path / "m.tfm"))
    to_reference = np.eye(4)
    to_reference[:3, 3] = (4.0, -6.0, -8.0)  # RAS: x and y change sign; the opposite direction: all do
    np.savetxt(tmp_path / "m.txt", to_reference)
    np.testing.assert_allclose(
        read_transform(tmp_path / "m.tfm").matrix, read_transform(tmp_path / "m.txt").matrix, atol=1e-9
    )


def test_transforms_that_are_not_affine_or_mirror_or_are_no_files_are_refused(tmp_path: Path) -> None:
    bent = sitk.DisplacementFieldTransform(sitk.Image([4, 4, 4], sitk.sitkVectorFloat64))
    with pytest.raises(InputError, match="rigid or affine"):
        itk_matrix(bent)
    np.savetxt(tmp_path / "mirror.txt", np.diag([-1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match="mirrors"):
        read_transform(tmp_path / "mirror.txt")
    (tmp_path / "words.txt").write_text("not numbers")
    with pytest.raises(InputError, match="four lines of four numbers"):
        read_transform(tmp_path / "words.txt")
    (tmp_path / "broken.tfm").write_text("#Insight Transform File V1.0\nTransform: Nothing\n")
    with pytest.raises(InputError, match="ITK cannot read"):
        read_transform(tmp_path / "broken.tfm")
    with pytest.raises(InputError, match="folder"):
        read_transform(tmp_path)


def test_a_given_transform_is_taken_as_it_is_and_judged_by_information(
    t1: Volume, moved_t2: tuple[Volume, Transform]
) -> None:
    scan, motion = moved_t2
    found = Registrar(None, {"t2": motion})({"t1": t1, "t2": scan}, seed=0)["t2"]
    assert found.kind == "given"
    assert np.array_equal(found.transform.matrix, motion.matrix)
    assert found.consistency is None
    assert found.information_after > 1.2 * found.information_before


def test_masks_and_transforms_must_belong_to_an_input(t1: Volume, moved_t2: tuple[Volume, Transform]) -> None:
    scans = {"t1": t1, "t2": moved_t2[0]}
    with pytest.raises(InputError, match="none of the inputs t1, t2"):
        Registrar("rigid", {"flair": moved_t2[1]})(scans, seed=0)
    with pytest.raises(InputError, match="stays in place"):
        Registrar("rigid", {"t1": moved_t2[1]})(scans, seed=0)
    with pytest.raises(GridMismatch, match="registration mask of 't2'"):
        Registrar("rigid", {}, {"t2": t1})(scans, seed=0)
    with pytest.raises(InputError, match="is empty"):
        Registrar("rigid", {}, {"t1": t1.derive(np.zeros_like(t1.voxels), Step("nothing"))})(scans, seed=0)


def test_mutual_information_of_a_scan_with_itself_is_its_entropy_and_of_noise_is_nothing() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.uniform(size=(2, 200_000))
    assert mutual_information_bits(a, a) == pytest.approx(5.0, abs=0.01)  # 32 even bins are 5 bits
    assert mutual_information_bits(a, b) < 0.01  # the bias of 961 / (2 ln 2 x 200 000) = 0.0035
