"""POST /v1/responses: what came before is put into the request, and the answer is kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import (
    ControlDown,
    ControlElsewhere,
    ConversationNotFound,
    GatewayError,
    InvalidField,
    PreviousResponseNotFound,
    RequestTooLarge,
    Unserved,
)
from gateway.http.asgi import App, ClientDisconnected, Receive, Scope, Send
from gateway.http.bounded_body import read_within
from gateway.http.rewriting import rewritten
from gateway.http.tracked_send import tracked
from gateway.inference.dispatch import Dispatch
from gateway.request.body import decoded
from gateway.request.context import RequestContext
from gateway.responses.wish import Wish, going_on, items_of, wish_of
from gateway.responses.writer import ResponseWriter
from gateway.sidecar.control_link import ControlProxy
from stepserve.request_id import key_id
from stepserve.stored_responses import (
    CONTROL_CONTEXT_PATH,
    ContextAnswer,
    ContextRequest,
    Item,
    KeptResponse,
    StoredResponsesSettings,
)

PATH = "/v1/responses"
_SETTLE_S = 5.0
_SHOWS_RESPONSE = tuple(
    f"event: response.{name}".encode() for name in ("created", "in_progress", "completed", "incomplete", "failed")
)
_OVER = ("completed", "incomplete")


@dataclass(frozen=True, slots=True)
class StoredResponses:
    """`inner` answers what has all of its input. What another host answers is kept there, or not at all."""

    inner: App
    dispatch: Dispatch
    control: ControlProxy
    writer: ResponseWriter
    settings: StoredResponsesSettings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.of(scope)
        response = tracked(send, scope)
        bounds, most_bytes = self.dispatch.bounds, self.dispatch.max_request_bytes
        try:
            body = await read_within(bounds, context, receive, most_bytes, PATH)
            wish = wish_of(body, self.settings.store)
            if wish is None or self.dispatch.goes_elsewhere(body.model):
                await self.inner(scope, receive, response)
                return
            keeping = _Keeping(self.writer, wish, items_of(body))
            if wish.goes_on:
                before = await self._before(wish, keeping.owner)
                keeping.upto = before.upto
                whole = going_on(body, before.items)
                if len(whole) > most_bytes:
                    raise RequestTooLarge(most_bytes)
                key, inner_context = context.translated(PATH, whole)
                inner_context.estimate = None  # of the longer request, which has to be within all bounds too
                scope = {**scope, key: inner_context}
            await rewritten(self.inner, scope, receive, response, keeping)
        except GatewayError as error:
            await response.fail(error)
        except ClientDisconnected:
            return

    async def settle(self, params: Mapping[str, str]) -> None:
        """Before control is asked for a response or a conversation by these. Raises ControlDown."""
        for name in ("response_id", "conversation_id"):
            if name in params:
                await self.writer.settled(key_id.get() or "", params[name], _SETTLE_S)

    async def _before(self, wish: Wish, owner: str) -> ContextAnswer:
        """Raises PreviousResponseNotFound, ConversationNotFound, InvalidField, Unserved."""
        name = wish.previous_id or wish.conversation_id or ""
        await self.writer.settled(owner, name, _SETTLE_S)
        asked = ContextRequest(
            owner=owner,
            previous_id=wish.previous_id,
            conversation_id=wish.conversation_id,
            max_bytes=self.dispatch.max_request_bytes,
        )
        try:
            answer = await self.control.request("POST", CONTROL_CONTEXT_PATH, asked.model_dump())
        except ControlElsewhere:
            raise
        except ControlDown as error:
            raise ControlDown("It keeps responses: ask again, or send the whole conversation in `input`.") from error
        if answer.status_code == 200:
            return ContextAnswer.model_validate_json(answer.content)
        said = _detail(answer.content)
        if answer.status_code == 404:
            raise PreviousResponseNotFound(said) if wish.previous_id is not None else ConversationNotFound(said)
        if answer.status_code == 422:
            field, _, rest = said.partition(": ")
            raise InvalidField(field, rest)
        raise Unserved(f"What came before cannot be read now: {said}", 2.0)


class _Keeping:
    """Rewrites what vLLM, which keeps nothing, says of keeping; and hands the answer to the writer."""

    over = False  # it ends no stream

    def __init__(self, writer: ResponseWriter, wish: Wish, items: list[Item]) -> None:
        self.owner = key_id.get() or ""
        self.upto: int | None = None
        self._writer = writer
        self._wish = wish
        self._items = items

    def whole(self, body: bytes) -> bytes:
        answer = decoded(body)
        if not isinstance(answer, dict):
            return body
        return msgspec.json.encode(self._finished(self._filled(answer)))

    def event(self, block: bytes) -> bytes:
        if not block.startswith(_SHOWS_RESPONSE):
            return block + b"\n\n"
        head, _, data = block.partition(b"\ndata: ")
        event = msgspec.json.decode(data)
        event["response"] = self._finished(self._filled(event["response"]))
        return head + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"

    def _filled(self, answer: dict[str, Any]) -> dict[str, Any]:
        answer["store"] = self._wish.store and self._writer.has_room
        answer["previous_response_id"] = self._wish.previous_id
        if self._wish.conversation_id is not None:
            answer["conversation"] = {"id": self._wish.conversation_id}
        return answer

    def _finished(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer.get("status") not in _OVER:
            return answer
        kept = KeptResponse(
            owner=self.owner,
            response=answer,
            input=self._items,
            store=answer["store"],
            previous_id=self._wish.previous_id,
            conversation_id=self._wish.conversation_id,
            upto=self.upto,
        )
        if (kept.store or kept.conversation_id is not None) and not self._writer.keep(kept):
            answer["store"] = False
        return answer


def _detail(content: bytes) -> str:
    said = decoded(content)
    return str(said.get("detail")) if isinstance(said, dict) else "control's answer cannot be read"
