"""On whose behalf a request is made, as the gateway says it."""

from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import Request

from control.errors import Forbidden
from stepserve.access import CLIENT_HEADER, KEY_HEADER, OWNER, SCOPES_HEADER
from stepserve.settings import RunBy


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


def check_may_run_tasks(request: Request, run_by: RunBy) -> None:
    """A task file is a program that runs as the server's user: the settings say whose keys may. Raises Forbidden."""
    if run_by == "nobody":
        raise Forbidden("task files are not run here: the machine's owner has to allow it (setting task_files.run_by)")
    if run_by == "admin" and not Principal.of(request.scope["headers"]).sees_all:
        raise Forbidden("to run a task file needs a key with the scope admin here (setting task_files.run_by)")
