"""The private API on a member's public port, for whoever holds the token of its join."""

import hmac
import time
from collections.abc import Callable

from gateway.http.asgi import App, Receive, Scope, Send, send_json
from stepserve.fleet import MEMBER_FILES_PATH, MEMBER_PREFIX, file_ticket

_BELOW = MEMBER_PREFIX + "/"
_FILES = f"{MEMBER_PREFIX}{MEMBER_FILES_PATH}/"
_REFUSED = {
    "detail": "This is control's alone: it shows the token that the gateway joined with.",
    "code": "invalid_token",
}


class MemberDoor:
    """A layer around the public app: what lies under MEMBER_PREFIX goes to `private`, with the prefix taken off."""

    def __init__(self, public: App, private: App, token: str, now_s: Callable[[], float] = time.time) -> None:
        self._public = public
        self._private = private
        self._token = token
        self._authorization = f"Bearer {token}".encode()
        self._now_s = now_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_BELOW):
            await self._public(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self._authorization) and not self._is_ticket(scope, given):
            await send_json(send, 401, _REFUSED)
            return
        inner = dict(scope)
        inner["path"] = scope["path"].removeprefix(MEMBER_PREFIX)
        inner["raw_path"] = inner["path"].encode()
        await self._private(inner, receive, send)

    def _is_ticket(self, scope: Scope, given: bytes) -> bool:
        """Whether another member asks for the file that control has let it read."""
        if scope["method"] not in ("GET", "HEAD") or not scope["path"].startswith(_FILES):
            return False
        digest = scope["path"].removeprefix(_FILES).partition("/")[0]
        said = given.removeprefix(b"Ticket ").decode("latin-1")
        expires, _, ticket = said.partition(".")
        if not given.startswith(b"Ticket ") or not (expires.isascii() and expires.isdigit()) or len(expires) > 15:
            return False
        right = file_ticket(self._token, digest, int(expires))
        return int(expires) > self._now_s() and hmac.compare_digest(ticket.encode(), right.encode())
