import asyncio
import json

import pytest

from gateway.inference.dispatch import Dispatch
from gateway.serving.gate import Gate
from gateway.serving.naming import model_named
from gateway.serving.slot import Slot
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, router_over


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model": "a", "messages": []}', "a"),
        (b'{"messages": [{"model": "inner"}]}', None),
        (b'{"model": null}', None),
        (b'{"model": 3}', None),
        (b'{"model": ', None),
        (b"[]", None),
        (b"", None),
        (b"\xff\xfe", None),
        ('{"model": "modèle"}'.encode(), "modèle"),
    ],
)
def test_the_model_a_body_names(body: bytes, name: str | None) -> None:
    assert model_named(body) == name


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("/v1/chat/completions", True),
        ("/v1/responses/resp_1", True),
        ("/tokenize", True),
        ("/health", False),
        ("/metrics", False),
        ("/scale_elastic_ep", False),
        ("/invocations", False),
        ("/v1/chat/completions/render", False),
        ("/inference/v1/generate", False),
    ],
)
def test_only_listed_paths_reach_a_slot(path: str, taken: bool) -> None:
    assert Dispatch.takes({"path": path}) is taken


def test_the_slot_gets_the_body_that_was_read() -> None:
    async def scenario() -> None:
        gate = Gate(1, 1.0)
        gate.open(Slot(model("a"), FakeEngine(model("a")), 1.0))
        client = FakeClient(b'{"model": "a"}')
        await Dispatch(router_over(gate), 1024)(client.scope, client.receive, client.send)
        assert client.body == b'a:{"model": "a"}'

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b'{"model": "b"}', 404, "model_not_found"), (b" " * 2000, 413, "request_too_large")],
)
def test_refusals_are_in_the_openai_envelope(body: bytes, status: int, code: str) -> None:
    async def scenario() -> None:
        gate = Gate(1, 1.0)
        gate.open(Slot(model("a"), FakeEngine(model("a")), 1.0))
        client = FakeClient(body)
        await Dispatch(router_over(gate), 1024)(client.scope, client.receive, client.send)
        assert client.status == status
        error = json.loads(client.body)["error"]
        assert error["code"] == code
        assert set(error) == {"message", "type", "param", "code"}

    asyncio.run(scenario())
