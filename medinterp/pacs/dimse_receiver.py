"""The receiving end of C-GET and C-MOVE: writes the one object that was asked for, and refuses every other."""

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.events import Event

from medinterp.errors import ConfigError, ObjectRefused
from medinterp.pacs.servers import Server

_SUCCESS, _NOT_WANTED, _NO_ROOM = 0x0000, 0xA900, 0xA700


class Receiver:
    """Takes what an archive sends while an object is expected."""

    def __init__(self) -> None:
        self._wanted, self._path = "", Path()
        self._received = False
        self._error: OSError | None = None
        self.failed = False

    def expect(self, sop_uid: str, path: Path) -> None:
        """Say which object comes next and where it goes."""
        self._wanted, self._path = sop_uid, path
        self._received, self._error, self.failed = False, None, False

    def handlers(self) -> list[Any]:
        """Return what pynetdicom calls."""
        return [(evt.EVT_C_STORE, self._store)]

    def _store(self, event: Event) -> int:
        request: Any = event.request
        if str(request.AffectedSOPInstanceUID) != self._wanted:
            self.failed = True
            return _NOT_WANTED
        try:
            self._path.write_bytes(event.encoded_dataset())
        except OSError as error:  # told to the archive here, and to the user where the object was asked for
            self._error, self.failed = error, True
            return _NO_ROOM
        self._received = True
        return _SUCCESS

    def require_received(self, host: str) -> None:
        """Raise unless the expected object is on the disk.

        Args:
            host: of the archive.

        Raises:
            OSError: the disk would not take it.
            ObjectRefused: the archive said that it was done and sent nothing, or something else.
        """
        if self._error is not None:
            raise self._error
        if not self._received:
            sent = "another object" if self.failed else "nothing"
            raise ObjectRefused(f"{host} sent {sent} for it")


@contextmanager
def listening(
    server: Server, receiver: Receiver, sop_class: str, syntaxes: Sequence[str], tls: ssl.SSLContext | None = None
) -> Iterator[None]:
    """Listen for what an archive moves to us; only associations between the two configured titles are accepted.

    Args:
        server: whose ``listen`` says where.
        receiver: what takes the object.
        sop_class: of the object.
        syntaxes: in which it may come.
        tls: for encrypted connections.

    Raises:
        ConfigError: there is no address, or it cannot be listened at.
    """
    address = server.listen
    if address is None:
        raise ConfigError("retrieve = move needs listen = HOST:PORT, the address at which the archive reaches you")
    ae = AE(server.calling_aet)
    ae.require_called_aet, ae.require_calling_aet = True, [server.called_aet]
    ae.add_supported_context(sop_class, list(syntaxes))
    try:
        running: Any = ae.start_server(address, block=False, evt_handlers=receiver.handlers(), ssl_context=tls)
    except OSError as error:
        raise ConfigError(f"cannot listen at {address[0]}:{address[1]}: {error.strerror}; change listen") from None
    try:
        yield
    finally:
        running.shutdown()
