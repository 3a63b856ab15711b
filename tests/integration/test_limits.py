"""Limits of keys and of the server through the real port: rates, tokens, places, time."""

import asyncio
from pathlib import Path

import httpx
import pytest

from stepserve.access_settings import LimitSettings
from stepserve.settings import EngineSettings
from tests.eventually import eventually
from tests.integration.full_stack import MODEL, FullStack, run_story


def test_requests_a_minute(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        limited, free = await there.key(requests_per_min=3), await there.key()
        codes = [(await there.chat(limited)).status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        answer = await there.chat(limited)
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert (await there.chat(free)).status_code == 200

    run_story(tmp_path, story)


def test_tokens_a_minute(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(tokens_per_min=500)
        too_large = await there.chat(key, max_tokens=5000)
        assert too_large.status_code == 429
        assert "max_tokens" in too_large.json()["error"]["message"]
        there.engine.release.clear()
        first = asyncio.create_task(there.chat(key, max_tokens=400))
        await there.engine.entered.wait()
        second = await there.chat(key, max_tokens=400)  # while the first holds its share
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        there.engine.release.set()
        assert (await first).status_code == 200
        assert (await there.chat(key, max_tokens=400)).status_code == 200  # the first has used none of it

    run_story(tmp_path, story)


def test_requests_at_once(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(max_concurrent=1)
        there.engine.release.clear()
        first = asyncio.create_task(there.chat(key))
        await there.engine.entered.wait()
        assert (await there.chat(key)).status_code == 429
        there.engine.release.set()
        assert (await first).status_code == 200
        assert (await there.chat(key)).status_code == 200

    run_story(tmp_path, story)


def test_a_queue_that_is_full_says_so_and_when_to_come_again(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        there.engine.release.clear()
        running = [asyncio.create_task(there.chat()) for _ in range(3)]
        await eventually(lambda: there.http.get("/status"), lambda seen: seen.json()["engines"][0]["in_flight"] >= 3)
        answer = await there.chat()
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) >= 1
        there.engine.release.set()
        assert [each.status_code for each in await asyncio.gather(*running)] == [200] * 3
        assert (await there.chat()).status_code == 200

    one_at_once = EngineSettings(max_num_seqs=1)
    run_story(tmp_path, story, limits=LimitSettings(max_queued_requests=2), engine=one_at_once)


async def _read_stream(there: FullStack, seen: list[bytes]) -> None:
    async with there.http.stream("POST", "/v1/chat/completions", json={"model": MODEL}) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            seen.append(chunk)  # noqa: PERF401 - what came before the end is wanted


def test_time_outs(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        there.engine.release.clear()
        slow = await there.chat()
        assert slow.status_code == 504
        assert "request_timeout_s" in slow.json()["error"]["message"]
        there.engine.content_type = b"text/event-stream; charset=utf-8"
        seen: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):  # cut off, not ended
            await _read_stream(there, seen)
        assert b"stream_timeout_s" in b"".join(seen)
        assert (await there.http.get("/readyz")).status_code == 200

    run_story(tmp_path, story, limits=LimitSettings(request_timeout_s=0.2, stream_timeout_s=0.4))


def test_a_flood_of_wrong_keys_hurts_nobody_else(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key()
        nearly = key[:-4] + ("b" if key[-4] == "a" else "a")
        wrong = [asyncio.create_task(there.chat(f"{nearly}{number:03d}")) for number in range(150)]
        right = [asyncio.create_task(there.chat(key)) for _ in range(20)]
        assert {each.status_code for each in await asyncio.gather(*wrong)} == {401}
        assert {each.status_code for each in await asyncio.gather(*right)} == {200}

    run_story(tmp_path, story)
