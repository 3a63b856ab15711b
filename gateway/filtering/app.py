"""Applies filters around whoever answers vLLM's routes. Without any it is not there at all."""

import asyncio
from dataclasses import dataclass

from gateway.errors import ContentFiltered, GatewayError
from gateway.filtering.answers import SHAPES, answer_filter
from gateway.filtering.filter import Blocked, Chain, Filter, TextFilter, whole
from gateway.filtering.requests import check_answers, choices_of, filtered
from gateway.http.asgi import App, ClientDisconnected, Receive, Scope, Send
from gateway.http.bounded_body import read_within
from gateway.http.rewriting import rewritten
from gateway.http.tracked_send import tracked
from gateway.request.body import RequestBody
from gateway.request.bounds import HARMLESS_BYTES, RequestBounds
from gateway.request.context import RequestContext

_ONLY_ASKED = frozenset({"/v1/embeddings", "/v1/messages/count_tokens"})


@dataclass(frozen=True, slots=True)
class Filtered:
    """`inner` is asked what is left of the request; its answer is what is left of that."""

    inner: App
    filters: list[Filter]
    bounds: RequestBounds
    max_request_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.of(scope)
        response = tracked(send, scope)
        route = context.match.label
        shape = SHAPES.get(route)
        if shape is None and route not in _ONLY_ASKED:
            await self.inner(scope, receive, response)
            return
        try:
            body = await read_within(self.bounds, context, receive, self.max_request_bytes, scope["path"])
            looks_at_answers = shape is not None and self._of_answer() is not None
            if looks_at_answers:
                check_answers(body)
            scope = await self._asked(scope, context, body)
            if shape is None or not looks_at_answers:
                await self.inner(scope, receive, response)
            else:
                rewriter = answer_filter(shape, self._new_of_answer, choices_of(body))
                await rewritten(self.inner, scope, receive, response, rewriter)
        except GatewayError as error:
            await response.fail(error)
        except ClientDisconnected:
            return

    async def _asked(self, scope: Scope, context: RequestContext, body: RequestBody) -> Scope:
        """Raises ContentFiltered, InvalidField."""
        if self._of_request() is None:
            return scope
        try:
            if len(body.raw) <= HARMLESS_BYTES:
                changed = filtered(body, self._change)
            else:
                changed = await asyncio.to_thread(filtered, body, self._change)
        except Blocked as error:
            raise ContentFiltered(str(error)) from error
        if changed is None:
            return scope
        key, inner = context.translated(scope["path"], changed)
        inner.match = context.match
        return {**scope, key: inner}

    def _change(self, text: str) -> str:
        text_filter = self._of_request()
        assert text_filter is not None, "some filter looks at requests"
        return whole(text_filter, text)

    def _of_request(self) -> TextFilter | None:
        return _chained([each.of_request() for each in self.filters])

    def _of_answer(self) -> TextFilter | None:
        return _chained([each.of_answer() for each in self.filters])

    def _new_of_answer(self) -> TextFilter:
        text_filter = self._of_answer()
        assert text_filter is not None, "some filter looks at answers"
        return text_filter


def _chained(filters: list[TextFilter | None]) -> TextFilter | None:
    found = [each for each in filters if each is not None]
    return found[0] if len(found) == 1 else Chain(found) if found else None
