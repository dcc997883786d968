"""NRRD volumes and sequences say where their voxels are, in which unit, and the same bytes each time."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from medinterp.errors import GridMismatch, InputError
from medinterp.io.nrrd import write_nrrd, write_seq_nrrd
from medinterp.volume import Grid, Provenance, Source, Volume

_AT = (5, 7, 2)
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
WORLD_TOLERANCE_MM = 1e-3  # what every export must keep; the header's decimals hold 1e-12


def oblique(shape: tuple[int, int, int] = (9, 11, 6)) -> Grid:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (15, -20, 25), degrees=True).as_matrix()
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([0.9, 1.1, -2.5]), (10.123456789, -20, 30.5)
    return Grid(shape, affine)


def impulse(value: float = 7.5, grid: Grid | None = None, unit: str = "a.u.") -> Volume:
    where = grid or oblique()
    voxels = np.zeros((1, *where.shape), dtype=np.float32)
    voxels[(0, *_AT)] = value
    return Volume(voxels, where, unit, "MR", Provenance(Source("memory")))


def itk_affine(image: SimpleITK.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return _FLIP @ affine


def test_an_impulse_on_an_oblique_left_handed_grid_is_where_it_was(tmp_path: Path) -> None:
    volume = impulse()
    image = SimpleITK.ReadImage(str(write_nrrd(volume, tmp_path / "map.nrrd", description="a map")))
    values = SimpleITK.GetArrayFromImage(image).T
    np.testing.assert_array_equal(values, volume.voxels[0])
    (index,) = np.argwhere(values != 0).tolist()
    found = _FLIP[:3, :3] @ np.array(image.TransformIndexToPhysicalPoint(index))
    assert np.abs(found - volume.grid.to_world(list(_AT))).max() < WORLD_TOLERANCE_MM
    assert Grid(values.shape, itk_affine(image)).mismatch(volume.grid, WORLD_TOLERANCE_MM) is None


def test_the_control_a_millimetre_off_is_noticed(tmp_path: Path) -> None:
    volume = impulse()
    shifted = volume.grid.affine.copy()
    shifted[0, 3] += 1.0
    image = SimpleITK.ReadImage(str(write_nrrd(volume, tmp_path / "map.nrrd", description="a map")))
    assert Grid(volume.grid.shape, itk_affine(image)).mismatch(Grid(volume.grid.shape, shifted), 1e-3) is not None


def test_unit_description_and_what_else_is_known_are_in_the_header(tmp_path: Path) -> None:
    about = {"Sigma": 2.5, "Method": "saliency", "Order": [1, 2]}
    path = write_nrrd(impulse(unit="HU"), tmp_path / "map.nrrd", description="of two\nlines", about=about)
    header = path.read_bytes().partition(b"\n\n")[0].decode().splitlines()
    assert {'sample units: "HU"', 'space units: "mm" "mm" "mm"', "content: of two lines"} <= set(header)
    assert "space: left-posterior-superior" in header
    said = dict(line.split(":=") for line in header if ":=" in line)
    assert said == {"Modality": "MR", "Sigma": "2.5", "Method": "saliency", "Order": json.dumps([1, 2])}
    read = SimpleITK.ReadImage(str(path))
    assert read.GetMetaData("Sigma") == "2.5"


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_nrrd(impulse(), tmp_path / name, description="a map") for name in ("a.nrrd", "b.nrrd"))
    assert one.read_bytes() == two.read_bytes()


def test_every_step_of_a_sequence_comes_back_in_order_and_in_place(tmp_path: Path) -> None:
    steps = {"0": impulse(1.0), "0.5": impulse(2.0), "1": impulse(4.0)}
    path = write_seq_nrrd(steps, tmp_path / "map.seq.nrrd", description="a sequence", index="sigma")
    image = SimpleITK.ReadImage(str(path))  # ITK reads the list axis as the components of a vector
    values = SimpleITK.GetArrayFromImage(image)
    assert image.GetNumberOfComponentsPerPixel() == 3
    assert values.transpose(2, 1, 0, 3)[_AT].tolist() == [1.0, 2.0, 4.0]
    assert Grid(image.GetSize(), itk_affine(image)).mismatch(oblique(), WORLD_TOLERANCE_MM) is None
    assert image.GetMetaData("axis 0 index values") == "0 0.5 1"
    assert image.GetMetaData("axis 0 index type") == "numeric"


def test_steps_with_names_are_told_as_text_without_spaces(tmp_path: Path) -> None:
    steps = {"the scan": impulse(), "denoised": impulse()}
    image = SimpleITK.ReadImage(str(write_seq_nrrd(steps, tmp_path / "a.seq.nrrd", description="d", index="image")))
    assert image.GetMetaData("axis 0 index values") == "the-scan denoised"
    assert image.GetMetaData("axis 0 index type") == "text"


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    grid = oblique((9, 11, 7))
    two = Volume(np.zeros((2, *grid.shape), dtype=np.float32), grid, "1", "MR", Provenance(Source("memory")))
    with pytest.raises(InputError, match="2 channels"):
        write_nrrd(two, tmp_path / "a.nrrd", description="")
    for wrong, error in (({"a": impulse(), "b": impulse(grid=grid)}, GridMismatch),
                         ({"a": impulse(), "b": impulse(unit="HU")}, InputError), ({}, InputError)):  # fmt: skip
        with pytest.raises(error):
            write_seq_nrrd(wrong, tmp_path / "a.seq.nrrd", description="", index="step")
