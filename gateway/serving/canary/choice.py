"""Which requests go to a candidate: the same ones of one key or session each time. Pure."""

import hashlib
from collections.abc import Iterable

from stepserve.access import ANONYMOUS

SESSION_HEADER = b"x-session-id"
_ALL = 2**64


def takes_part(salt: str, unit: str, share: float) -> bool:
    """Whether a unit (a key, a session, a request) belongs to the share, 0 to 1. Another salt draws other ones."""
    drawn = int.from_bytes(hashlib.sha256(f"{salt}\n{unit}".encode(errors="surrogateescape")).digest()[:8])
    return drawn < share * _ALL


def unit_of(headers: Iterable[tuple[bytes, bytes]], key: str | None, request_id: str, *, by_key: bool) -> str:
    """What is drawn: the session that a request names, within its key; else its key, if it has one of its own and
    keys are drawn; else the request itself.
    """
    session = next((value.decode("latin-1") for name, value in headers if name == SESSION_HEADER), None)
    if session:
        return f"session\n{key}\n{session}"
    return f"key\n{key}" if by_key and key and key != ANONYMOUS else f"request\n{request_id}"
