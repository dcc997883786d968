"""A study written with --deidentify holds nothing of the headers that names the patient, and still hangs together."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

import medinterp
from medinterp.errors import InputError, PluginError
from medinterp.io import deidentify
from medinterp.testing import dicom_files as files
from tests.integration.scans import write_scan

_EVERYTHING = "nifti,nrrd,slicer,pacs,report"
# Every value representation that holds words, numbers or bytes, in attributes that the profile lists.
_MARKED: dict[str, Any] = {
    "PatientName": "ZQ01Marker^Patient",
    "PatientID": "ZQ02MARKER",
    "PatientBirthDate": "19430917",
    "PatientBirthTime": "061728.913527",
    "PatientAge": "077Y",
    "PatientWeight": "83.1729",
    "OtherPatientIDs": "ZQ03MARKER",
    "PatientAddress": "ZQ04Marker Street 5",
    "PatientComments": "ZQ05Marker long text",
    "EthnicGroup": "ZQ06MARKER",
    "InstitutionName": "ZQ07Marker Hospital",
    "InstitutionAddress": "ZQ08Marker Road",
    "ReferringPhysicianName": "ZQ09Marker^Doctor",
    "OperatorsName": "ZQ10Marker^Operator",
    "AccessionNumber": "ZQ11MARKER",
    "StudyID": "ZQ12MARKER",
    "StudyDescription": "ZQ13Marker study",
    "SeriesDescription": "ZQ14Marker series",
    "ImageComments": "ZQ15Marker comment",
    "StationName": "ZQ16MARKER",
    "RetrieveURL": "http://zq17marker.example/patient",
    "StationAETitle": "ZQ18MARKER",
    "AcquisitionComments": "ZQ19Marker unlimited text",
    "StudyDate": "20171123",
    "StudyTime": "131517.482916",
    "SeriesDate": "20171124",
    "AcquisitionDate": "20171125",
    "AcquisitionTime": "141618.573914",
    "AcquisitionDateTime": "20171126151719",
    "ContentDate": "20171127",
    "InstanceCreationDate": "20171128",
    "DeviceSerialNumber": "ZQ20MARKER",
    "ProtocolName": "ZQ21Marker protocol",
    "RequestedProcedureDescription": "ZQ22Marker procedure",
}
_PRIVATE = b"ZQ30Marker private bytes"


def marked_series() -> list[Dataset]:
    """Return a small blob as a series whose headers name the patient wherever they can."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (28, 26, 22)), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    noise = np.random.default_rng(0).normal(0, 20, radius.shape)
    voxels = np.abs(400.0 * (radius < 0.8) + 240.0 * (radius < 0.35) + noise).astype(np.int16)
    affine = files.oblique_affine((1.1, 1.1, 1.5))
    affine[:3, 3] = -affine[:3, :3] @ (np.array(voxels.shape) - 1) / 2  # the blob lies at the origin
    return [_marked(header) for header in files.series(voxels, affine)]


def _marked(header: Dataset) -> Dataset:
    for keyword, value in _MARKED.items():
        setattr(header, keyword, value)
    person = Dataset()
    person.PersonName = "ZQ40Marker^Nested"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = header.SOPClassUID, "1.2.3.98765.40"
    reference.PersonIdentificationCodeSequence = [person]
    reference.PatientComments = "ZQ41Marker deep in a sequence that stays"
    header.ReferencedImageSequence = [reference]
    block = header.private_block(0x0029, "ZQ31MARKER CREATOR", create=True)
    block.add_new(0x10, "OB", _PRIVATE)
    block.add_new(0x11, "LO", "ZQ32Marker private text")
    return header


def secrets_of(headers: list[Dataset]) -> set[bytes]:
    """Return every text that must not be found; UIDs that the standard defines are no secret."""
    found = {str(value).encode() for value in _MARKED.values()} | {_PRIVATE, b"1.2.3.98765.40", b"83.17"}
    found |= {f"ZQ{number:02d}".encode() for number in range(1, 50)} | {b"zq17marker"}
    for header in headers:
        found |= {
            str(e.value).encode() for e in header if e.VR == "UI" and not str(e.value).startswith("1.2.840.10008")
        }
    return found


def holds(content: bytes, secret: bytes) -> bool:
    """Whether a content holds a secret; digits count where they stand alone, since new UIDs are long random numbers."""
    if not secret.isdigit():
        return secret in content
    return secret in content and re.search(rb"(?<!\d)" + secret + rb"(?!\d)", content) is not None


def all_bytes(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the content of every file, packed ones unpacked too."""
    import gzip
    import zipfile

    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        yield path.name, path.read_bytes()
        if path.name.endswith(".gz"):
            yield path.name, gzip.decompress(path.read_bytes())
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                yield from ((name, packed.read(name)) for name in packed.namelist())


@pytest.fixture(scope="module")
def headers() -> list[Dataset]:
    return marked_series()


@pytest.fixture(scope="module")
def study(headers: list[Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ZQ33marker")
    files.save(headers, folder / "ZQ34marker_doe")
    out = folder / "out"
    medinterp.run(folder / "ZQ34marker_doe", out, targets=("sphere:0,0,0,4",), export=_EVERYTHING, deidentify=True)
    return out


def objects_of(study: Path) -> list[Dataset]:
    return [dcmread(path) for path in sorted((study / "dicom").rglob("*.dcm"))]


def test_no_marker_of_the_source_is_in_any_byte_of_the_study(study: Path, headers: list[Dataset]) -> None:
    secrets = secrets_of(headers)
    found = {(name, secret) for name, content in all_bytes(study) for secret in secrets if holds(content, secret)}
    assert not found


def test_the_search_finds_the_markers_where_they_are_not_removed(headers: list[Dataset], tmp_path: Path) -> None:
    source = files.save(headers, tmp_path / "scan")
    medinterp.run(source, tmp_path / "out", targets=(), methods=(), export="dicom_series")
    content = b"".join(content for _, content in all_bytes(tmp_path / "out"))
    assert {b"ZQ01", b"ZQ11", b"19430917", b"20171123"} <= {s for s in secrets_of(headers) if s in content}


def test_every_object_says_that_and_how_identity_was_removed(study: Path) -> None:
    for one in objects_of(study):
        assert one.PatientIdentityRemoved == "YES"
        assert [item.CodeValue for item in one.DeidentificationMethodCodeSequence] == ["113100"]
        assert one.LongitudinalTemporalInformationModified == "REMOVED"
        assert not any(element.tag.is_private for element in one.iterall())


def test_no_object_says_when_the_scan_or_the_run_was_made(study: Path) -> None:
    dates = {str(e.value) for one in objects_of(study) for e in one.iterall() if e.VR in ("DA", "DT") and e.value}
    assert dates <= {"19000101", "19000101000000"}


def test_every_reference_leads_to_an_object_of_the_study(study: Path) -> None:
    objects = objects_of(study)
    held = {str(one.SOPInstanceUID) for one in objects}
    assert len(held) == len(objects)
    outside = {"1.2.3.98765.40"}  # what the scan itself refers to and the study never held
    referred = {
        str(element.value)
        for one in objects
        for element in one.iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    }
    assert len(referred - held) == len(outside)
    assert len({str(one.StudyInstanceUID) for one in objects}) == 1
    assert len({str(one.PatientID) for one in objects}) == 1
    frames = {str(one.FrameOfReferenceUID) for one in objects if "FrameOfReferenceUID" in one}
    assert len(frames) == 1


def test_the_copied_scan_reads_as_the_same_voxels_in_the_same_place(
    study: Path, headers: list[Dataset], tmp_path: Path
) -> None:
    original = medinterp.read(files.save(headers, tmp_path))
    copied = medinterp.read(study / "dicom" / "scan-scan")
    assert np.array_equal(copied.voxels, original.voxels)
    assert original.grid.mismatch(copied.grid, 1e-9) is None


def test_the_record_says_what_was_asked_and_what_remains_and_no_hash_of_the_files(study: Path) -> None:
    record = json.loads((study / "run.json").read_text(encoding="utf-8"))
    assert record["parameters"]["deidentify"] is True
    assert any("a face can be recognised" in note for note in record["notes"])
    assert record["inputs"]["scan"]["sha256"] == ""


def test_two_runs_cannot_be_joined_by_their_identifiers(headers: list[Dataset]) -> None:
    first, second = deidentify.Deidentifier(), deidentify.Deidentifier()
    uid = str(headers[0].StudyInstanceUID)
    assert first.uid(uid) == first.uid(uid) != second.uid(uid)
    assert first.patient_id != second.patient_id


def test_a_scan_with_text_burned_into_its_pixels_is_refused(headers: list[Dataset], tmp_path: Path) -> None:
    burned = marked_series()
    burned[3].BurnedInAnnotation = "YES"
    with pytest.raises(InputError, match="Burned In Annotation YES"):
        medinterp.run(files.save(burned, tmp_path / "scan"), tmp_path / "out", deidentify=True)
    assert not (tmp_path / "out").exists()


def test_a_nifti_scan_has_nothing_to_remove_and_runs_all_the_same(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "doe_jane_19700101.nii.gz")
    out = medinterp.run(scan, tmp_path / "out", targets=("voxel:0,0,0",), deidentify=True).folder
    assert not [name for name, content in all_bytes(out) if b"doe_jane" in content]
    assert {one.PatientIdentityRemoved for one in objects_of(out)} == {"YES"}


def test_without_the_package_the_extra_is_named_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dicomanonymizer.dicomfields_selector", None)
    deidentify.profile_actions.cache_clear()
    with pytest.raises(PluginError, match=r"pip install 'medinterp\[deidentify\]'"):
        medinterp.run(tmp_path / "nothing", tmp_path / "out", deidentify=True)
