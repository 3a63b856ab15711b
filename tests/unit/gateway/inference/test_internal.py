"""Whole requests asked from inside, as jobs do."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from gateway.dialects.reasoning import with_reasoning_content
from gateway.dialects.served import Served
from gateway.edge.openapi import own, selected
from gateway.errors import DigestMismatch, GatewayError, InvalidRequest, ModelNotFound, Unserved
from gateway.http.asgi import Message, Receive, Scope, Send, read_body, send_json
from gateway.inference.dispatch import Dispatch
from gateway.inference.internal import Inference
from gateway.inference.routes import create_routes
from gateway.request.bounds import RequestBounds
from gateway.serving.batch_share import BatchShare
from gateway.serving.gate import Gate
from gateway.serving.naming import Naming
from gateway.serving.slot import Slot
from gateway.sidecar.control_link import ControlProxy
from stepserve.contract import BATCH_PRIORITY, AskItem, AskRequest, AskResult, GatewayState, ModelRef
from stepserve.settings import Alias, Settings
from tests.unit.gateway.fakes import FakeEngine, FakeKeeper, model, router_over

CHAT = "/v1/chat/completions"
EMPTY = GatewayState(boot_id="1", pid=1, active=None, switching_to=None, slots=[], held=0)
NAMING = Naming({"short": Alias(max_tokens=3, temperature=0)})


class Telling(FakeEngine):
    """Answers with the path and body that it was asked, or as `status` and `says` have it."""

    says: Any = None

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads(await read_body(receive, 10_000))
        await self.release.wait()
        told = {"path": scope["path"], "body": body}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        choices = [{"index": 0, "text": json.dumps(body), "finish_reason": "stop"}]
        whole = {"id": "1", "model": self.ref.id, "choices": choices, "usage": usage, **told}
        await send_json(send, self.status, self.says or whole)


def ask(
    base: Path, engine: FakeEngine, *items: AskItem, served: ModelRef | None = None, naming: Naming = NAMING
) -> AskResult:
    """Asks the model `a`; `served` is what the gate is open on."""

    async def scenario() -> AskResult:
        gate = Gate(8, 1.0)
        gate.open(Slot(served or model("a"), engine, 1.0))
        dispatch = Dispatch(router_over(gate), 10_000, naming=naming)
        control = ControlProxy(base / "no.sock", 10_000)
        served_here, keeper = Served(lambda: EMPTY, naming), FakeKeeper()
        dialects = create_routes(
            Settings(base_dir=base), dispatch, served_here, control, keeper, keeper, RequestBounds.unbounded()
        )
        try:
            return await Inference(dispatch, dispatch, dialects, BatchShare(64, 64)).ask(
                AskRequest(model="a", digest="sha256:a", items=list(items))
            )
        finally:
            await control.close()

    return asyncio.run(scenario())


def test_requests_of_any_route_at_the_lowest_priority(tmp_path: Path) -> None:
    items = [
        AskItem(path=CHAT, body={"messages": [], "model": "short"}),
        AskItem(path="/generate", body={"prompt": "x"}),
    ]
    chat, generate = ask(tmp_path, Telling(model("a")), *items).outputs
    assert chat.body["body"] == {
        "model": "a", "messages": [], "max_tokens": 3, "temperature": 0.0, "priority": BATCH_PRIORITY
    }  # fmt: skip
    asked = json.loads(generate.body["text"])
    assert (asked["messages"][0]["content"], asked["priority"], asked["model"]) == ("x", BATCH_PRIORITY, "a")


def test_what_is_refused_fails_alone(tmp_path: Path) -> None:
    wrong = AskItem(path="/generate", body={"prompt": "x", "colour": "red"})
    right = AskItem(path="/generate", body={"prompt": "x"})
    refused, answered = ask(tmp_path, Telling(model("a")), wrong, right).outputs
    assert (refused.status, answered.status) == (422, 200)
    assert "colour" in refused.body["detail"]


@pytest.mark.parametrize(
    ("served", "naming", "raised"),
    [
        (ModelRef(id="a", path="/", digest="sha256:other"), NAMING, DigestMismatch),
        (model("b"), NAMING, ModelNotFound),
        (model("b"), Naming(unknown="active"), ModelNotFound),
    ],
    ids=["other content", "other model", "other model for unknown names"],
)
def test_another_model_than_the_jobs_is_no_answer(
    tmp_path: Path, served: ModelRef, naming: Naming, raised: type[GatewayError]
) -> None:
    with pytest.raises(raised):
        ask(tmp_path, Telling(model("a")), AskItem(path=CHAT, body={"messages": []}), served=served, naming=naming)


def test_what_may_pass_is_worth_a_retry(tmp_path: Path) -> None:
    engine = Telling(model("a"))
    engine.status, engine.says = 503, {"error": {"message": "not now"}}
    with pytest.raises(Unserved, match="not now"):
        ask(tmp_path, engine, AskItem(path=CHAT, body={}))


@pytest.mark.parametrize("path", ["/models/set_active", "/v1/files", "/health", "/inference/jobs"])
def test_only_inference_is_asked(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidRequest, match=path):
        ask(tmp_path, Telling(model("a")), AskItem(path=path, body={}))


def reasoned(*messages: Message, path: str = CHAT) -> list[Message]:
    """What becomes of an engine's messages."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async def send(message: Message) -> None:
        sent.append(message)

    receive: Callable[[], Awaitable[Message]] = asyncio.Event().wait  # type: ignore[assignment]
    asyncio.run(with_reasoning_content(app)({"type": "http", "path": path}, receive, send))  # type: ignore[arg-type]
    return sent


def test_thinking_has_both_of_its_names_and_the_length_is_right() -> None:
    body = b'{"choices":[{"message":{"content":"42","reasoning":"sum"}}]}'
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    begun, ended = reasoned(start, {"type": "http.response.body", "body": body})
    message = json.loads(ended["body"])["choices"][0]["message"]
    assert message == {"content": "42", "reasoning": "sum", "reasoning_content": "sum"}
    assert dict(begun["headers"])[b"content-length"] == b"%d" % len(ended["body"])


def test_events_keep_their_frames() -> None:
    events = b'data: {"choices":[{"delta":{"reasoning":"s"}}]}\n\ndata: {"choices":[]}\n\ndata: [DONE]\n\n'
    start = {"type": "http.response.start", "status": 200, "headers": []}
    _, first, last = reasoned(
        start,
        {"type": "http.response.body", "body": events, "more_body": True},
        {"type": "http.response.body", "body": b""},
    )
    frames = first["body"].decode().split("\n\n")
    assert json.loads(frames[0].removeprefix("data: "))["choices"][0]["delta"] == {
        "reasoning": "s",
        "reasoning_content": "s",
    }
    assert frames[1:] == ['data: {"choices":[]}', "data: [DONE]", ""]
    assert last["body"] == b""


def test_other_routes_are_left_alone() -> None:
    start = {"type": "http.response.start", "status": 200, "headers": []}
    body = {"type": "http.response.body", "body": b'{"choices":[{"message":{"reasoning":"x"}}]}'}
    assert reasoned(start, body, path="/v1/responses") == [start, body]


def test_documents_are_put_together_without_a_clash() -> None:
    inner = {"$defs": {"Leaf": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/Leaf"}}}
    document = {
        "paths": {"/mine": {"post": {"schema": inner, "other": {"$ref": "#/components/schemas/Top"}}}, "/hidden": {}},
        "components": {"schemas": {"Top": {"type": "object"}}},
    }
    found = selected(document, "x", lambda path: path == "/mine")
    assert set(found["paths"]) == {"/mine"}
    assert set(found["schemas"]) == {"x.Top", "x.Leaf"}
    assert found["paths"]["/mine"]["post"]["schema"]["properties"]["a"] == {"$ref": "#/components/schemas/x.Leaf"}
    assert found["paths"]["/mine"]["post"]["other"] == {"$ref": "#/components/schemas/x.Top"}
    routes = [Route("/v1/models/{name:path}", _nothing, methods=each) for each in (["GET"], ["PUT", "DELETE"])]
    described = own([], routes)["paths"]["/v1/models/{name}"]
    assert described["get"]["parameters"][0]["name"] == "name"
    assert set(described) == {"get", "put", "delete"}, "routes of one path are put together"
    assert "requestBody" in described["put"]


async def _nothing(_: Any) -> None:
    """No handler is called here."""
