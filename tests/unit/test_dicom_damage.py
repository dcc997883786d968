"""Folders as archives leave them: junk is passed over, damage is named, and nothing is skipped in silence."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from medinterp.errors import InputError, UnsupportedSeries
from medinterp.io import dicom_pixels, read
from medinterp.io.dicom_template import template_headers
from medinterp.testing import dicom_files as files

AFFINE = files.oblique_affine()
VOXELS = files.stored_voxels()
PLACE_MM = 1e-6  # positions are written with 15 digits at most; what is left is arithmetic


def slices(**options: object) -> list[Dataset]:
    return files.series(VOXELS, AFFINE, **options)  # type: ignore[arg-type]


def assert_read_right(folder: Path, voxels: np.ndarray = VOXELS, **options: object) -> tuple[str, ...]:
    volume = read(folder, **options)  # type: ignore[arg-type]
    assert np.allclose(volume.grid.affine, AFFINE, atol=PLACE_MM)
    assert np.array_equal(volume.voxels[0], voxels.astype(np.float32))
    return volume.provenance.source.notes


def test_junk_and_a_dicomdir_are_ignored(tmp_path: Path) -> None:
    folder = files.save(slices(), tmp_path)
    (folder / "readme.txt").write_text("hello")
    (folder / ".DS_Store").write_bytes(bytes(200))
    (folder / "empty").touch()
    directory = Dataset()
    directory.SOPClassUID, directory.SOPInstanceUID = "1.2.840.10008.1.3.10", "1.2.3"
    files.save_one(directory, folder / "DICOMDIR")
    assert_read_right(folder)


def test_files_without_preamble_need_force(tmp_path: Path) -> None:
    folder = files.save(slices(), tmp_path, preamble=False)
    (folder / "readme.txt").write_text("hello, this is no DICOM at all" * 20)
    with pytest.raises(InputError, match="--force"):
        read(folder)
    assert_read_right(folder, force=True)


def test_a_truncated_slice_is_refused_not_skipped(tmp_path: Path) -> None:
    folder = files.save(slices(), tmp_path, shuffled=False)
    path = folder / "0002.dcm"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"cannot be decoded|truncated"):
        read(folder)


@pytest.mark.parametrize("kept", [140, 300, 600])
def test_a_header_cut_anywhere_is_refused_not_skipped(tmp_path: Path, kept: int) -> None:
    folder = files.save(slices(), tmp_path, shuffled=False)
    path = folder / "0002.dcm"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="file 3 of 5"):
        read(folder)


def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_decoding(tmp_path: Path) -> None:
    made = slices()
    for one in made:
        one.Rows, one.Columns = 60000, 60000
    with pytest.raises(InputError, match="header claims"):
        read(files.save(made, tmp_path))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    files.save(slices(), tmp_path / "elsewhere")
    folder = files.save(slices()[:3], tmp_path / "here")
    (folder / "link.dcm").symlink_to(tmp_path / "elsewhere" / "0000.dcm")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    volume = read(folder)
    assert volume.grid.shape[2] == 3
    assert any("links not followed: 2" in note for note in volume.provenance.source.notes)


def test_an_unreadable_file_is_an_error_without_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files.save(slices(), tmp_path, shuffled=False)
    opened = Path.open

    def refuse(self: Path, *arguments: object, **options: object) -> object:
        if self.name == "0002.dcm":
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)  # type: ignore[arg-type, call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"file 3 of 5 .*Permission denied") as caught:
        read(folder)
    assert "0002" not in str(caught.value)


def test_compressed_pixels_are_decoded(tmp_path: Path) -> None:
    folder = files.save(slices(), tmp_path)
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    assert_read_right(folder)


def test_a_missing_decoder_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plane_header = slices()[0]
    plane_header.file_meta = Dataset()
    plane_header.file_meta.TransferSyntaxUID = JPEG2000Lossless
    plane_header.PixelData = encapsulate([bytes(10)])
    from medinterp.io.dicom_headers import planes_of

    path = tmp_path / "x.dcm"
    path.write_bytes(bytes(1000))
    plane = planes_of(path, plane_header)[0]
    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda _: type("Decoder", (), {"is_available": False})())
    error = dicom_pixels._explain(RuntimeError("no plugin"), plane)
    assert isinstance(error, UnsupportedSeries)
    assert "JPEG 2000" in str(error)
    assert "pip install pylibjpeg" in str(error)


def test_an_empty_folder_and_a_missing_path_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DICOM scan found"):
        read(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "nowhere")


def test_errors_and_notes_hold_no_patient_data(tmp_path: Path) -> None:
    made = files.tilted(slices(), 12.0)
    for one in made:
        one.PatientName, one.PatientID = "Secret^Person", "ID4711"
    with pytest.raises(UnsupportedSeries) as caught:
        read(files.save(made, tmp_path / "Secret"))
    assert not any(word in str(caught.value) for word in ("Secret", "4711", made[0].SeriesInstanceUID))


def test_values_that_break_their_own_rules_are_quoted_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = slices()
    for one in made:
        one.add(DataElement("PatientAge", "AS", "Secret age", validation_mode=IGNORE))
        one.add(DataElement("StudyDate", "DA", "Secret date", validation_mode=IGNORE))
    volume = read(files.save(made, tmp_path))  # a warning would be an error in tests
    template_headers(volume)
    assert "Secret" not in caplog.text
