"""An archive over DICOMweb: QIDO-RS to search, WADO-RS to retrieve, STOW-RS to store; one object a request."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from medinterp.errors import AccessDenied, ConfigError, ObjectRefused, Unreachable
from medinterp.pacs.archive import Level, StoredObject
from medinterp.pacs.attributes import UNIQUE, as_texts
from medinterp.pacs.credentials import Credentials
from medinterp.pacs.servers import Server

Answer = TypeVar("Answer")

_BUSY = {408, 425, 429, 500, 502, 503, 504}
_DENIED = {401, 403, 407}
_OUT_OF_RESOURCES = 0xA7
_PAGE = 1000


class _Bearer(requests.auth.AuthBase):
    """Show a token, or nothing; nothing, too, has to be said, else requests looks into netrc by itself."""

    def __init__(self, token: str = "") -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _OwnAuthority(requests.adapters.HTTPAdapter):
    """Trust one file of authorities; set on a session, REQUESTS_CA_BUNDLE would take its place."""

    def __init__(self, ca_file: str) -> None:
        super().__init__()
        self._ca_file = ca_file

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request; the certificate is checked against that file."""
        return super().send(request, **{**options, "verify": self._ca_file})


class DicomWeb:
    """A DICOMweb service, with the certificates, credentials and time limit of its entry.

    Args:
        server: where it is.
    """

    def __init__(self, server: Server) -> None:
        self._host = server.host
        self._session = _session(server)
        self._client = DICOMwebClient(server.url, session=self._session, timeout=server.timeout_s, permissive_uid=True)
        self._client.set_http_retry_params(retry=False)  # repeated by whoever calls, for both protocols alike

    def __enter__(self) -> "DicomWeb":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session.close()

    def search(
        self, level: Level, keys: Mapping[str, str], returned: tuple[str, ...] = ()
    ) -> Iterator[Mapping[str, str]]:
        """Yield the attributes of what matches at a level, page by page, each object once."""
        parents = {
            f"{name}_instance_uid": keys[keyword]
            for name, keyword in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID"))
            if keyword in keys and level.value != name.upper()
        }
        own = {k: v for k, v in keys.items() if v not in parents.values()}
        unique, seen, offset = UNIQUE[level], set(), 0
        while True:
            page = self._page(level, parents, own, (*returned, *own), offset)
            fresh = [one for one in page if one.get(unique) and one[unique] not in seen]
            yield from fresh
            seen |= {one[unique] for one in fresh}
            if not fresh:  # the end, or a server that knows no pages and sends the first one again
                return
            offset += len(page)

    def _page(
        self, level: Level, parents: Mapping[str, str], own: Mapping[str, str], fields: tuple[str, ...], offset: int
    ) -> list[dict[str, str]]:
        client = self._client
        calls: Mapping[Level, Callable[..., list[dict[str, Any]]]] = {
            Level.study: client.search_for_studies,
            Level.series: client.search_for_series,
            Level.image: client.search_for_instances,
        }
        found = self._asked(
            "query",
            lambda: calls[level](
                **parents, limit=_PAGE, offset=offset, fields=list(fields) or None, search_filters=dict(own) or None
            ),
        )
        return [as_texts(Dataset.from_json(one)) for one in found]

    def store(self, path: Path) -> str:
        """Store one file; the archive's own list of what it took and what it refused decides."""
        item = pydicom.dcmread(path)
        answer = self._asked("storing", lambda: self._client.store_instances([item]))
        return _outcome(answer)

    def retrieve(self, wanted: StoredObject, path: Path) -> None:
        """Write one object to a file, in the transfer syntax in which the archive has it."""
        found = self._asked(
            "retrieving",
            lambda: self._client.retrieve_instance(wanted.study_uid, wanted.series_uid, wanted.sop_uid),
        )
        found.save_as(path)

    def _asked(self, what: str, request: Callable[[], Answer]) -> Answer:
        """Make a request; put what went wrong into words that hold neither addresses of objects nor answers' texts."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of values that do not conform: they are kept as they are
                return request()
        except requests.HTTPError as error:
            raise _explained(what, self._host, error.response) from None
        except requests.exceptions.SSLError as error:
            if "certificate" not in str(error).lower():  # such as a connection that ends in the middle
                raise Unreachable(f"the secure connection to {self._host} failed ({what})") from None
            raise ConfigError(
                f"no secure connection to {self._host}: its certificate is not trusted, or it wants one of ours; name "
                "its authority with ca_file in the configuration file, or in REQUESTS_CA_BUNDLE"
            ) from None
        except requests.TooManyRedirects:
            raise ConfigError(f"{self._host} sends {what} on to another address; name that one itself") from None
        except requests.Timeout:
            raise Unreachable(f"{self._host} did not answer in time ({what})") from None
        except requests.exceptions.InvalidJSONError:
            raise ObjectRefused(f"{self._host} sent an answer that is not DICOM JSON ({what})") from None
        except requests.RequestException as error:
            raise Unreachable(f"the connection to {self._host} failed ({what}: {type(error).__name__})") from None
        except (InvalidDicomError, ValueError, KeyError, IndexError, EOFError, StopIteration) as error:
            raise ObjectRefused(f"{self._host} sent an answer that is not DICOM ({type(error).__name__})") from None


def _session(server: Server) -> requests.Session:
    session = requests.Session()
    session.auth = _authentication(server.credentials)
    session.max_redirects = 0  # credentials and patients' data go where the user said, and nowhere else
    session.headers["Accept"] = "application/dicom+json"
    session.hooks["response"].append(_require_whole)
    if server.tls.ca_file:
        session.mount("https://", _OwnAuthority(server.tls.ca_file))
    if server.tls.certificate:
        session.cert = (server.tls.certificate, server.tls.key) if server.tls.key else server.tls.certificate
    return session


def _authentication(credentials: Credentials) -> requests.auth.AuthBase:
    if credentials.username:
        # UTF-8, which servers expect today; requests would encode text as Latin-1 and fail on the rest
        return requests.auth.HTTPBasicAuth(credentials.username.encode(), credentials.password.encode())
    return _Bearer(credentials.token)


def _require_whole(response: requests.Response, **_: Any) -> None:
    """Refuse a multipart answer that ends before its last boundary: the connection broke, and nobody else looks."""
    kind = response.headers.get("Content-Type", "")
    boundary = next((p.split("=", 1)[1].strip('" ') for p in kind.split(";") if p.strip().startswith("boundary=")), "")
    if response.ok and boundary and f"--{boundary}--".encode() not in response.content[-len(boundary) - 64 :]:
        raise requests.ConnectionError("the answer broke off")


def _explained(what: str, host: str, response: requests.Response) -> Exception:
    """Turn a status into the error that says whether to try again, to change credentials, or to go on without it."""
    status = response.status_code
    if status in _DENIED:
        return AccessDenied(
            f"{host} denies {what} (HTTP {status}); check the credentials in the environment, the configuration file "
            "or netrc, and what this user may do there"
        )
    if status in _BUSY:
        return Unreachable(f"{host} cannot serve {what} now (HTTP {status})", _asked_wait(response))
    return ObjectRefused(f"HTTP {status}{_reasons(_answer_of(response))}")


def _asked_wait(response: requests.Response) -> float | None:
    """Return the seconds of Retry-After; its other form, a date, is left to our own waits."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def _answer_of(response: requests.Response) -> Dataset:
    try:
        found = response.json()
        return Dataset.from_json(found[0] if isinstance(found, list) else found)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return Dataset()


def _outcome(answer: Dataset) -> str:
    if failed := answer.get("FailedSOPSequence"):  # Orthanc sends an empty one when all went well
        if any(item.get("FailureReason", 0) >> 8 == _OUT_OF_RESOURCES for item in failed):
            raise Unreachable("the archive is out of resources (storing)")
        raise ObjectRefused(f"the archive failed to store it{_reasons(answer)}")
    stored = answer.get("ReferencedSOPSequence") or []
    remarks = [f"{item.WarningReason:04X}" for item in stored if "WarningReason" in item]
    return f"stored with warning {', '.join(remarks)}" if remarks else ""


def _reasons(answer: Dataset) -> str:
    """Return the failure reasons of an answer as the numbers that PS3.18 and PS3.7 list."""
    failed = answer.get("FailedSOPSequence") or []
    codes = sorted({f"{item.FailureReason:04X}" for item in failed if "FailureReason" in item})
    return f", failure reason {', '.join(codes)} (hexadecimal, DICOM PS3.18 table I.2-2)" if codes else ""
