"""Addresses and credentials of archives: from the usual places, never shown, never unencrypted, never readable."""

import traceback
from pathlib import Path

import pytest

from medinterp.errors import ConfigError
from medinterp.pacs.servers import Server, config_file, find_server

SECRET = "hunter2-of-all-places"


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own files and variables out."""
    for name in ("MEDINTERP_PACS_USERNAME", "MEDINTERP_PACS_PASSWORD", "MEDINTERP_PACS_TOKEN", "MEDINTERP_PACS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def write_config(folder: Path, *lines: str, mode: int = 0o600) -> Path:
    path = folder / "pacs.ini"
    path.write_text("\n".join(["[clinic]", *lines]) + "\n")
    path.chmod(mode)
    return path


def write_netrc(folder: Path, monkeypatch: pytest.MonkeyPatch, *, mode: int = 0o600) -> None:
    path = folder / "netrc"
    path.write_text(f"machine pacs.example login carol password {SECRET}\n")
    path.chmod(mode)
    monkeypatch.setenv("NETRC", str(path))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://pacs.example/dicom-web/", ("https", "pacs.example", 443, "/dicom-web", "ANY-SCP")),
        ("http://127.0.0.1:8042/dicom-web", ("http", "127.0.0.1", 8042, "/dicom-web", "ANY-SCP")),
        ("dicom://ARCHIVE@pacs.example", ("dicom", "pacs.example", 104, "", "ARCHIVE")),
        ("dicoms://ARCHIVE@[::1]:2762", ("dicoms", "::1", 2762, "", "ARCHIVE")),
    ],
)
def test_addresses_are_read(address: str, expected: tuple[object, ...]) -> None:
    found = find_server(address)
    assert (found.scheme, found.host, found.port, found.path, found.called_aet) == expected


@pytest.mark.parametrize(
    "address",
    [
        "ftp://pacs.example", "https://", "https://pacs.example/x?y=1", "https://pacs.example:0/x",
        "https://pacs.example:99999/x", "dicom://pacs.example:104", "dicom://A_TITLE_THAT_IS_TOO_LONG@pacs.example:104",
        f"https://carol:{SECRET}@pacs.example/x", f"https://{SECRET}@pacs.example/x", f"dicom://A:{SECRET}@pacs.example",
    ],
)  # fmt: skip
def test_bad_addresses_are_refused_without_repeating_a_password(address: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find_server(address)
    assert SECRET not in str(raised.value)


def test_credentials_come_from_the_environment_before_the_file_before_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "url = https://pacs.example/dicom-web"
    write_netrc(tmp_path, monkeypatch)
    assert find_server("clinic", write_config(tmp_path, url)).credentials.username == "carol"
    with_user = write_config(tmp_path, url, "username = bob", f"password = {SECRET}")
    assert find_server("clinic", with_user).credentials.username == "bob"
    monkeypatch.setenv("MEDINTERP_PACS_USERNAME", "alice")
    monkeypatch.setenv("MEDINTERP_PACS_PASSWORD", SECRET)
    assert find_server("clinic", with_user).credentials.username == "alice"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_files_with_secrets_that_others_can_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    config = write_config(tmp_path, "url = https://pacs.example/x", "token = t", mode=mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        find_server("clinic", config)
    write_netrc(tmp_path, monkeypatch, mode=mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        find_server("https://pacs.example/x")


def test_a_file_without_secrets_may_be_readable(tmp_path: Path) -> None:
    config = write_config(tmp_path, "url = dicom://ARCHIVE@pacs.example:104", "calling_aet = US", mode=0o644)
    assert find_server("clinic", config).calling_aet == "US"


@pytest.mark.parametrize("scheme", ["http", "dicom"])
def test_credentials_do_not_travel_unencrypted_except_within_the_machine(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("MEDINTERP_PACS_TOKEN", SECRET)
    with pytest.raises(ConfigError, match="unencrypted") as raised:
        find_server(f"{scheme}://A@pacs.example" if scheme == "dicom" else "http://pacs.example/x")
    assert SECRET not in str(raised.value)
    assert find_server("http://127.0.0.1/x").credentials
    assert find_server("http://localhost/x").credentials


def test_secrets_are_in_no_representation(tmp_path: Path) -> None:
    config = write_config(tmp_path, "url = https://pacs.example/x", "username = bob", f"password = {SECRET}")
    found = find_server("clinic", config)
    assert found.credentials.password == SECRET
    assert SECRET not in repr(found) + str(found) + repr(found.credentials) + found.identity + found.url


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("username = bob",), "no url"),
        (("url = https://pacs.example/x", "passwort = x"), "passwort"),
        (("url = https://pacs.example/x", f"password = {SECRET}"), "no user name"),
        (("url = https://pacs.example/x", "username = b", "token = t"), "give one of them"),
        (("url = dicom://A@pacs.example", "retrieve = push"), "get or move"),
        (("url = dicom://A@pacs.example", "retrieve = move"), "needs listen"),
        (("url = dicom://A@pacs.example", "listen = 11112"), "HOST:PORT"),
        (("url = https://pacs.example/x", "timeout_s = -1"), "timeout_s"),
        (("url = https://pacs.example/x", "timeout_s = nan"), "timeout_s"),
        (("url = https://pacs.example/x", "ca_file = /nowhere/ca.pem"), "no file"),
        (("url = https://pacs.example/x", f"[{SECRET}"), "of the form"),
        ((f"{SECRET}",), "of the form"),
    ],
)
def test_a_wrong_configuration_is_named_without_secrets(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        find_server("clinic", write_config(tmp_path, *lines))
    assert SECRET not in "".join(traceback.format_exception_only(raised.value))
    assert raised.value.__suppress_context__ or raised.value.__context__ is None  # what --debug would show


def test_an_unknown_name_says_which_there_are_and_where_it_looked(tmp_path: Path) -> None:
    config = write_config(tmp_path, "url = https://pacs.example/x")
    with pytest.raises(ConfigError, match="it has clinic"):
        find_server("hospital", config)
    with pytest.raises(ConfigError, match="cannot be read"):
        find_server("hospital", tmp_path / "nowhere.ini")


def test_a_netrc_that_cannot_be_read_is_named_without_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text(f"machine pacs.example {SECRET}\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    with pytest.raises(ConfigError, match="netrc") as raised:
        find_server("https://pacs.example/x")
    assert SECRET not in str(raised.value)


def test_the_configuration_file_is_found_as_the_desktop_convention_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_file() == tmp_path / "medinterp" / "pacs.ini"
    monkeypatch.setenv("MEDINTERP_PACS_CONFIG", str(tmp_path / "mine.ini"))
    assert config_file() == tmp_path / "mine.ini"


def test_two_archives_have_two_identities() -> None:
    one = Server("dicom", "pacs.example", 104, called_aet="A")
    assert one.identity != Server("dicom", "pacs.example", 104, called_aet="B").identity
