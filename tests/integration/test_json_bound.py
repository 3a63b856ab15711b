"""Bodies that would hold control up while they are read."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control.json_bound import MOST_VALUES
from tests.integration.house import house


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/echo/jobs", b'{"x":[' + b"1," * (MOST_VALUES + 1) + b"1]}"),
        ("/models/register", b'{"reference":[' + b"[]," * MOST_VALUES + b"1]}"),
        ("/v1/batches", b"[" * (MOST_VALUES + 1)),
    ],
)
def test_so_many_values_that_none_is_looked_at(tmp_path: Path, path: str, content: bytes) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 50_000):
            yield content[at : at + 50_000]

    async def scenario() -> None:
        async with house(tmp_path) as opened:
            for body in (content, pieces()):
                response = await opened.http.post(path, content=body, headers={"content-type": "application/json"})
                assert response.status_code == 413
                said = response.json()
                assert str(MOST_VALUES) in (said["error"]["message"] if path.startswith("/v1/") else said["detail"])

    asyncio.run(scenario())


def test_a_long_body_of_few_values_is_read(tmp_path: Path) -> None:
    """And what is wrong with it is told in few words."""

    async def scenario() -> None:
        async with house(tmp_path) as opened:
            content = json.dumps({"id": "m", "tags": [1] * 60_000, "note": "x" * 300_000}).encode()
            response = await opened.http.post("/models/register", content=content)
            assert response.status_code == 422
            assert len(response.json()["detail"]) < 5_000

    asyncio.run(scenario())
