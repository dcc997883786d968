"""The two doors of the archive for tests, on 127.0.0.1: a DICOMweb service and a DIMSE application entity."""

import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

from tests.integration.archive_double import ArchiveDouble

TOO_SLOW_S = 1.5  # what the client waits where the archive is slow
_SLOW_S = 4.0
_REFUSED = 0xC123
_TITLE = "DOUBLE"


@contextmanager
def dicomweb_door(archive: ArchiveDouble, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve an archive over DICOMweb; give the URL."""

    class Handler(_DicomWebHandler):
        pass

    Handler.archive = archive
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _DicomWebHandler(BaseHTTPRequestHandler):
    archive: ArchiveDouble
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: bytes = b"", kind: str = "application/dicom+json", **more: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _misbehave(self, fault: str) -> bool:
        """Do what the archive was told; return whether that was the answer."""
        if fault == "drop":
            self._hang_up()
        elif fault == "busy":
            self._answer(503, Retry_After="0")
        elif fault == "slow":
            time.sleep(_SLOW_S)
            self._hang_up()
        return fault in ("drop", "busy", "slow")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _may(self) -> bool:
        self.archive.headers_seen.append(self.headers.get("Authorization", ""))
        if self.archive.redirects_to:
            self._answer(307, Location=self.archive.redirects_to)
            return False
        if self.archive.denies:
            self._answer(401)
        return not self.archive.denies

    def do_POST(self) -> None:
        """STOW-RS."""
        body = self._body()
        if not self._may():
            return
        fault = self.archive.fault()
        if self._misbehave(fault):
            return
        boundary = self.headers["Content-Type"].split('boundary="')[1].split('"')[0].encode()
        data = body.split(b"--" + boundary)[1].split(b"\r\n\r\n", 1)[1][:-2]
        header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        item, answer = Dataset(), Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        if header.SOPInstanceUID in self.archive.refused:
            item.FailureReason = _REFUSED
            answer.FailedSOPSequence = [item]
            self._answer(409, answer.to_json().encode())
            return
        self.archive.add(data)
        if fault == "drop_after":
            self._hang_up()
            return
        answer.ReferencedSOPSequence, answer.FailedSOPSequence = [item], []  # empty, as Orthanc has it
        self._answer(200, answer.to_json().encode())

    def do_GET(self) -> None:
        """QIDO-RS and WADO-RS."""
        if not self._may():
            return
        address = urlsplit(self.path)
        parts = address.path.split("/")[2:]  # studies, UID, series, UID, instances, UID
        if len(parts) == 6:
            self._retrieve(parts[5])
        else:
            self._query(parts, dict(parse_qsl(address.query)))

    def _query(self, parts: list[str], query: dict[str, str]) -> None:
        if not self.archive.answers_queries:
            self._answer(501)
            return
        keys = {k: v for k, v in query.items() if k not in ("limit", "offset", "includefield")}
        keys |= dict(zip(("StudyInstanceUID", "SeriesInstanceUID"), parts[1::2], strict=False))
        level = {"studies": "STUDY", "series": "SERIES", "instances": "IMAGE"}[parts[-1]]
        found = list(self.archive.find(level, keys))[int(query["offset"]) :][: min(2, int(query["limit"]))]
        self._answer(200, json.dumps([one.to_json_dict() for one in found]).encode())

    def _retrieve(self, uid: str) -> None:
        fault = self.archive.fault()
        if self._misbehave(fault):
            return
        if uid in self.archive.refused:
            self._answer(404)
            return
        body = b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + self.archive.give(uid) + b"\r\n--edge--\r\n"
        if fault == "drop_after":  # half of it, and no length by which the client could tell
            self.send_response(200)
            self.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=edge')
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self._answer(200, body, 'multipart/related; type="application/dicom"; boundary=edge')


@contextmanager
def dimse_door(
    archive: ArchiveDouble, tls: ssl.SSLContext | None = None, *, move_to: tuple[str, int] | None = None
) -> Iterator[str]:
    """Serve an archive over DIMSE; give the address. C-MOVE sends to ``move_to``."""
    ae = AE(_TITLE)
    ae.require_called_aet = True
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES, scu_role=True, scp_role=True)
    for number in (1, 2, 3):
        ae.add_supported_context(f"1.2.840.10008.5.1.4.1.2.2.{number}")
    doing = _DimseHandlers(archive, move_to)
    handlers = [(evt.EVT_C_STORE, doing.store), (evt.EVT_C_FIND, doing.find), (evt.EVT_C_GET, doing.get)]
    handlers.append((evt.EVT_C_MOVE, doing.move))
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
    try:
        yield f"{'dicoms' if tls else 'dicom'}://{_TITLE}@127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()


class _DimseHandlers:
    def __init__(self, archive: ArchiveDouble, move_to: tuple[str, int] | None) -> None:
        self.archive, self.move_to = archive, move_to

    def _misbehave(self, fault: str, event: evt.Event) -> int | None:
        if fault == "drop":
            event.assoc.abort()
        elif fault == "slow":
            time.sleep(_SLOW_S)
        return {"drop": 0xC000, "slow": 0xC000, "busy": 0xA700}.get(fault)

    def store(self, event: evt.Event) -> int:
        fault = self.archive.fault()
        status = self._misbehave(fault, event)
        if status is not None:
            return status
        if event.request.AffectedSOPInstanceUID in self.archive.refused:
            return _REFUSED
        self.archive.add(event.encoded_dataset())
        if fault == "drop_after":
            event.assoc.abort()
        return 0x0000

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if not self.archive.answers_queries:
            yield 0xC001, None
            return
        asked = event.identifier
        keys = {e.keyword: "\\".join(e.value) if e.VM > 1 else str(e.value) for e in asked if e.value}
        for found in self.archive.find(keys.pop("QueryRetrieveLevel"), keys):
            answer = Dataset()
            answer.update({e.tag: found[e.tag] for e in asked if e.tag in found})
            yield 0xFF00, answer

    def _send(self, event: evt.Event) -> Iterator[Any]:
        fault, uid = self.archive.fault(), str(event.identifier.SOPInstanceUID)
        status = self._misbehave(fault, event)
        yield 1
        if status is not None or uid in self.archive.refused:
            yield status or _REFUSED, None
            return
        yield 0xFF00, pydicom.dcmread(io.BytesIO(self.archive.give(uid)))
        if fault == "drop_after":
            event.assoc.abort()

    def get(self, event: evt.Event) -> Iterator[Any]:
        yield from self._send(event)

    def move(self, event: evt.Event) -> Iterator[Any]:
        yield (*self.move_to, {"contexts": [_context_of(self.archive, event)]}) if self.move_to else (None, None)
        yield from self._send(event)


def _context_of(archive: ArchiveDouble, event: evt.Event) -> Any:
    from pynetdicom import build_context

    found = pydicom.dcmread(io.BytesIO(archive.objects[str(event.identifier.SOPInstanceUID)]))
    return build_context(found.SOPClassUID, found.file_meta.TransferSyntaxUID)
