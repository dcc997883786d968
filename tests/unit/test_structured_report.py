"""A structured report holds every number with its unit, uncertainty and place, and cites the slice it was taken on."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from medinterp.errors import InputError
from medinterp.io.dicom_sr import Reading, ReadingGroup, write_measurement_report
from medinterp.io.dicom_template import template_headers
from tests.clients.scans import make_scan

_SIGMA = Reading("Noise standard deviation", 3.25, "a.u.", above=0.5, below=0.25)


def write(path: Path, scan: str = "oblique_mr", index: tuple[int, int, int] = (4, 5, 6)) -> pydicom.Dataset:
    volume = make_scan(scan)
    x, y, z = (float(v) for v in volume.grid.to_world(list(index)))
    groups = [
        ReadingGroup("Noise of t1", (_SIGMA,), (("Noise model", "rician"),)),
        ReadingGroup("mean of sphere", (Reading("mean after denoising", 1 / 3, "a.u."), Reading("Volume", 12.5, "mm3")),
                     (("Certificate", "passed"),), at_mm=(x, y, z), method="saliency"),
    ]  # fmt: skip
    headers = template_headers(volume)
    return pydicom.dcmread(write_measurement_report(groups, headers, path, description="Measurements on t1"))


def test_another_reader_finds_values_units_and_verdicts(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm")
    noise, mean = srread(tmp_path / "a.dcm").content.get_image_measurement_groups()
    assert noise.tracking_identifier == "Noise of t1"
    (sigma,) = noise.get_measurements()
    assert (sigma.name.meaning, sigma.value, sigma.unit.value) == ("Noise standard deviation", 3.25, "[arb'U]")
    found = {m.name.meaning: (m.value, m.unit.value) for m in mean.get_measurements()}
    assert found["Volume"] == (12.5, "mm3")
    # a decimal string has 16 characters
    assert found["mean after denoising"][0] == pytest.approx(1 / 3, rel=1e-13)
    verdicts = {v.name.meaning: v.value.meaning for v in mean.get_qualitative_evaluations()}
    assert verdicts["Certificate"] == "passed"


def items(dataset: pydicom.Dataset, kind: str) -> list[pydicom.Dataset]:
    own = [dataset] if dataset.get("ValueType") == kind else []
    return own + [found for child in dataset.get("ContentSequence", []) for found in items(child, kind)]


def test_the_range_of_uncertainty_is_in_the_unit_of_the_measurement(tmp_path: Path) -> None:
    numbers = {n.ConceptNameCodeSequence[0].CodeMeaning: n.MeasuredValueSequence[0]
               for n in items(write(tmp_path / "a.dcm"), "NUM")}  # fmt: skip
    for words, expected in (("+, range of upper", 0.5), ("-, range of lower", 0.25)):
        (found,) = [value for name, value in numbers.items() if name.startswith(words)]
        assert found.NumericValue == expected
        assert found.MeasurementUnitsCodeSequence[0].CodeValue == "[arb'U]"


def test_the_place_is_stated_in_lps_and_the_slice_through_it_is_cited(tmp_path: Path) -> None:
    scan = make_scan("oblique_mr")
    report = write(tmp_path / "a.dcm", index=(4, 5, 6))
    places = items(report, "SCOORD3D")
    assert len(places) == 2
    for place in places:
        assert place.ReferencedFrameOfReferenceUID == scan.grid.frame_uid
        # graphic data is single precision: below 1e-5 mm at 100 mm
        expected = scan.grid.to_world([4, 5, 6]) * [-1, -1, 1]
        np.testing.assert_allclose(place.GraphicData, expected, atol=1e-4)
    (image,) = items(report, "IMAGE")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.7"  # of slice 6, counted from 1
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == scan.grid.shape[2]


def test_a_scan_that_never_was_dicom_is_cited_nowhere(tmp_path: Path) -> None:
    report = write(tmp_path / "a.dcm", scan="nifti_oblique")
    assert not items(report, "IMAGE")
    assert "CurrentRequestedProcedureEvidenceSequence" not in report
    assert len(items(report, "SCOORD3D")) == 2


def test_patient_and_study_are_the_scan_s_and_nothing_else_of_it_travels(tmp_path: Path) -> None:
    report = write(tmp_path / "a.dcm")
    assert (report.PatientName, report.PatientID, report.StudyInstanceUID) == ("Doe^Jörg", "secret-17", "1.2.4")
    assert b"never copied" not in (tmp_path / "a.dcm").read_bytes()
    assert "BodyPartExamined" not in report
    assert report.SeriesDescription.endswith("(research use only)")
    assert (report.VerificationFlag, report.CompletionFlag) == ("UNVERIFIED", "COMPLETE")


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 groups"):
        write_measurement_report([], template_headers(make_scan("axial_ct")), tmp_path / "a.dcm", description="")
