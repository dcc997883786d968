"""A real Orthanc takes every kind of object that we write, and gives each back identically, by DICOMweb and DIMSE."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from medinterp.export.record import write_run_json
from tests.clients.scans import make_scan
from tests.clients.test_dicom_clients import write_object

KINDS = ("denoised", "saliency", "pm", "seg", "sr", "sc", "planes", "pr")
SCRIPT = Path(__file__).with_name("orthanc_namespace.py")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
WAYS = [f"{to}-{back}" for to in ("web", "dimse") for back in ("wado", "get", "move")]


def require_orthanc() -> None:
    """Skip where Orthanc cannot run out of everybody's reach."""
    if shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin") is None or not PLUGIN.exists():
        pytest.skip("orthanc with orthanc-dicomweb is not installed")
    tried = subprocess.run(["unshare", "-rn", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"network namespaces are not permitted here ({tried.stderr.strip()}), and Orthanc 1.10 listens on "
                    "every address")  # fmt: skip


def objects_in(folder: Path) -> dict[str, Dataset]:
    return {str(item.SOPInstanceUID): item for item in map(pydicom.dcmread, sorted(folder.rglob("*.dcm")))}


@pytest.fixture(scope="module", params=["axial_ct", "oblique_mr"])
def trip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """Let a study of every kind of object go to Orthanc and back; give the work folder and the report."""
    require_orthanc()
    work = tmp_path_factory.mktemp("orthanc")
    for kind in KINDS:
        (work / "study" / kind).mkdir(parents=True)
        write_object(kind, make_scan(request.param), work / "study" / kind)
    write_run_json(work / "study", {"seed": 1})
    uid = next(iter(objects_in(work / "study").values())).StudyInstanceUID
    call = ["unshare", "-rn", sys.executable, str(SCRIPT), str(work / "study"), str(work), uid]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        call, capture_output=True, text=True, timeout=400, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return work, json.loads(done.stdout)


@pytest.mark.parametrize("way", WAYS)
def test_orthanc_returns_each_object_identically(trip: tuple[Path, dict], way: str) -> None:
    work, _ = trip
    sent, came = objects_in(work / "study"), objects_in(work / way)
    assert len(sent) >= 4 * 9 + 4, "control: four series of images and four single objects were sent"
    assert len({item.SOPClassUID for item in sent.values()}) == 6, "control: they are of every class that we write"
    assert came.keys() == sent.keys()
    for uid, item in came.items():
        assert item == sent[uid], f"{item.SOPClassUID.name} came back changed"
        assert item.file_meta.TransferSyntaxUID == sent[uid].file_meta.TransferSyntaxUID


@pytest.mark.parametrize("protocol", ["web", "dimse"])
def test_orthanc_holds_each_object_once_after_two_sends(trip: tuple[Path, dict], protocol: str) -> None:
    work, report = trip
    count, found = len(objects_in(work / "study")), report[protocol]
    assert found["complete"]
    assert found["first"] == f"sent {count}, already there 0, refused 0"
    assert found["second"] == f"sent 0, already there {count}, refused 0"
    assert found["instances"] == count
    assert sum(series["objects"] for series in found["listed"]) == count


def test_control_a_changed_object_is_not_identical(trip: tuple[Path, dict]) -> None:
    work, _ = trip
    sent, came = objects_in(work / "study"), objects_in(work / "web-wado")
    uid = next(iter(sent))
    came[uid].SeriesDescription = "changed"
    assert came[uid] != sent[uid]
