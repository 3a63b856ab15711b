"""Streams that are open when their key is revoked or expires: they end within seconds, and not as if whole."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.eventually import DEADLINE_S, eventually
from tests.integration.control_plane import run_sql
from tests.integration.echo_kind import EchoKind
from tests.integration.full_stack import MODEL, FullStack, bearer, run_story


@asynccontextmanager
async def open_stream(
    there: FullStack, method: str, path: str, key: str | None, **body: Any
) -> AsyncIterator[httpx.Response]:
    headers = bearer(key) if key else {}
    asking = there.http.stream(method, path, headers=headers, json=body or None, timeout=DEADLINE_S)
    async with asyncio.timeout(DEADLINE_S), asking as answer:
        assert answer.status_code == 200
        yield answer


async def cut_off(answer: httpx.Response) -> str:
    """What came until the connection broke; a stream that ends as if whole is a failure of the test."""
    said = ""
    try:
        async for piece in answer.aiter_text():
            said += piece
    except httpx.RemoteProtocolError:
        return said
    raise AssertionError(f"ended as if whole: {said}")


async def revoke(there: FullStack, key: str) -> None:
    assert (await there.owner.delete(f"/keys/{key.split('_')[1]}")).status_code == 200


def test_a_chat_stream_of_a_revoked_key(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key, other = await there.key(), await there.key()
        there.engine.content_type = b"text/event-stream; charset=utf-8"
        there.engine.release.clear()
        asked = ("POST", "/v1/chat/completions")
        async with open_stream(there, *asked, other, model=MODEL) as kept:
            async with open_stream(there, *asked, key, model=MODEL) as answer:
                await revoke(there, key)
                said = await cut_off(answer)
            assert "is revoked" in said
            there.engine.release.set()
            assert "error" not in (await kept.aread()).decode()

    run_story(tmp_path, story)


def test_a_chat_that_waits_for_its_answer(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key()
        there.engine.release.clear()
        waiting = asyncio.create_task(there.chat(key))
        await there.engine.entered.wait()
        await revoke(there, key)
        answer = await asyncio.wait_for(waiting, DEADLINE_S)
        assert answer.status_code == 401
        there.engine.release.set()

    run_story(tmp_path, story)


def test_the_events_of_a_job_and_a_log_that_is_followed(tmp_path: Path) -> None:
    kind = EchoKind()
    kind.may_go.clear()

    async def story(there: FullStack) -> None:
        expiring = await there.key(scopes=["jobs"], expires_in_days=1)
        revoked = await there.key(scopes=["admin"])
        made = await there.owner.post("/echo/jobs", json={"model_id": MODEL})
        path = f"/jobs/{made.json()['job_id']}/events"
        async with (
            open_stream(there, "GET", path, expiring) as events,
            open_stream(there, "GET", "/logs/api_server?follow=true", revoked) as log,
        ):
            await revoke(there, revoked)
            assert "event: error" in await cut_off(log)
            passed = (
                f"UPDATE api_keys SET expires_at = '2020-01-01 00:00:00.000000' WHERE id = '{expiring.split('_')[1]}'"
            )
            assert await run_sql(tmp_path, passed) == 1
            await run_sql(tmp_path, "UPDATE access_state SET revision = revision + 1")
            assert "is expired" in await cut_off(events)
        kind.may_go.set()

    run_story(tmp_path, story, kinds=[kind])


def test_a_chat_stream_of_a_key_that_expires(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(expires_in_days=1)
        there.engine.content_type = b"text/event-stream; charset=utf-8"
        there.engine.release.clear()
        async with open_stream(there, "POST", "/v1/chat/completions", key, model=MODEL) as answer:
            passed = f"UPDATE api_keys SET expires_at = '2020-01-01 00:00:00.000000' WHERE id = '{key.split('_')[1]}'"
            assert await run_sql(tmp_path, passed) == 1
            await run_sql(tmp_path, "UPDATE access_state SET revision = revision + 1")
            assert "is expired" in await cut_off(answer)
        there.engine.release.set()

    run_story(tmp_path, story)


def test_an_upload_of_a_revoked_key(tmp_path: Path) -> None:
    """Its client is told so and disconnected. What it sent is no model, and kept for who goes on or throws it away."""

    async def story(there: FullStack) -> None:
        await there.key(scopes=["admin"])
        key = await there.key(scopes=["admin"])
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(there.url).port)
            head = (
                "PUT /models/m/files/model.safetensors HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {key}\r\nContent-Length: 9000000\r\n\r\n"
            )
            writer.write(head.encode() + bytes(range(1, 251)) * 16_000)
            await writer.drain()
            await eventually(lambda: _uploaded(there), lambda files: files != [])
            await revoke(there, key)
            said = await reader.read()
        writer.close()
        assert b"401" in said.split(b"\r\n")[0]
        assert b"is revoked" in said
        assert not (there.settings.layout.models / "m").exists()
        files = await eventually(lambda: _uploaded(there), lambda files: files[0]["received_bytes"] > 0)
        assert files[0]["complete"] is False
        assert (await there.owner.delete("/models/m/files")).status_code == 200

    run_story(tmp_path, story)


async def _uploaded(there: FullStack) -> list[Any]:
    answer = await there.owner.get("/models/m/files")
    return list(answer.json()["files"]) if answer.status_code == 200 else []


def test_who_revokes_his_own_key_is_told_that_it_is_done(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        await there.key(scopes=["admin"])
        key = await there.key(scopes=["admin"])
        answer = await there.http.delete(f"/keys/{key.split('_')[1]}", headers=bearer(key))
        assert answer.status_code == 200

    run_story(tmp_path, story)


def test_a_stream_from_before_there_were_keys(tmp_path: Path) -> None:
    kind = EchoKind()
    kind.may_go.clear()

    async def story(there: FullStack) -> None:
        made = await there.owner.post("/echo/jobs", json={"model_id": MODEL})
        async with open_stream(there, "GET", f"/jobs/{made.json()['job_id']}/events", None) as events:
            await there.key()
            assert "Keys are demanded now" in await cut_off(events)
        kind.may_go.set()

    run_story(tmp_path, story, kinds=[kind])
