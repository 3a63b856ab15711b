"""Bodies that would hold control up while they are read."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control.json_bound import MOST_VALUES
from tests.integration.control_plane import control_plane
from tests.integration.postgres import PostgresServer


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/echo/jobs", b'{"x":[' + b"1," * (MOST_VALUES + 1) + b"1]}"),
        ("/models/register", b'{"reference":[' + b"[]," * MOST_VALUES + b"1]}"),
        ("/v1/batches", b"[" * (MOST_VALUES + 1)),
    ],
)
async def test_so_many_values_that_none_is_looked_at(tmp_path: Path, path: str, content: bytes) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 50_000):
            yield content[at : at + 50_000]

    async with control_plane(tmp_path) as opened:
        for body in (content, pieces()):
            response = await opened.http.post(path, content=body, headers={"content-type": "application/json"})
            assert response.status_code == 413
            said = response.json()
            assert str(MOST_VALUES) in (said["error"]["message"] if path.startswith("/v1/") else said["detail"])


UNREADABLE: tuple[tuple[bytes, str | None, str], ...] = (
    (b'{"id": "a",\n "tags" 2}', None, "line 2, column 9"),
    (b'{"id": "a"} x', None, "extra data at line 1"),
    (b'{"id": "\xe9"}', None, "byte 0xe9 at position 8"),
    ('{"id": "a"}'.encode("utf-16"), None, "UTF-16"),
    (b'{"id": "\\ud800"}', "id", "half of a surrogate pair"),
    (b'{"\\udc00": 1}', "body", "half of a surrogate pair"),
    (b'{"id": "a", "step": NaN}', "step", "NaN is not valid JSON"),
    (b'{"id": "a", "step": ' + b"9" * 5000 + b"}", None, "a number that is too long"),
    (b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "nested too deeply"),
    (b"[]", None, "an array"),
)


@pytest.mark.parametrize("path", ["/models/register", "/echo/jobs", "/v1/conversations"])
async def test_a_body_that_cannot_be_read_says_why_and_where(tmp_path: Path, path: str) -> None:
    async with control_plane(tmp_path) as opened:
        for content, field, said in UNREADABLE:
            response = await opened.http.post(path, content=content)
            if path.startswith("/v1/"):
                error = response.json()["error"]
                told = (response.status_code, error["param"], error["type"])
                assert told == (400, field, "invalid_request_error")
                assert said in error["message"]
            else:
                assert response.status_code == 422
                assert said in response.json()["detail"]


@pytest.mark.parametrize("path", ["/models/set_active", "/echo/jobs"])
async def test_a_byte_order_mark_is_read_over(tmp_path: Path, path: str) -> None:
    async with control_plane(tmp_path) as opened:
        plain = await opened.http.post(path, content=b'{"id": "nobody", "model_id": "nobody"}')
        marked = await opened.http.post(path, content=b'\xef\xbb\xbf{"id": "nobody", "model_id": "nobody"}')
    assert (marked.status_code, marked.json()) == (plain.status_code, plain.json())


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_a_body_is_json_whatever_it_is_called(tmp_path: Path, kind: str) -> None:
    """`curl -d` calls it a form."""
    async with control_plane(tmp_path) as opened:
        for path in ("/models/set_active", "/echo/jobs"):
            content = b'{"id": "nobody"}' if path == "/models/set_active" else b'{"model_id": "nobody"}'
            headers = {"content-type": kind} if kind else {}
            response = await opened.http.post(path, content=content, headers=headers)
            assert response.status_code == 404
            assert "no model is registered as 'nobody'" in response.json()["detail"]
        newest = (await opened.http.get("/audit?limit=1")).json()["entries"][0]
        assert (newest["path"], newest["target"]) == ("/models/set_active", "nobody")


async def test_a_nul_that_postgresql_cannot_keep_is_refused(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERENCE_DATABASE_URL", postgres.new_database("nul"))
    suite = [{"dataset_ref": "x", "metric": "accuracy"}]
    bodies: dict[str, Any] = {
        "/models/set_active": {"id": "\0"},
        "/echo/jobs": {"model_id": "a\0"},
        "/promotions": {"candidate": "\0", "suite": suite},
    }
    async with control_plane(tmp_path) as opened:
        answers = [await opened.http.post(path, json=body) for path, body in bodies.items()]
        answers.append(await opened.http.put("/webhooks/w", json={"url": "http://localhost/\0"}))
        answers += [await opened.http.get(path) for path in ("/jobs/%00", "/models/%00", "/jobs?text=%00")]
    assert [each.status_code for each in answers] == [422] * len(answers)
    assert all("NUL" in each.json()["detail"] for each in answers)


async def test_a_long_body_of_few_values_is_read(tmp_path: Path) -> None:
    """And what is wrong with it is told in few words."""
    async with control_plane(tmp_path) as opened:
        content = json.dumps({"id": "m", "tags": [1] * 60_000, "note": "x" * 300_000}).encode()
        response = await opened.http.post("/models/register", content=content)
        assert response.status_code == 422
        assert len(response.json()["detail"]) < 5_000
