"""Middleware: notes admin actions in the audit log, around whatever route carries them out."""

import json
import logging
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control.access.audit_log import AuditLog
from control.access.principal import Principal
from control.errors import DatabaseUnavailable
from stepserve.access import CONTROL_RECOVER_PATH
from stepserve.route_table import match

log = logging.getLogger(__name__)

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOKED_INTO_BYTES = 64 * 1024
_TARGETS = ("id", "model", "name", "profile")  # of the body, what tells one action from another; never a secret


class Audited:
    """An action that cannot be noted is not carried out: 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READING or not _is_admins(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        audit: AuditLog = scope["app"].state.services[AuditLog]
        body, receive = await _short_body(scope, receive)
        try:
            number = await audit.begin(Principal.of(scope["headers"]), scope["method"], scope["path"], _target(body))
        except DatabaseUnavailable as error:
            await JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})(scope, receive, send)
            return
        noted = False

        async def noting(message: Message) -> None:
            nonlocal noted
            if message["type"] == "http.response.start":
                noted = True
                await _end(audit, number, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            if not noted:
                await _end(audit, number, 500)


def _is_admins(method: str, path: str) -> bool:
    """What the gateway asks on its own behalf, each second and at each request, is nobody's action."""
    found = match(method, path)
    if found.row is None:
        return path == CONTROL_RECOVER_PATH
    return found.scope == "admin" or (found.scope == "fleet" and "member_id" in found.params)


async def _end(audit: AuditLog, number: int, status: int) -> None:
    """Before the answer goes out, so that who has it finds it in the log; the action itself is done by now."""
    try:
        await audit.end(number, status)
    except DatabaseUnavailable as error:
        log.error("the end of audit entry %d (%d) could not be noted: %s", number, status, error)


async def _short_body(scope: Scope, receive: Receive) -> tuple[bytes, Receive]:
    """The body where it is short and JSON, and a `receive` that gives it again."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if b"json" not in headers.get(b"content-type", b"") or not length.isdigit() or int(length) > _LOOKED_INTO_BYTES:
        return b"", receive
    taken: list[Message] = []
    while not taken or taken[-1].get("more_body", False):
        taken.append(await receive())
    body = b"".join(message.get("body", b"") for message in taken)

    async def again() -> Message:
        return taken.pop(0) if taken else await receive()

    return body, again


def _target(body: bytes) -> str | None:
    try:
        content: Any = json.loads(body)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    return next((str(content[key])[:200] for key in _TARGETS if isinstance(content.get(key), str)), None)
