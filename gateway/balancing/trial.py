"""This gateway's own attempt at an answer, of which a refusal is kept back that another member need not make."""

from gateway.errors import GatewayError, Overloaded, Unserved
from gateway.http.asgi import Message
from gateway.http.tracked_send import TrackedSend

_WORTH_ANOTHER = {429: Overloaded, 503: Unserved}


class Trial:
    """The `send` below an attempt's own TrackedSend, `answer`. What is sent goes to `response`, unless it is refused
    before anything was sent: then `refusal` says so, and the client has seen nothing.
    """

    def __init__(self, response: TrackedSend) -> None:
        self.refusal: GatewayError | None = None
        self.answer = TrackedSend(self._send, response.renderer)
        self._response = response

    async def _send(self, message: Message) -> None:
        if self.refusal is not None:
            return
        if message["type"] == "http.response.start" and not self._response.started:
            kind = _WORTH_ANOTHER.get(message["status"])
            if kind is not None:
                self.refusal = self.answer.given_up or kind("This gateway could not answer.", 1.0)
                return
        await self._response(message)
