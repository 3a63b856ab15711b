import json

import pytest

from gateway.inference.dispatch import Dispatch
from gateway.serving.gate import Gate
from gateway.serving.slot import Slot
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, router_over


async def test_the_slot_gets_the_body_that_was_read() -> None:
    gate = Gate(1, 1.0)
    gate.open(Slot(model("a"), FakeEngine(model("a")), 1.0))
    client = FakeClient(b'{"model": "a"}')
    await Dispatch(router_over(gate), 1024)(client.scope, client.receive, client.send)
    assert client.body == b'a:{"model": "a"}'


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b'{"model": "b"}', 404, "model_not_found"), (b" " * 2000, 413, "request_too_large")],
)
async def test_refusals_are_in_the_openai_envelope(body: bytes, status: int, code: str) -> None:
    gate = Gate(1, 1.0)
    gate.open(Slot(model("a"), FakeEngine(model("a")), 1.0))
    client = FakeClient(body)
    await Dispatch(router_over(gate), 1024)(client.scope, client.receive, client.send)
    assert client.status == status
    error = json.loads(client.body)["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
