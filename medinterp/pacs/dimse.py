"""An archive over DIMSE: C-FIND to search, C-GET or C-MOVE to retrieve, C-STORE to store; one association at a time."""

import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext

from medinterp.errors import AccessDenied, ConfigError, ObjectRefused, Unreachable
from medinterp.pacs.archive import Level, StoredObject
from medinterp.pacs.attributes import UNIQUE, as_texts
from medinterp.pacs.dimse_receiver import Receiver, listening
from medinterp.pacs.dimse_status import raise_unless_success, store_outcome
from medinterp.pacs.servers import Server

# Study Root Query/Retrieve Information Models, PS3.4 table C.6.2-1.
_FIND, _MOVE, _GET = (UID(f"1.2.840.10008.5.1.4.1.2.2.{number}") for number in (1, 2, 3))
# Offered one context each, so that the archive sends what it has as it is; an acceptor takes one syntax a context.
_SYNTAXES = (
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203",
)  # fmt: skip
_PERMANENT = 1
_TITLE_NOT_KNOWN = {3: "our application entity title (calling_aet)", 7: "the archive's application entity title"}


class Dimse:
    """An archive's application entity; an association is opened when needed and again after it broke.

    Args:
        server: where it is.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ae = AE(server.calling_aet)
        for timeout in ("acse_timeout", "dimse_timeout", "network_timeout", "connection_timeout"):
            setattr(self._ae, timeout, server.timeout_s)
        self._association: Association | None = None
        self._purpose: tuple[str, ...] = ()
        self._receiver = Receiver()

    def __enter__(self) -> "Dimse":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def search(
        self, level: Level, keys: Mapping[str, str], returned: tuple[str, ...] = ()
    ) -> Iterator[Mapping[str, str]]:
        """Yield the attributes of what matches at a level."""
        query = Dataset()
        query.QueryRetrieveLevel = level.value
        for keyword in (*returned, UNIQUE[level]):
            setattr(query, keyword, "")
        for keyword, value in keys.items():
            setattr(query, keyword, value.split("\\") if keyword.endswith("UID") else value)
        with self._explained("query"):
            association = self._open(("find",), [build_context(_FIND)])
            answers = list(association.send_c_find(query, _FIND))  # whole, so that nothing else comes between
        for status, item in answers:
            raise_unless_success(status, "query", self._server.host)
            if item is not None:
                yield as_texts(item)

    def store(self, path: Path) -> str:
        """Store one file, in its own transfer syntax."""
        item = pydicom.dcmread(path)
        sop_class, syntax = str(item.SOPClassUID), str(item.file_meta.TransferSyntaxUID)
        association = self._open(("store", sop_class, syntax), [build_context(sop_class, syntax)])
        if not association.accepted_contexts:
            raise ObjectRefused(f"the archive takes no {UID(sop_class).name} in {UID(syntax).name}")
        with self._explained("storing"):
            status = association.send_c_store(item)
        return store_outcome(status, self._server.host)

    def retrieve(self, wanted: StoredObject, path: Path) -> None:
        """Write one object to a file as the archive encodes it."""
        self._receiver.expect(wanted.sop_uid, path)
        with self._explained("retrieving"):
            if self._server.retrieve == "move":
                self._move(wanted)
            else:
                self._get(wanted)
        self._receiver.require_received(self._server.host)

    def _get(self, wanted: StoredObject) -> None:
        sop_class = self._class_of(wanted)
        contexts = [build_context(_GET), *(build_context(sop_class, syntax) for syntax in _SYNTAXES)]
        association = self._open(("get", sop_class), contexts, [build_role(sop_class, scp_role=True)])
        for status, _ in association.send_c_get(_identifier(wanted), _GET):
            raise_unless_success(status, "retrieving", self._server.host, partly=self._receiver.failed)

    def _move(self, wanted: StoredObject) -> None:
        sop_class = self._class_of(wanted)
        with listening(self._server, self._receiver, sop_class, _SYNTAXES, self._tls(server_side=True)):
            association = self._open(("move",), [build_context(_MOVE)])
            for status, _ in association.send_c_move(_identifier(wanted), self._server.calling_aet, _MOVE):
                raise_unless_success(status, "retrieving", self._server.host, partly=self._receiver.failed)

    def _class_of(self, wanted: StoredObject) -> str:
        if not wanted.sop_class:
            raise ObjectRefused("the archive does not say of which SOP class the object is, which C-GET has to know")
        return wanted.sop_class

    def _open(
        self, purpose: tuple[str, ...], contexts: list[PresentationContext], roles: Sequence[Any] = ()
    ) -> Association:
        """Return an association for a purpose: the one there is if it serves, or a new one."""
        if self._association is not None and self._association.is_established and self._purpose == purpose:
            return self._association
        self._close()
        server = self._server
        tls = self._tls()
        found = self._ae.associate(
            server.host,
            server.port,
            contexts=contexts,
            ae_title=server.called_aet,
            ext_neg=[*roles, *self._identity()],
            tls_args=None if tls is None else (tls, server.host),
            evt_handlers=self._receiver.handlers(),
        )
        if found.is_rejected:
            raise _rejected(found, server)
        if not found.is_established and found.acceptor.primitive is None:
            raise Unreachable(f"{server.host} port {server.port} accepts no association")
        if not found.is_established and purpose[0] != "store":
            raise ObjectRefused(f"{server.host} does not offer what {purpose[0]} needs")
        self._association, self._purpose = found, purpose
        return found

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Put what pynetdicom raises into words: the association is gone, or an object cannot be encoded for it."""
        try:
            yield
        except RuntimeError:
            raise Unreachable(f"the connection to {self._server.host} failed ({what})") from None
        except (ValueError, AttributeError) as error:
            raise ObjectRefused(f"it cannot be encoded as the archive wants it ({type(error).__name__})") from None

    def _close(self) -> None:
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    def _identity(self) -> list[UserIdentityNegotiation]:
        credentials = self._server.credentials
        if not credentials:
            return []
        identity = UserIdentityNegotiation()
        if credentials.token:
            identity.user_identity_type, identity.primary_field = 5, credentials.token.encode()  # a JSON web token
        else:
            identity.user_identity_type = 2
            identity.primary_field = credentials.username.encode()
            identity.secondary_field = credentials.password.encode()
        return [identity]

    def _tls(self, *, server_side: bool = False) -> ssl.SSLContext | None:
        if not self._server.encrypted:
            return None
        files = self._server.tls
        purpose = ssl.Purpose.CLIENT_AUTH if server_side else ssl.Purpose.SERVER_AUTH
        try:
            context = ssl.create_default_context(purpose, cafile=files.ca_file or None)
            if files.certificate:
                context.load_cert_chain(files.certificate, files.key or None)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"ca_file, certificate or key cannot be used: {error.strerror}") from None
        if server_side and files.ca_file:
            context.verify_mode = ssl.CERT_REQUIRED  # whoever moves objects to us has to prove who he is, too
        return context


def _identifier(wanted: StoredObject) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = Level.image.value
    identifier.StudyInstanceUID, identifier.SeriesInstanceUID = wanted.study_uid, wanted.series_uid
    identifier.SOPInstanceUID = wanted.sop_uid
    return identifier


def _rejected(found: Association, server: Server) -> Exception:
    """Say why an association was rejected; a congested archive may accept the next one (PS3.8 table 9-21)."""
    answer = found.acceptor.primitive
    source, reason = getattr(answer, "result_source", None), getattr(answer, "diagnostic", None)
    if getattr(answer, "result", None) != _PERMANENT:
        return Unreachable(f"{server.host} rejects the association for now")
    wrong = _TITLE_NOT_KNOWN.get(int(reason or 0)) if source == 1 else None
    return AccessDenied(f"{server.host} rejects the association" + (f": it does not know {wrong}" if wrong else ""))
