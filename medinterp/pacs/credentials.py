"""User names, passwords and tokens: from the environment, the configuration file or netrc; never shown."""

import netrc
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medinterp.errors import ConfigError

USERNAME, PASSWORD, TOKEN = "MEDINTERP_PACS_USERNAME", "MEDINTERP_PACS_PASSWORD", "MEDINTERP_PACS_TOKEN"


@dataclass(frozen=True)
class Credentials:
    """What proves to a server who is asking; empty where nothing is known.

    Args:
        username: for basic authentication, or DIMSE user identity.
        password: belongs to it.
        token: bearer token, instead of both.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.token)


def find_credentials(host: str, section: Mapping[str, str]) -> Credentials:
    """Return the credentials for a server: environment before configuration file before netrc.

    Args:
        host: of the server; netrc is asked for it.
        section: of the configuration file; "username", "password" and "token" are read.

    Raises:
        ConfigError: a password without a user name, or a netrc file that others can read.
    """
    found = _checked(Credentials(*(os.environ.get(name, "") for name in (USERNAME, PASSWORD, TOKEN))), "environment")
    if not found:
        known = (section.get(name, "") for name in ("username", "password", "token"))
        found = _checked(Credentials(*known), "configuration file")
    return found or _from_netrc(host)


def require_private(path: Path) -> None:
    """Raise unless only its owner can read a file that holds secrets, and the owner is this user or root.

    Raises:
        ConfigError: others may read or change it. On Windows nothing is checked.
    """
    if os.name != "posix":
        return
    found = path.stat()
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"{path} holds credentials and has mode {stat.S_IMODE(found.st_mode):o}, so others can get at them; run "
            f"'chmod 600 {path}', and change the password if others may have seen it"
        )
    if found.st_uid not in (os.getuid(), 0):
        raise ConfigError(f"{path} holds credentials and belongs to another user; expected a file of your own")


def _checked(found: Credentials, where: str) -> Credentials:
    if found.password and not found.username:
        raise ConfigError(f"the {where} has a password for the server and no user name; give both, or a token")
    if found.username and found.token:
        raise ConfigError(f"the {where} has both a user name and a token for the server; give one of them")
    return found


def _from_netrc(host: str) -> Credentials:
    named = os.environ.get("NETRC")
    path = Path(named).expanduser() if named else Path.home() / ".netrc"
    if not path.is_file():
        return Credentials()
    try:
        known = netrc.netrc(str(path)).authenticators(host)
    except netrc.NetrcParseError as error:  # its text may quote the line with the password
        raise ConfigError(f"{path} cannot be read as a netrc file (line {error.lineno}); mend it") from None
    if known is None:
        return Credentials()
    require_private(path)
    return Credentials(known[0], known[2] or "")
