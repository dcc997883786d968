"""NiiVue in a browser without a screen: what it shows of our files, as pixels and as numbers.

NiiVue comes from npm (``npm install --no-save @niivue/niivue@0.69.0``), the browser is Chromium, driven by Playwright.
Pages are served on the loopback interface, and software draws them, so that no graphics card is needed.
"""

import functools
import http.server
import io
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from medinterp.io import colours

NIIVUE = Path("node_modules/@niivue/niivue/dist/niivue.umd.js")
ROOT = Path(__file__).parents[2]
CHROMIUM_FLAGS = (
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip
TIMEOUT_MS = 300_000
_PAGE = """<!doctype html><meta charset="utf-8"><style>body{margin:0;background:#000}</style>
<canvas id="gl" width="%(width)d" height="%(height)d" style="width:%(width)dpx;height:%(height)dpx"></canvas>
<script src="/niivue.umd.js"></script>"""
_OPEN = """async ([volumes, meshes, table, options]) => {
  const canvas = document.getElementById('gl');
  const nv = window.nv = new niivue.Niivue({isResizeCanvas: false, backColor: [0, 0, 0, 1], ...options});
  await nv.attachToCanvas(canvas);
  nv.addColormap('medinterp', table);
  await nv.loadVolumes(volumes);
  await nv.loadMeshes(meshes);
  nv.setSliceMM(true);
}"""
_JUMP = """([mm, width]) => {
  nv.setCrosshairWidth(width);
  nv.scene.crosshairPos = nv.mm2frac(mm, 0, true);
  nv.createOnLocationChange();
  nv.drawScene();
}"""
_MESHES = "() => nv.meshes.map(m => [m.extentsMin, m.extentsMax].map(e => Array.from(e)))"


def bundle() -> Path | None:
    """Return NiiVue's bundle from node_modules of the checkout or a folder above it."""
    return next((folder / NIIVUE for folder in (ROOT, *ROOT.parents) if (folder / NIIVUE).is_file()), None)


def chromium() -> str | None:
    """Return the browser."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def signed_table() -> dict[str, list[int]]:
    """Return our diverging table as NiiVue takes it."""
    table = np.rint(255 * colours.diverging()).astype(int)
    return {**{name: table[:, n].tolist() for n, name in enumerate("RGBA")}, "I": list(range(len(table)))}


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, files: dict[str, Path | bytes], *arguments: Any) -> None:
        self.files = files
        super().__init__(*arguments)

    def do_GET(self) -> None:
        found = self.files.get(self.path)
        if found is None:
            self.send_error(404)
            return
        body = found if isinstance(found, bytes) else found.read_bytes()
        kind = {"/": "text/html"}.get(self.path, "text/javascript" if self.path.endswith(".js") else "application/gzip")
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class NiivuePage:
    """A page with NiiVue, open as long as the ``with`` block.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """

    def __init__(self, *, width: int = 420, height: int = 420) -> None:
        script = bundle()
        if script is None:
            raise FileNotFoundError(f"{NIIVUE}; run: npm install --no-save @niivue/niivue@0.69.0")
        page = (_PAGE % {"width": width, "height": height}).encode()
        self._files: dict[str, Path | bytes] = {"/": page, "/niivue.umd.js": script}
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self._files))
        self._size = {"width": width, "height": height}
        self.errors: list[str] = []

    def __enter__(self) -> "NiivuePage":
        from playwright.sync_api import sync_playwright

        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=chromium(), args=CHROMIUM_FLAGS, timeout=TIMEOUT_MS
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._browser.close()
        self._playwright.stop()
        self._server.shutdown()
        self._server.server_close()

    def open(self, base: Path, map_: Path, limit: float, meshes: Sequence[Path] = (), **options: Any) -> None:
        """Show a map in signed colours from -limit to limit over a scan, and meshes, in a fresh page."""
        if hasattr(self, "_page"):
            self._page.close()
        self._page = self._browser.new_page(viewport=self._size)
        self._page.set_default_timeout(TIMEOUT_MS)
        self._page.on("pageerror", lambda error: self.errors.append(str(error)))
        self._page.goto(f"http://127.0.0.1:{self._server.server_port}/")
        signed = {"colormap": "medinterp", "cal_min": -limit, "cal_max": limit}
        volumes = [{"url": self._serve(base), "colormap": "gray"}, {"url": self._serve(map_), **signed}]
        shapes = [{"url": self._serve(mesh)} for mesh in meshes]
        look = {"isNearestInterpolation": True, "multiplanarShowRender": 0, "crosshairColor": [0, 1, 0, 1], **options}
        self._page.evaluate(_OPEN, [volumes, shapes, signed_table(), look])

    def jump(self, mm: Sequence[float], *, crosshair: float = 0) -> None:
        """Move the crosshair to a place in RAS mm; its lines are so many voxels wide."""
        self._page.evaluate(_JUMP, [[float(value) for value in mm], crosshair])

    def picture(self) -> np.ndarray:
        """Return what is seen, (rows, columns, RGB)."""
        png = self._page.locator("#gl").screenshot(timeout=TIMEOUT_MS)
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def mesh_extents(self) -> list[np.ndarray]:
        """Return the corners of every mesh as NiiVue sees them, each (2, 3) in RAS mm."""
        return [np.array(corners) for corners in self._page.evaluate(_MESHES)]

    def run(self, script: str, argument: Any = None) -> Any:
        """Run JavaScript in the page, where ``nv`` is NiiVue, and return what it returns."""
        return self._page.evaluate(script, argument)

    def _serve(self, path: Path) -> str:
        name = f"/{len(self._files)}/{path.name}"
        self._files[name] = path
        return name
