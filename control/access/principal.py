"""On whose behalf a request is made, as the gateway says it."""

from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import Request

from control.errors import Forbidden
from stepserve.access import CLIENT_HEADER, KEY_HEADER, OWNER, SCOPES_HEADER


@dataclass(frozen=True, slots=True)
class Principal:
    """`actor`: a key's id, `anonymous` (no keys are demanded), or `owner` (asked on control's own socket).
    `sees_all`: it has the scope admin, or owns the machine.
    """

    actor: str
    client: str | None
    sees_all: bool = False

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> "Principal":
        """The gateway's word is taken: nobody but it and this user can open the socket, and it drops clients' own."""
        found = dict(headers)
        client = found.get(CLIENT_HEADER)
        actor = found.get(KEY_HEADER, OWNER.encode()).decode("latin-1")
        scopes = found.get(SCOPES_HEADER, b"").split(b",")
        sees_all = KEY_HEADER not in found or b"admin" in scopes
        return cls(actor, client.decode("latin-1") if client else None, sees_all)


def check_may_switch(request: Request, *, switches: bool) -> None:
    """What makes another model active by itself needs the scope admin. Raises Forbidden."""
    if switches and not Principal.of(request.scope["headers"]).sees_all:
        raise Forbidden("on_pass: `activate` switches the active model, which needs a key with the scope admin")
