import asyncio
import json
from typing import Any

import pytest

from gateway.inference.dispatch import Dispatch
from gateway.serving.gate import Gate
from gateway.serving.naming import Naming
from gateway.serving.slot import Slot
from stepserve.settings import Alias
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, router_over

ALIASES = {
    "gpt": Alias(model="active", temperature=0.2, max_tokens=7, stop=["x"]),
    "a-too": Alias(model="a"),
    "elsewhere": Alias(model="b"),
}


def _ask(naming: Naming, body: dict[str, Any], path: str = "/v1/chat/completions") -> FakeClient:
    async def scenario() -> FakeClient:
        gate = Gate(1, 1.0)
        gate.open(Slot(model("a"), FakeEngine(model("a")), 1.0))
        client = FakeClient(json.dumps(body).encode(), path)
        await Dispatch(router_over(gate), 4096, naming=naming)(client.scope, client.receive, client.send)
        return client

    return asyncio.run(scenario())


def _seen(client: FakeClient) -> Any:
    """The body as the engine got it."""
    assert client.status == 200, client.body
    return json.loads(client.body.removeprefix(b"a:"))


def test_an_alias_asks_its_model_with_its_preset() -> None:
    seen = _seen(_ask(Naming(ALIASES), {"model": "gpt", "messages": [], "temperature": 1.5}))
    assert seen == {"model": "a", "messages": [], "temperature": 1.5, "max_tokens": 7, "stop": ["x"]}


@pytest.mark.parametrize(
    ("path", "asked", "added"),
    [
        ("/v1/chat/completions", {"max_completion_tokens": 3}, {"temperature": 0.2, "stop": ["x"]}),
        ("/v1/responses", {}, {"temperature": 0.2, "max_output_tokens": 7, "stop": ["x"]}),
        ("/v1/messages", {"max_tokens": 5}, {"temperature": 0.2, "stop_sequences": ["x"]}),
        ("/v1/embeddings", {}, {}),
    ],
)
def test_a_preset_speaks_each_routes_language(path: str, asked: dict[str, Any], added: dict[str, Any]) -> None:
    assert _seen(_ask(Naming(ALIASES), {"model": "gpt", **asked}, path)) == {"model": "a", **asked, **added}


def test_a_body_without_an_alias_is_handed_on_byte_by_byte() -> None:
    assert _seen(_ask(Naming(ALIASES), {"model": "a", "temperature": None})) == {"model": "a", "temperature": None}


@pytest.mark.parametrize(
    ("naming", "name", "candidates"),
    [
        (Naming(ALIASES), None, [None]),
        (Naming(ALIASES), "gpt", ["active"]),
        (Naming(ALIASES), "a-too", ["a"]),
        (Naming(ALIASES), "org/name", ["org/name", "org--name"]),
        (Naming(unknown="active"), "gpt-5", ["gpt-5", "active"]),
        (Naming(unknown="active"), "org/name", ["org/name", "org--name", "active"]),
        (Naming(unknown="active"), "active", ["active"]),
    ],
)
def test_what_a_name_may_mean(naming: Naming, name: str | None, candidates: list[str | None]) -> None:
    assert naming.candidates(name) == candidates


@pytest.mark.parametrize("name", ["nobody", "elsewhere"])
def test_an_unknown_name_is_told_every_name_there_is(name: str) -> None:
    client = _ask(Naming(ALIASES), {"model": name})
    assert client.status == 404
    message = json.loads(client.body)["error"]["message"]
    there = "`a`, `active`, `gpt`, `a-too`"
    assert message == f"The model `{name}` is not served here. Served now: {there}."


def test_an_unknown_name_may_get_the_active_model() -> None:
    assert _seen(_ask(Naming(unknown="active"), {"model": "gpt-5", "n": 2})) == {"model": "a", "n": 2}
