"""Sends a study to a real Orthanc and fetches it back, in a network namespace of their own; writes a JSON report.

Orthanc 1.10 listens on every address whatever it is told, so it runs only where no other machine can reach it.
Called by test_orthanc.py as ``unshare -rn python orthanc_namespace.py STUDY WORK UID``.
"""

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from urllib.error import URLError

from medinterp.pacs.attributes import parse_filters
from medinterp.pacs.backoff import Backoff
from medinterp.pacs.fetching import fetch
from medinterp.pacs.finding import list_series
from medinterp.pacs.sending import send_study
from medinterp.pacs.servers import Server, find_server

HTTP, DICOM, OURS = 8042, 4242, 11112
USER, PASSWORD = "tester", "only-in-this-namespace"
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _UP = 0x8913, 0x8914, 1
WAITS = Backoff(attempts=6, first_wait_s=0.2)


def raise_loopback() -> None:
    """Bring up lo, the only interface here, as ``ip link set lo up`` does."""
    with socket.socket() as one:
        asked = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(one, _SIOCGIFFLAGS, asked)[:18])[1]
        fcntl.ioctl(one, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _UP))


def require_only_loopback() -> None:
    """Stop unless this namespace has no other interface."""
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    if others:
        raise SystemExit(f"this namespace has {others}: Orthanc must not be started here")


@contextmanager
def orthanc(folder: Path) -> Iterator[None]:
    """Run an empty Orthanc that asks for a password and keeps what it has when an object comes again."""
    folder.mkdir()
    settings = {
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": HTTP, "DicomPort": DICOM,
        "Plugins": [PLUGIN], "AuthenticationEnabled": True, "RegisteredUsers": {USER: PASSWORD},
        "DicomModalities": {"us": ["MEDINTERP", "127.0.0.1", OURS]}, "DicomAlwaysAllowGet": True,
        "OverwriteInstances": False,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    program = str(shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin"))
    call = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        program,
        str(folder / "orthanc.json"),
    ]  # it must not outlive a killed test
    with (folder / "log.txt").open("w") as log:
        running = subprocess.Popen(call, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for_answer(running)
        yield
    finally:
        running.terminate()
        running.wait(30)


def wait_for_answer(running: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if running.poll() is not None:
            raise SystemExit(f"Orthanc ended with {running.returncode}")
        try:
            statistics()
            return
        except URLError:
            time.sleep(0.1)
    raise SystemExit("Orthanc did not answer within a minute")


def statistics() -> dict[str, int]:
    """Return what Orthanc says it holds."""
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    url = f"http://127.0.0.1:{HTTP}/statistics"
    passwords.add_password(None, url, USER, PASSWORD)
    with urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords)).open(url) as answer:
        return json.loads(answer.read())


def round_trip(name: str, to: Server, back: dict[str, Server], study: Path, work: Path, uid: str) -> dict[str, object]:
    """Send a study to an empty Orthanc, twice, and fetch it in several ways."""
    with orthanc(work / f"orthanc-{name}"):
        first, second = (send_study(study, to, backoff=WAITS) for _ in range(2))
        filters = parse_filters([f"StudyInstanceUID={uid}"])
        for way, server in back.items():
            fetch(server, filters, work / f"{name}-{way}", backoff=WAITS).raise_unless_complete()
        listed = [asdict(one) for one in list_series(to, filters, backoff=WAITS)]
        return {"first": first.summary(), "second": second.summary(), "complete": first.complete and second.complete,
                "instances": statistics()["CountInstances"], "listed": listed}  # fmt: skip


def main() -> None:
    """Do both protocols."""
    study, work, uid = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    raise_loopback()
    require_only_loopback()
    os.environ |= {"MEDINTERP_PACS_USERNAME": USER, "MEDINTERP_PACS_PASSWORD": PASSWORD}
    web = find_server(f"http://127.0.0.1:{HTTP}/dicom-web")
    get = find_server(f"dicom://ORTHANC@127.0.0.1:{DICOM}")
    move = replace(get, retrieve="move", listen=("127.0.0.1", OURS))
    ways = {"wado": web, "get": get, "move": move}
    found = {name: round_trip(name, to, ways, study, work, uid) for name, to in (("web", web), ("dimse", get))}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
