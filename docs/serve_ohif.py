"""Serve OHIF's viewer and an Orthanc behind it on one address: ``python docs/serve_ohif.py DIST``.

DIST is the folder ``dist`` of the npm package @ohif/app. Orthanc answers DICOMweb at http://127.0.0.1:8042/dicom-web/;
one address for both keeps the browser from refusing answers of another origin. Only this machine can reach it.
"""

import functools
import http.server
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ORTHANC = "http://127.0.0.1:8042"
PORT = 3000
CONFIG = b"""window.config = {
  routerBasename: '/', extensions: [], modes: [], showStudyList: true, maxNumberOfWebWorkers: 3,
  defaultDataSourceName: 'orthanc',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'orthanc',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc',
      qidoRoot: '/dicom-web', wadoRoot: '/dicom-web', wadoUriRoot: '/wado',
      imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true,
      qidoSupportsIncludeField: false, supportsReject: false, supportsFuzzyMatching: false, supportsWildcard: true,
      omitQuotationForMultipartRequest: true, bulkDataURI: {enabled: true},
    },
  }],
};
"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of OHIF, its settings, and what Orthanc answers; any other address is a page of OHIF's own."""

    def do_GET(self) -> None:
        """Answer one request."""
        if self.path.startswith(("/dicom-web/", "/wado")):
            self._pass_on()
        elif self.path == "/app-config.js":
            self._answer(200, "text/javascript", CONFIG)
        else:
            if not Path(self.translate_path(self.path)).is_file():
                self.path = "/index.html"
            super().do_GET()

    def _pass_on(self) -> None:
        request = urllib.request.Request(ORTHANC + self.path, headers={"Accept": self.headers.get("Accept", "*/*")})
        try:
            with urllib.request.urlopen(request) as answer:
                self._answer(answer.status, answer.headers.get("Content-Type", ""), answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, error.headers.get("Content-Type", ""), error.read())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing: addresses name studies."""


def server(dist: Path) -> http.server.ThreadingHTTPServer:
    """Return the server, not yet running."""
    Handler.extensions_map = {**Handler.extensions_map, ".js": "text/javascript", ".wasm": "application/wasm"}
    return http.server.ThreadingHTTPServer(("127.0.0.1", PORT), functools.partial(Handler, directory=str(dist)))


if __name__ == "__main__":
    server(Path(sys.argv[1])).serve_forever()
