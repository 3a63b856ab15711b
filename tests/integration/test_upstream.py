"""Other hosts, well and unwell: what a client is told, and that nobody else notices."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from stepserve.access_settings import AccessSettings
from tests.eventually import eventually
from tests.integration import misbehaving
from tests.integration.full_stack import FullStack, full_stack
from tests.integration.misbehaving import Behaviour, Headers, Upstream, upstream

OPEN = AccessSettings(mode="open")

Story = Callable[[FullStack, list[Upstream]], Awaitable[None]]


@asynccontextmanager
async def tiered(
    base: Path, behaviours: list[Behaviour], **tier: Any
) -> AsyncIterator[tuple[FullStack, list[Upstream]]]:
    """A gateway whose tier `fast` has a server for each behaviour, all with the model `far`."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(upstream(each, "far", "active")) for each in behaviours]
        upstreams = [{"base_url": each.url, "api_key": f"key-{number}"} for number, each in enumerate(servers)]
        file = base / "hosts.json"
        file.write_text(json.dumps({"tiers": {"fast": {"upstreams": upstreams, **tier}}}))
        there = await stack.enter_async_context(full_stack(base, with_control=False, hosts_file=file, access=OPEN))
        await eventually(lambda: there.gateway.upstream.has("far") or not servers)
        yield there, servers


def run_story(base: Path, story: Story, *behaviours: Behaviour, **tier: Any) -> None:
    async def run() -> None:
        async with tiered(base, list(behaviours), **tier) as (there, servers):
            await story(there, servers)

    asyncio.run(run())


async def ask(there: FullStack, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
    asked = {"model": "far", "messages": [{"role": "user", "content": "?"}], **body}
    return await there.http.post(path, json=asked)


async def read(there: FullStack, seen: list[bytes], path: str = "/v1/chat/completions") -> None:
    async with there.http.stream("POST", path, json={"model": "far", "stream": True}) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            seen.append(chunk)  # noqa: PERF401 - what came before the end is wanted


def test_a_request_finds_the_host_that_has_its_model(tmp_path: Path) -> None:
    async def story(there: FullStack, servers: list[Upstream]) -> None:
        answer = await ask(there)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == servers[0].url
        assert (answer.headers["x-model-id"], answer.headers["x-tier"]) == ("far", "fast")
        seen: list[bytes] = []
        await read(there, seen)
        assert b"".join(seen).endswith(b"data: [DONE]\n\n")
        listed = {card["id"]: card["owned_by"] for card in (await there.http.get("/v1/models")).json()["data"]}
        assert listed == {"far": "fast", "fast": "fast"}, "a tier may be asked for by its name"
        unknown = await ask(there, model="nowhere")
        assert unknown.status_code == 404

    run_story(tmp_path, story, misbehaving.works)


def test_below_a_tiers_path(tmp_path: Path) -> None:
    async def story(there: FullStack, servers: list[Upstream]) -> None:
        for name, meant in (("far", "far"), ("active", "active"), ("", "active"), ("fast", "active"), (None, "active")):
            answer = await ask(there, "/fast/v1/chat/completions", model=name)
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == meant
        assert (await ask(there, model="fast")).json()["model"] == "active"
        unknown = await ask(there, "/fast/v1/chat/completions", model="nowhere")
        assert unknown.status_code == 404
        assert unknown.json()["error"]["message"].endswith("Served now: `far`, `active`, `fast`.")
        assert (await ask(there, "/slow/v1/chat/completions")).json()["error"]["code"] == "tier_not_found"
        assert (await ask(there, "/fast/v1/files")).status_code == 404
        assert (await there.http.get("/fast/v1/models")).json()["data"][0]["id"] == "far"
        assert (await there.http.get("/fast/v1/models/nowhere")).status_code == 404

    run_story(tmp_path, story, misbehaving.works)


def test_nothing_of_a_client_reaches_another(tmp_path: Path) -> None:
    async def story(there: FullStack, servers: list[Upstream]) -> None:
        headers = {"authorization": "Bearer mine", "x-api-key": "mine", "cookie": "mine=1", "x-mine": "1"}
        for _ in range(2):
            answer = await there.http.post("/v1/completions", json={"model": "far"}, headers=headers)
            assert answer.status_code == 200
            assert not {"set-cookie", "x-secret"} & set(answer.headers)
            there.http.cookies.clear()
        for sent, _ in servers[0].seen:
            assert sent["authorization"] == "Bearer key-0"
            assert not {"cookie", "x-api-key", "x-mine"} & set(sent)
            assert "mine" not in str(sent)

    run_story(tmp_path, story, misbehaving.works)


@pytest.mark.parametrize(
    ("behaviour", "status", "said"),
    [
        (misbehaving.dies, 502, "broke off"),
        (misbehaving.never, 504, "gave no answer within"),
        (misbehaving.garbage, 502, "something other than a JSON object"),
        (misbehaving.half_json, 502, "broke off"),
        (misbehaving.no_http, 502, "broke off"),
        (misbehaving.fails, 502, "out of memory"),
        (misbehaving.busy, 429, "too much"),
        (misbehaving.refuses_our_key, 502, "refuses the key"),
        (misbehaving.redirects, 502, "302"),
        (misbehaving.says_no, 400, "max_tokens is too large"),
    ],
)
def test_a_server_that_is_unwell(tmp_path: Path, behaviour: Behaviour, status: int, said: str) -> None:
    async def story(there: FullStack, servers: list[Upstream]) -> None:
        answer = await ask(there)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["error"]["message"]
        assert "127.0.0.1" not in answer.text, "where other servers are is not told"
        if status == 429:
            assert answer.headers["retry-after"] == "7"
        assert (await there.http.get("/livez")).status_code == 200

    run_story(tmp_path, story, behaviour, first_byte_timeout_s=0.4)


@pytest.mark.parametrize(
    "behaviour",
    [
        misbehaving.dies,
        misbehaving.never,
        misbehaving.garbage,
        misbehaving.half_json,
        misbehaving.fails,
        misbehaving.busy,
        misbehaving.refuses_our_key,
    ],
)
def test_another_replica_answers_instead(tmp_path: Path, behaviour: Behaviour) -> None:
    async def story(there: FullStack, servers: list[Upstream]) -> None:
        for _ in range(2):
            answer = await ask(there)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"] == servers[1].url
        assert servers[0].seen

    run_story(tmp_path, story, behaviour, misbehaving.works, first_byte_timeout_s=0.4)


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (misbehaving.breaks_midway, "broke off"),
        (misbehaving.ends_early, "before the answer was whole"),
        (misbehaving.garbage_midway, "no event in its stream"),
        (misbehaving.for_ever, "took longer than"),
        (misbehaving.stalls_midway, "sent nothing more"),
    ],
)
def test_a_stream_that_goes_wrong_never_looks_complete(tmp_path: Path, behaviour: Behaviour, said: str) -> None:
    async def story(there: FullStack, servers: list[Upstream]) -> None:
        seen: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            await read(there, seen)
        stream = b"".join(seen)
        assert b"[DONE]" not in stream
        assert b"html" not in stream.rpartition(b'data: {"error"')[0]
        last = json.loads(stream.strip().rpartition(b"data: ")[2])
        assert said in last["error"]["message"]
        assert "127.0.0.1" not in last["error"]["message"]
        assert len(servers[0].seen) + len(servers[1].seen) == 1  # a byte was answered, so nobody else was asked
        assert not any(each.in_flight for each in there.gateway.upstream.directory.tiers["fast"])

    run_story(tmp_path, story, behaviour, behaviour, total_timeout_s=1.0, idle_timeout_s=0.4)


def test_the_least_busy_is_asked_and_all_in_turn(tmp_path: Path) -> None:
    async def story(there: FullStack, servers: list[Upstream]) -> None:
        for _ in range(6):
            assert (await ask(there)).status_code == 200
        assert [len(each.seen) for each in servers] == [3, 3]
        servers[0].behave = misbehaving.never
        stuck = asyncio.create_task(ask(there))
        async with asyncio.timeout(240):
            while not servers[0].running:
                if stuck.done():  # it was the other one's turn
                    stuck = asyncio.create_task(ask(there))
                await asyncio.sleep(0.01)
        before = len(servers[1].seen)
        for _ in range(4):
            assert (await ask(there)).status_code == 200
        assert len(servers[1].seen) == before + 4
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)

    run_story(tmp_path, story, misbehaving.works, misbehaving.works)


def test_a_server_that_keeps_failing_is_left_alone_for_a_while(tmp_path: Path) -> None:
    async def story(there: FullStack, servers: list[Upstream]) -> None:
        for _ in range(3):
            assert (await ask(there)).status_code == 502
        answer = await ask(there)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert len(servers[0].seen) == 3
        servers[0].behave = misbehaving.works
        await eventually(lambda: ask(there), lambda answer: answer.status_code == 200)

    run_story(tmp_path, story, misbehaving.fails)


def test_a_client_that_leaves_is_left_there_too(tmp_path: Path) -> None:
    async def story(there: FullStack, servers: list[Upstream]) -> None:
        leaving = asyncio.create_task(ask(there))
        await eventually(lambda: servers[0].running)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        replica = there.gateway.upstream.directory.tiers["fast"][0]
        await eventually(lambda: not replica.in_flight)
        assert replica.breaker.failures == 0

    run_story(tmp_path, story, misbehaving.never)


def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    async def run() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
        file = tmp_path / "hosts.json"
        tier = {"upstreams": [{"base_url": nowhere, "models": ["far"]}]}
        file.write_text(json.dumps({"tiers": {"fast": tier}}))
        async with full_stack(tmp_path, with_control=False, hosts_file=file, access=OPEN) as there:
            answer = await ask(there)
            assert answer.status_code == 502
            assert "Upstream 1 of `fast` cannot be reached" in answer.json()["error"]["message"]
            assert "127.0.0.1" not in answer.text

    asyncio.run(run())


def test_hosts_that_point_at_each_other_are_found_out(tmp_path: Path) -> None:
    async def story(there: FullStack, servers: list[Upstream]) -> None:
        async def passes_back(_: Upstream, headers: Headers, body: bytes, writer: asyncio.StreamWriter) -> None:
            hops = {"x-upstream-hops": headers["x-upstream-hops"]}
            back = await there.http.post("/v1/chat/completions", content=body, headers=hops)
            await misbehaving.answer(writer, back.status_code, back.content)

        servers[0].behave = passes_back
        answer = await ask(there)
        assert answer.status_code == 502
        assert "circle" in answer.json()["error"]["message"]

    run_story(tmp_path, story, misbehaving.never)
