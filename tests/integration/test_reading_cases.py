"""Every kind of input in the table of docs/reading.md: shown as it is, noted, or refused with the reason."""

import logging
import re
from pathlib import Path

import pytest

from medinterp.errors import MedinterpError
from medinterp.io import read
from medinterp.testing.known_points import Shown, Verdict, judge
from medinterp.testing.nifti_cases import NIFTI_CASES
from medinterp.testing.nrrd_cases import NRRD_CASES
from medinterp.testing.reading_cases import DICOM_CASES, ReadingCase

CASES = (*DICOM_CASES, *NIFTI_CASES, *NRRD_CASES)
PAGE = Path(__file__).parents[2] / "docs" / "reading.md"


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # the makers write odd files, and pydicom says so
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} {case.name}")
def test_a_file_is_shown_as_it_is_or_refused_with_the_reason(case: ReadingCase, tmp_path: Path) -> None:
    path, truths = case.make(tmp_path / "scan")
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)
    try:
        volume = read(path, **case.options)
    except MedinterpError as error:
        shown, said = [], [str(error)]
    else:
        shown, said = [Shown(volume.voxels[0], volume.grid.affine)], list(volume.provenance.source.notes)
    assert judge(shown, truths, said=bool(said)) is case.expected
    assert re.search(case.words, "\n".join(said), re.DOTALL)


def test_no_verdict_of_ours_is_one_that_nobody_should_trust() -> None:
    assert {case.expected for case in CASES} <= {Verdict.RIGHT, Verdict.NOTED, Verdict.REFUSED}


def test_the_table_in_the_docs_has_every_case_with_what_is_expected_of_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for case in CASES:
        assert f"| {case.kind}: {case.name} | {case.expected.value} |" in page


def test_a_flipped_or_moved_volume_is_judged_wrong(tmp_path: Path) -> None:
    path, truths = DICOM_CASES[0].make(tmp_path / "scan")
    volume = read(path)
    voxels, affine = volume.voxels[0], volume.grid.affine
    assert judge([Shown(voxels, affine)], truths, said=False) is Verdict.RIGHT
    assert judge([Shown(voxels[:, :, ::-1], affine)], truths, said=False) is Verdict.WRONG
    moved = affine.copy()
    moved[0, 3] += 0.2
    assert judge([Shown(voxels, moved)], truths, said=False) is Verdict.WRONG
    assert judge([], truths, said=True) is Verdict.REFUSED
