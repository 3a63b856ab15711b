"""A refusal at the door is in the words of the route."""

import asyncio
import json

import pytest

from gateway.access.refusal import refuse
from gateway.errors import InvalidField
from tests.unit.gateway.fakes import FakeClient


@pytest.mark.parametrize(
    ("path", "status", "where"),
    [
        ("/v1/completions", 400, ["error", "message"]),
        ("/v1/messages", 400, ["error", "message"]),
        ("/fast/v1/chat/completions", 400, ["error", "message"]),
        ("/tokenize", 400, ["error", "message"]),
        ("/detokenize", 400, ["error", "message"]),
        ("/api/chat", 400, ["error"]),
        ("/generate", 422, ["detail"]),
        ("/solve/math", 422, ["detail"]),
    ],
)
def test_what_cannot_be_understood(path: str, status: int, where: list[str]) -> None:
    client = FakeClient(b"", path)
    asyncio.run(refuse(path, client.send, InvalidField("n", "is too large")))
    assert client.status == status
    said = json.loads(client.body)
    for name in where:
        said = said[name]
    assert said == "n: is too large"
