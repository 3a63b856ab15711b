"""The private API on a member's public port, for whoever holds the token of its join."""

import hmac

from gateway.http.asgi import App, Receive, Scope, Send, send_json
from stepserve.fleet import MEMBER_PREFIX

_BELOW = MEMBER_PREFIX + "/"
_REFUSED = {
    "detail": "This is control's alone: it shows the token that the gateway joined with.",
    "code": "invalid_token",
}


class MemberDoor:
    """A layer around the public app: what lies under MEMBER_PREFIX goes to `private`, with the prefix taken off."""

    def __init__(self, public: App, private: App, token: str) -> None:
        self._public = public
        self._private = private
        self._authorization = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_BELOW):
            await self._public(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self._authorization):
            await send_json(send, 401, _REFUSED)
            return
        inner = dict(scope)
        inner["path"] = scope["path"].removeprefix(MEMBER_PREFIX)
        inner["raw_path"] = inner["path"].encode()
        await self._private(inner, receive, send)
