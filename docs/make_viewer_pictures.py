"""Make the docs' pictures of other people's viewers, one function a viewer; all run without a screen.

    python docs/make_viewer_pictures.py niivue STUDY
    VTK_DEFAULT_OPENGL_WINDOW=vtkOSOpenGLRenderWindow python docs/make_viewer_pictures.py slicer STUDY
    unshare --net --map-root-user python docs/make_viewer_pictures.py ohif STUDY SCAN_FOLDER OHIF_DIST

STUDY is a folder that medinterp wrote with ``--export nifti,meshes,pacs``, SCAN_FOLDER the DICOM series it came from,
OHIF_DIST the folder ``dist`` of the npm package @ohif/app. NiiVue comes from node_modules (``make clients``). Orthanc
listens on every interface whatever its settings, so it is only started where ``unshare --net`` has cut the network off.
"""

import csv
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image, ImageDraw

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
sys.path[:0] = [str(DOCS), str(DOCS.parent)]  # a script's folder is on the path, the checkout's is not

from serve_ohif import ORTHANC, PORT, server  # noqa: E402

from tests.clients.niivue_page import CHROMIUM_FLAGS, TIMEOUT_MS, NiivuePage, chromium  # noqa: E402

_WAIT_S = 120


def niivue(study: Path) -> None:
    """Open the first map over the denoised image, with its meshes, at the peak of its first cluster."""
    map_ = next((study / "nifti").glob("*_map.nii.gz"))
    base = next((study / "nifti").glob("*_desc-denoised_*.nii.gz"))
    mesh = next((study / "meshes").glob("*.mz3"))
    with (study / "clusters.tsv").open(encoding="utf-8") as file:
        first = next(csv.DictReader(file, delimiter="\t"))
    peak = [float(first[f"peak_{axis}_mm"]) for axis in "xyz"]
    limit = float(nibabel.load(map_).header["cal_max"])
    with NiivuePage(width=1000, height=800) as page:
        # Meshes in the 3D view alone: over slices they would hide the map.
        page.open(base, map_, limit, [mesh], multiplanarShowRender=1, meshThicknessOn2D=0, isColorbar=True)
        page.jump(peak, crosshair=0.4)
        Image.fromarray(page.picture()).save(IMAGES / "niivue.png", optimize=True)


def slicer(study: Path) -> None:
    """Open the scene of the first cluster in 3D Slicer's core, at its peak, and join the three slice views.

    The views are what Slicer's own slice pipeline blends. Its application draws rulers and letters besides, which the
    core does not; the letters here are read off the views' own matrices.
    """
    with (study / "clusters.tsv").open(encoding="utf-8") as file:
        first = next(csv.DictReader(file, delimiter="\t"))
    scene = study / "slicer" / first["input"] / "scene.mrml"
    peak = ",".join(first[f"peak_{axis}_mm"] for axis in "xyz")
    with tempfile.TemporaryDirectory() as folder:
        probe = DOCS.parent / "tests" / "clients" / "slicer_probe.py"
        subprocess.run([sys.executable, str(probe), str(scene), folder, peak], check=True)
        answer = json.loads((Path(folder) / "answer.json").read_text())
        shown = [view for view in answer["views"] if view["point"] is not None]
        panels = [_lettered(Path(folder) / view["file"], view) for view in shown]
    joined = Image.new("RGB", (sum(panel.width for panel in panels), max(panel.height for panel in panels)))
    left = 0
    for panel in panels:
        joined.paste(panel, (left, 0))
        left += panel.width
    joined.save(IMAGES / "slicer.png", optimize=True)


def _lettered(file: Path, view: dict[str, Any]) -> Image.Image:
    """Return one view's picture with the view's name and the directions to its left and top."""
    picture = Image.open(file.with_suffix(".png")).convert("RGB").resize((420, 420), Image.Resampling.BILINEAR)
    draw, matrix = ImageDraw.Draw(picture), np.array(view["xy_to_ras"])
    letters = [_towards(-matrix[:3, 0]), _towards(matrix[:3, 1])]  # y runs upwards
    for text, place in zip([view["orientation"], *letters], [(6, 4), (6, 200), (205, 4)], strict=True):
        draw.text(place, text, fill=(255, 255, 0), font_size=18)
    return picture


def _towards(direction: np.ndarray) -> str:
    axis = int(np.abs(direction).argmax())
    return ("LR", "PA", "IS")[axis][int(direction[axis] > 0)]


def ohif(study: Path, scan: Path, dist: Path) -> None:
    """Open the scan with the clusters of the first map in OHIF, from an Orthanc that holds all DICOM objects."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder, _orthanc(Path(folder)):
        for path in [*scan.rglob("*.dcm"), *(study / "dicom").rglob("*.dcm")]:
            _ask("/instances", path.read_bytes())
        (one,) = json.loads(_ask("/studies?expand"))
        viewer = server(dist)
        threading.Thread(target=viewer.serve_forever, daemon=True).start()
        _photograph(one["MainDicomTags"]["StudyInstanceUID"], IMAGES / "ohif.png")
        viewer.shutdown()


@contextmanager
def _orthanc(folder: Path) -> Iterator[None]:
    """Run an empty Orthanc with DICOMweb, without DICOM's own network service."""
    settings = {
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": int(ORTHANC.rsplit(":", 1)[1]),
        "DicomServerEnabled": False, "AuthenticationEnabled": False, "DicomWeb": {"Enable": True},
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
    }  # fmt: skip
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    process = subprocess.Popen(["Orthanc", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_orthanc()
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_for_orthanc() -> None:
    for _ in range(_WAIT_S):
        try:
            _ask("/system")
        except urllib.error.URLError:
            time.sleep(1)
        else:
            return
    raise TimeoutError(f"Orthanc has not answered for {_WAIT_S} s")


def _ask(path: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(ORTHANC + path, data=body) as answer:
        content: bytes = answer.read()
    return content


def _photograph(study_uid: str, path: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS, timeout=TIMEOUT_MS)
        page = browser.new_page(viewport={"width": 1400, "height": 850})
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(f"http://127.0.0.1:{PORT}/viewer?StudyInstanceUIDs={study_uid}")
        _open_clusters(page)
        page.screenshot(path=path)
        browser.close()


def _open_clusters(page: Any) -> None:
    """Do what a user does: away with the tour, open the segmentation, and go to its first cluster."""
    page.get_by_text("Skip all").click()
    page.get_by_text("Confirm and hide").click()
    page.get_by_text("Clusters of").first.dblclick()
    page.get_by_text("Yes", exact=True).click()
    page.locator('[data-cy="panelSegmentation-btn"]').click()
    page.get_by_text("positive 1").first.click()
    page.wait_for_timeout(10_000)  # slices and overlay are drawn one after the other, and nothing says when all are


if __name__ == "__main__":
    viewer, *folders = sys.argv[1:]
    {"niivue": niivue, "slicer": slicer, "ohif": ohif}[viewer](*map(Path, folders))
