"""What a client may not say in the bodies of vLLM's requests."""

import json

import pytest

from gateway.errors import InvalidRequest
from gateway.inference.dispatch import Dispatch
from gateway.request.body import RequestBody
from gateway.request.client_fields import check
from gateway.request.estimate import estimate_of
from gateway.serving.gate import Gate
from gateway.serving.slot import Slot
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, router_over

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHAT, b'{"priority": -1}', "priority"),
        (CHAT, b'{"priority": "-5"}', "priority"),
        (CHAT, b'{"priority": -1.0}', "priority"),
        (CHAT, b'{"priority": 100}', "priority"),
        (CHAT, b'{"priority": 5, "priority": -5}', "priority"),
        (CHAT, b'{"priority": -5, "x": NaN}', None),
        (CHAT, b'{"priority": -5, "x": "\\ud800"}', None),
        (CHAT, b'[{"priority": -5}]', None),
        ("/v1/responses", b'{"request_id": "batch-eval_1.x"}', "request_id"),
        ("/v1/responses", b'{"request_id": 7}', "request_id"),
    ],
)
def test_nobody_jumps_the_queue(path: str, body: bytes, field: str | None) -> None:
    """Nor by JSON that one parser refuses and another takes."""
    with pytest.raises(InvalidRequest) as caught:
        check(estimate_of(RequestBody(body)), path)
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b"{}"),
        (CHAT, b'{"priority": null}'),
        (CHAT, b'{"priority": 0}'),
        (CHAT, b'{"priority": 99}'),
        (CHAT, b'{"request_id": "mine"}'),
        ("/v1/responses", b'{"request_id": "resp_mine"}'),
    ],
)
def test_who_steps_back_may(path: str, body: bytes) -> None:
    check(estimate_of(RequestBody(body)), path)


async def test_a_refusal_names_the_field_in_the_envelope() -> None:
    gate = Gate(1, 1.0)
    gate.open(Slot(model("a"), FakeEngine(model("a")), 1.0))
    client = FakeClient(b'{"model": "a", "priority": -1}')
    await Dispatch(router_over(gate), 1024)(client.scope, client.receive, client.send)
    assert client.status == 400
    assert json.loads(client.body)["error"]["param"] == "priority"
