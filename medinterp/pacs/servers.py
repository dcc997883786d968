"""Where an image archive is and how to talk to it: an address, or a name from the configuration file."""

import configparser
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from medinterp.errors import ConfigError
from medinterp.pacs.credentials import Credentials, find_credentials, require_private

CONFIG = "MEDINTERP_PACS_CONFIG"
_SECRETS = ("password", "token")
_KEYS = {
    "url", "username", "password", "token", "ca_file", "certificate", "key", "calling_aet", "retrieve", "listen",
    "timeout_s",
}  # fmt: skip
_AET = re.compile(r"[^\\\s][^\\\x00-\x1f\x7f-\uffff]{0,15}")
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Tls:
    """Files for encrypted connections.

    Args:
        ca_file: certificates of the authorities to trust, instead of the system's.
        certificate: this client's own, for servers that ask for one.
        key: belongs to it; empty if it lies in the same file.
    """

    ca_file: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True)
class Server:
    """One archive.

    Args:
        scheme: "http" or "https" for DICOMweb, "dicom" or "dicoms" for DIMSE.
        host: name or address.
        port: number.
        path: of the DICOMweb service on its host, such as "/dicom-web".
        called_aet: DIMSE: the archive's application entity title.
        calling_aet: DIMSE: ours, which the archive must know.
        retrieve: DIMSE: "get", or "move" for archives that only send to addresses they know.
        listen: DIMSE with "move": the address, as HOST:PORT, at which the archive reaches us.
        timeout_s: how long to wait for an answer.
        tls: files for encrypted connections.
        credentials: never shown.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    called_aet: str = "ANY-SCP"
    calling_aet: str = "MEDINTERP"
    retrieve: str = "get"
    listen: tuple[str, int] | None = None
    timeout_s: float = _TIMEOUT_S
    tls: Tls = Tls()
    credentials: Credentials = field(default=Credentials(), repr=False)

    @property
    def url(self) -> str:
        """Address of the DICOMweb service."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def encrypted(self) -> bool:
        """Whether what is sent cannot be read on the way."""
        return self.scheme in ("https", "dicoms")

    @property
    def identity(self) -> str:
        """What makes this archive another one than the next, for journals."""
        return f"{self.scheme}://{self.called_aet}@{self.host}:{self.port}{self.path}"


def find_server(text: str, config: Path | None = None) -> Server:
    """Return the server that an address or a name in the configuration file stands for.

    Args:
        text: ``https://host/dicom-web``, ``dicom://AET@host:port``, ``dicoms://AET@host:port``, or a name.
        config: the file; by default $MEDINTERP_PACS_CONFIG, or medinterp/pacs.ini in the user's configuration folder.

    Raises:
        ConfigError: no such name, an address that is none or holds a password, a file that others can read, or
            credentials that would go out unencrypted.
    """
    section = {} if "://" in text else _read_section(text, config)
    server = _from_address(section.get("url", text), section)
    if server.credentials and not server.encrypted and not _is_loopback(server.host):
        raise ConfigError(
            f"the credentials for {server.host} would travel unencrypted over {server.scheme}://; use "
            f"{server.scheme}s:// or remove the credentials"
        )
    return server


def config_file() -> Path:
    """Return where the configuration file is looked for."""
    named = os.environ.get(CONFIG)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "medinterp" / "pacs.ini"


def _read_section(name: str, config: Path | None) -> Mapping[str, str]:
    path = config if config is not None else config_file()
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"'{name}' is no address such as https://host/dicom-web or dicom://AET@host:104, and the configuration "
            f"file {path} cannot be read: {error.strerror}"
        ) from None
    except (configparser.Error, UnicodeDecodeError):  # the text of the error quotes lines, passwords included
        raise ConfigError(f"{path} is no configuration file of the form [name], key = value") from None
    if name not in parser:
        raise ConfigError(f"{path} has no server '{name}'; it has {', '.join(parser.sections()) or 'none'}")
    if any(one.get(secret) for one in parser.values() for secret in _SECRETS):
        require_private(path)
    return _known_keys(parser[name], name, path)


def _known_keys(section: Mapping[str, str], name: str, path: Path) -> Mapping[str, str]:
    unknown = sorted(set(section) - _KEYS)
    if unknown:
        raise ConfigError(f"[{name}] of {path} has {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    if "url" not in section:
        raise ConfigError(f"[{name}] of {path} has no url, such as https://host/dicom-web or dicom://AET@host:104")
    return section


def _from_address(text: str, section: Mapping[str, str]) -> Server:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError("the server's address has a bad port; expected a number from 1 to 65535") from None
    _refuse_bad_address(parts, port)
    host, dimse = str(parts.hostname), parts.scheme.startswith("dicom")
    given = {"called_aet": _title(parts.username or "")} if dimse else {"path": parts.path.rstrip("/")}
    chosen = {key: section[key] for key in ("calling_aet", "retrieve") if key in section}
    if chosen.get("retrieve", "get") not in ("get", "move"):
        raise ConfigError(f"retrieve is '{chosen['retrieve']}'; expected get or move")
    if "calling_aet" in chosen:
        _title(chosen["calling_aet"])
    return Server(
        parts.scheme,
        host,
        port if port is not None else {"http": 80, "https": 443}.get(parts.scheme, 104),
        **given,
        **chosen,
        listen=_listening(section),
        timeout_s=_seconds(section.get("timeout_s", str(_TIMEOUT_S))),
        tls=Tls(*(_file(section, key) for key in ("ca_file", "certificate", "key"))),
        credentials=find_credentials(host, section),
    )


def _refuse_bad_address(parts: SplitResult, port: int | None) -> None:
    if parts.scheme not in ("http", "https", "dicom", "dicoms") or not parts.hostname:
        raise ConfigError(
            "the server's address must be like https://host/dicom-web, dicom://AET@host:104 or dicoms://AET@host:2762"
        )
    if parts.password or (parts.username and parts.scheme.startswith("http")):
        raise ConfigError(
            "the server's address holds a user name or password, which every process list shows; put them into the "
            f"environment, netrc, or {config_file()}"
        )
    if parts.query or parts.fragment or port == 0:
        raise ConfigError("the server's address has a query, a fragment or port 0; expected host, port and path")


def _title(text: str) -> str:
    if not _AET.fullmatch(text) or text != text.strip():
        raise ConfigError(f"'{text}' is no application entity title: 1 to 16 letters, as in dicom://ARCHIVE@host:104")
    return text


def _listening(section: Mapping[str, str]) -> tuple[str, int] | None:
    text = section.get("listen", "")
    if not text:
        if section.get("retrieve") == "move":
            raise ConfigError("retrieve = move needs listen = HOST:PORT, the address at which the archive reaches you")
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"listen is '{text}'; expected HOST:PORT, such as 192.0.2.7:11112")
    return host, int(port)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise ConfigError(f"timeout_s is '{text}'; expected seconds, more than 0 and at most a day")
    return seconds


def _file(section: Mapping[str, str], key: str) -> str:
    if not section.get(key):
        return ""
    path = Path(section[key]).expanduser()
    if not path.is_file():
        raise ConfigError(f"{key} is {path}, which is no file")
    return str(path)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
