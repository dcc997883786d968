"""What the status of a DIMSE answer means: done, try again, or refused."""

from pydicom.dataset import Dataset

from medinterp.errors import AccessDenied, ObjectRefused, Unreachable

_PENDING = {0xFF00, 0xFF01}
_STORED_WITH_REMARK = {0xB000, 0xB006, 0xB007}
_SUB_OPERATIONS_FAILED = {0xB000, 0xA702}
_NOT_AUTHORISED = 0x0124


def store_outcome(status: Dataset, host: str) -> str:
    """Return what the archive remarked when it stored an object, or nothing.

    Args:
        status: of the C-STORE answer; empty when the connection is gone or the time is up.
        host: of the archive.

    Raises:
        Unreachable: no answer, or the archive is out of resources for now.
        AccessDenied: this user may not store.
        ObjectRefused: any other failure.

    Source:
        DICOM PS3.4 table B.2-1; PS3.7 annex C.
    """
    if "Status" not in status:
        raise Unreachable(f"the connection to {host} failed (storing)")
    code = int(status.Status)
    if code in _STORED_WITH_REMARK:
        return f"stored with warning {code:04X}"
    _raise_for(code, "storing", host)
    return ""


def raise_unless_success(status: Dataset, what: str, host: str, *, partly: bool = False) -> None:
    """Raise unless an answer of C-FIND, C-GET or C-MOVE says success or that more is to come.

    Args:
        status: of the answer; empty when the connection is gone or the time is up.
        what: was asked, for the message.
        host: of the archive.
        partly: whether somebody else knows why sub-operations failed, and says so.

    Raises:
        Unreachable: no answer, or the archive is out of resources for now.
        AccessDenied: this user may not ask that.
        ObjectRefused: any other failure.

    Source:
        DICOM PS3.4 tables C.4-1, C.4-2 and C.4-3.
    """
    if "Status" not in status:
        raise Unreachable(f"the connection to {host} failed ({what})")
    code = int(status.Status)
    if code in _PENDING or (partly and code in _SUB_OPERATIONS_FAILED):
        return
    _raise_for(code, what, host)


def _raise_for(code: int, what: str, host: str) -> None:
    if code == 0x0000:
        return
    if code == _NOT_AUTHORISED:
        raise AccessDenied(f"{host} does not allow {what} to this user (status {code:04X})")
    if code >> 8 == 0xA7:
        raise Unreachable(f"{host} is out of resources ({what}, status {code:04X})")
    raise ObjectRefused(f"status {code:04X} (hexadecimal, DICOM PS3.7 annex C and PS3.4)")
