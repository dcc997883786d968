"""Certificates are checked, credentials reach the archive and nobody else, redirects are not followed."""

import base64
import shutil
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("dicomweb_client", reason="the extra 'pacs' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")

from medinterp.errors import ConfigError, TransferError
from medinterp.pacs.archive import Level, connect
from medinterp.pacs.backoff import Backoff
from medinterp.pacs.sending import SendReport, send_study
from medinterp.pacs.servers import Tls, find_server
from tests.clients.conftest import missing
from tests.integration.archive_doors import dicomweb_door, dimse_door
from tests.integration.archive_double import ArchiveDouble
from tests.integration.archive_studies import make_study

DOORS = {"dicomweb": dicomweb_door, "dimse": dimse_door}
ONCE = Backoff(attempts=1)
USER, PASSWORD = "alice", "pässwörd"  # of letters that Latin-1 has, so that only the bytes tell UTF-8 from it


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a key and a certificate for 127.0.0.1 that signs itself; both in one file."""
    if shutil.which("openssl") is None:
        missing("openssl")
    folder = tmp_path_factory.mktemp("tls")
    call = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    call += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "crt")]
    subprocess.run(call, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key").read_text() + (folder / "crt").read_text())
    return both


def server_context(certificate: Path, *, asks_for_one: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    context.load_cert_chain(certificate)
    context.verify_mode = ssl.CERT_REQUIRED if asks_for_one else ssl.CERT_NONE
    return context


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study", count=1)


def send(study: Path, archive: ArchiveDouble, door: str, context: ssl.SSLContext | None, tls: Tls) -> SendReport:
    with DOORS[door](archive, context) as address:
        server = replace(find_server(address), tls=tls, timeout_s=20.0)
        return send_study(study, server, backoff=ONCE)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("asks_for_one", [False, True])
def test_an_archive_with_a_trusted_certificate_gets_the_study(
    study: Path, certificate: Path, door: str, asks_for_one: bool
) -> None:
    archive = ArchiveDouble()
    tls = Tls(ca_file=str(certificate), certificate=str(certificate) if asks_for_one else "")
    send(study, archive, door, server_context(certificate, asks_for_one=asks_for_one), tls).raise_unless_complete()
    assert len(archive.stored) == 1


def test_an_authority_that_is_named_for_the_archive_comes_before_one_of_the_environment(
    study: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(study / "run.json"))
    archive = ArchiveDouble()
    report = send(study, archive, "dicomweb", server_context(certificate), Tls(ca_file=str(certificate)))
    report.raise_unless_complete()


@pytest.mark.parametrize("door", DOORS)
def test_an_archive_whose_certificate_is_not_trusted_gets_nothing(study: Path, certificate: Path, door: str) -> None:
    archive = ArchiveDouble()
    report = send(study, archive, door, server_context(certificate), Tls())
    with pytest.raises((ConfigError, TransferError)):
        report.raise_unless_complete()
    assert (archive.stored, archive.headers_seen) == ({}, [])


def test_credentials_arrive_as_utf8_and_a_token_as_bearer(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = ArchiveDouble()
    with dicomweb_door(archive) as address:
        for name, value in (("USERNAME", USER), ("PASSWORD", PASSWORD)):
            monkeypatch.setenv(f"MEDINTERP_PACS_{name}", value)
        with connect(find_server(address)) as connection:
            assert list(connection.search(Level.study, {})) == []
        for name in ("USERNAME", "PASSWORD"):
            monkeypatch.delenv(f"MEDINTERP_PACS_{name}")
        monkeypatch.setenv("MEDINTERP_PACS_TOKEN", "abc")
        with connect(find_server(address)) as connection:
            assert list(connection.search(Level.study, {})) == []
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert archive.headers_seen == [f"Basic {basic}", "Bearer abc"]


def test_a_redirect_is_refused_and_what_it_names_hears_nothing(study: Path) -> None:
    other = ArchiveDouble()
    with dicomweb_door(other) as elsewhere:
        report = send(study, ArchiveDouble(redirects_to=elsewhere), "dicomweb", None, Tls())
    with pytest.raises(ConfigError, match="on to another address"):
        report.raise_unless_complete()
    assert other.headers_seen == []
