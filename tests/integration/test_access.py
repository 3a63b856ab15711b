"""Keys, scopes and limits through the real port: gateway and control as they run, over an engine that obeys."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from switchyard.access_settings import AccessSettings, LimitSettings
from switchyard.settings import EngineSettings
from tests.integration.town import MODEL, Town, running_control, town

Story = Callable[[Town], Awaitable[None]]


def tell(base: Path, story: Story, **changes: Any) -> None:
    async def run() -> None:
        async with town(base, **changes) as there:
            await story(there)

    asyncio.run(run())


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_without_keys_everything_is_open_and_the_first_key_shuts_it(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        assert (await there.chat()).status_code == 200
        refused = await there.http.post("/keys", json={"name": "x"})
        assert refused.status_code == 422
        assert "admin" in refused.json()["detail"]
        made = await there.http.post("/keys", json={"name": "me", "scopes": ["admin"]})
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        assert (await there.chat()).status_code == 401
        assert (await there.chat(made.json()["key"])).status_code == 200
        assert (await there.http.get("/models")).status_code == 401
        for path in ("/livez", "/readyz"):
            assert (await there.http.get(path)).status_code == 200
        assert (await there.http.get("/health")).json() == {"status": "ok"}
        told = await there.http.get("/health", headers=bearer(made.json()["key"]))
        assert told.json()["active_model"] == MODEL

    tell(tmp_path, story)


def test_each_scope_opens_its_routes_and_no_others(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        keys = {scope: await there.key(scopes=[scope]) for scope in ("admin", "infer", "jobs", "metrics")}
        routes = [
            ("POST", "/v1/chat/completions", {"infer", "admin"}),
            ("GET", "/v1/models", {"infer", "admin"}),
            ("GET", "/jobs", {"jobs", "admin"}),
            ("GET", "/metrics", {"metrics", "admin"}),
            ("GET", "/keys", {"admin"}),
            ("GET", "/audit", {"admin"}),
            ("POST", "/models/rollback", {"admin"}),
            ("GET", "/models", {"admin", "infer", "jobs", "metrics"}),
            ("GET", "/no/such/route", {"admin"}),
        ]
        for method, path, may in routes:
            for scope, key in keys.items():
                answer = await there.http.request(method, path, headers={"x-api-key": key}, json={"model": MODEL})
                assert (answer.status_code == 403) is (scope not in may), (method, path, scope, answer.text)
                if answer.status_code == 403:
                    assert "needs" in answer.text

    tell(tmp_path, story)


def test_a_path_that_climbs_reaches_nothing(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        key = await there.key(scopes=["jobs"])
        port = int(there.url.rpartition(":")[2])
        climbing = ("/jobs/../keys", "/jobs/%2e%2e/keys", "/jobs/%252e%252e/keys", "/jobs/..%2fkeys", "/jobs/./../keys")
        for path in (*climbing, "//keys"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            assert int(answer.split()[1]) in {400, 403, 404}, (path, answer)
            assert b'"keys"' not in answer

    tell(tmp_path, story)


def test_a_client_cannot_say_who_it_is(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        key = await there.key(scopes=["admin"], name="real")
        forged = {"x-switchyard-key": "owner", "x-switchyard-scopes": "admin", **bearer(key)}
        made = await there.http.post("/keys", json={"name": "child"}, headers=forged)
        assert made.json()["created_by"] == key.split("_")[1]
        entry = (await there.http.get("/audit", headers=bearer(key))).json()["entries"][0]
        assert (entry["actor"], entry["target"], entry["status"]) == (key.split("_")[1], "child", 201)
        assert entry["client"] == "127.0.0.1"
        assert made.json()["key"] not in (await there.http.get("/audit", headers=bearer(key))).text
        internal = await there.http.post("/internal/keys/sync", json={"source": "x"}, headers=bearer(key))
        assert internal.status_code == 404

    tell(tmp_path, story)


def test_a_revoked_key_is_refused_at_once_and_with_control_away(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        admin = await there.key(scopes=["admin"])
        key = await there.key()
        assert (await there.chat(key)).status_code == 200
        gone = await there.http.delete(f"/keys/{key.split('_')[1]}", headers=bearer(admin))
        assert gone.json()["status"] == "revoked"
        answer = await there.chat(key)
        assert answer.status_code == 401
        assert "revoked" in answer.json()["error"]["message"]
        assert answer.headers["www-authenticate"] == "Bearer"
        assert (await there.http.delete("/keys/0123456789", headers=bearer(admin))).status_code == 404

    tell(tmp_path, story)


def test_the_last_administrator_cannot_be_locked_out(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        admin = await there.key(scopes=["admin"])
        for listed in (await there.owner.get("/keys")).json()["keys"]:
            if listed["name"] == "first":
                assert (await there.owner.delete(f"/keys/{listed['id']}")).status_code == 200
        refused = await there.http.delete(f"/keys/{admin.split('_')[1]}", headers=bearer(admin))
        assert refused.status_code == 409
        assert (await there.http.get("/keys", headers=bearer(admin))).status_code == 200

    tell(tmp_path, story)


def test_keys_are_known_to_a_gateway_that_starts_without_control(tmp_path: Path) -> None:
    async def run() -> None:
        async with town(tmp_path) as there:
            key = await there.key()
        async with town(tmp_path, with_control=False) as alone:
            assert (await alone.chat()).status_code == 401
            assert (await alone.chat(key)).status_code == 503  # let in; but no model was loaded
            assert (await alone.http.get("/jobs", headers={"x-api-key": key})).status_code == 403
            async with running_control(alone.settings):
                made = await alone.owner.post("/keys", json={"name": "later"})
                assert (await alone.chat(made.json()["key"])).status_code in {200, 503}

    asyncio.run(run())


def test_a_gateway_that_knows_nothing_lets_nobody_in(tmp_path: Path) -> None:
    async def run() -> None:
        async with town(tmp_path, with_control=False) as alone:
            answer = await alone.chat()
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert (await alone.http.get("/livez")).status_code == 200

    asyncio.run(run())


def test_what_a_key_used_is_in_the_database_and_in_the_metrics(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        key = await there.key(name="counted")
        key_id = key.split("_")[1]
        for _ in range(3):
            await there.chat(key)
        await there.chat(key, model="nobody")
        async with asyncio.timeout(30):
            while (shown := (await there.owner.get(f"/keys/{key_id}")).json())["usage"]["requests"] < 3:
                await asyncio.sleep(0.05)
        assert [(day["model"], day["requests"]) for day in shown["usage_by_day"]] == [(MODEL, 3)]
        admin = await there.key(scopes=["metrics"])
        metrics = (await there.http.get("/metrics", headers=bearer(admin))).text
        assert f'switchyard_key_requests_total{{key="{key_id}",model="{MODEL}"}} 3.0' in metrics

    tell(tmp_path, story)


def test_requests_a_minute(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        limited, free = await there.key(requests_per_min=3), await there.key()
        codes = [(await there.chat(limited)).status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        answer = await there.chat(limited)
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert (await there.chat(free)).status_code == 200

    tell(tmp_path, story)


def test_tokens_a_minute(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
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

    tell(tmp_path, story)


def test_requests_at_once(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        key = await there.key(max_concurrent=1)
        there.engine.release.clear()
        first = asyncio.create_task(there.chat(key))
        await there.engine.entered.wait()
        assert (await there.chat(key)).status_code == 429
        there.engine.release.set()
        assert (await first).status_code == 200
        assert (await there.chat(key)).status_code == 200

    tell(tmp_path, story)


def test_a_queue_that_is_full_says_so_and_when_to_come_again(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        there.engine.release.clear()
        running = [asyncio.create_task(there.chat()) for _ in range(3)]
        async with asyncio.timeout(30):
            while (await there.http.get("/status")).json()["engines"][0]["in_flight"] < 3:
                await asyncio.sleep(0.01)
        answer = await there.chat()
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) >= 1
        there.engine.release.set()
        assert [each.status_code for each in await asyncio.gather(*running)] == [200] * 3
        assert (await there.chat()).status_code == 200

    one_at_once = EngineSettings(max_num_seqs=1)
    tell(tmp_path, story, limits=LimitSettings(max_queued_requests=2), engine=one_at_once)


async def _read_stream(there: Town, seen: list[bytes]) -> None:
    async with there.http.stream("POST", "/v1/chat/completions", json={"model": MODEL}) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            seen.append(chunk)  # noqa: PERF401 - what came before the end is wanted


def test_time_outs(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
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

    tell(tmp_path, story, limits=LimitSettings(request_timeout_s=0.2, stream_timeout_s=0.4))


def test_a_body_that_never_arrives(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        port = int(there.url.rpartition(":")[2])
        for path in ("/v1/chat/completions", "/jobs/x/cancel"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{{".encode())
            head = await asyncio.wait_for(reader.readline(), 30)
            assert b" 408 " in head, (path, head)
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        writer.write(head)
        assert b" 413 " in await asyncio.wait_for(reader.readline(), 30)
        writer.close()

    tell(tmp_path, story, limits=LimitSettings(body_timeout_s=0.2))


def test_connections_that_say_nothing_disturb_nobody(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        port = int(there.url.rpartition(":")[2])
        silent = []
        for _ in range(2000):
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
            silent.append(each)
        try:
            began = time.monotonic()
            async with httpx.AsyncClient(base_url=there.url) as stranger:  # a connection of its own
                assert (await stranger.post("/v1/chat/completions", json={"model": MODEL})).status_code == 200
            assert (await there.chat()).status_code == 200
            assert time.monotonic() - began < 10
            async with asyncio.timeout(20):  # all but the newest are closed by the server
                while sum(_is_closed(each) for each in silent) < 1936:
                    await asyncio.sleep(0.05)
        finally:
            for each in silent:
                each.close()

    tell(tmp_path, story, limits=LimitSettings(max_silent_connections=64))


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_head_that_never_ends(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        port = int(there.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
        assert b" 431 " in await asyncio.wait_for(reader.readline(), 30)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nX:")
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()

    tell(tmp_path, story, limits=LimitSettings(head_timeout_s=0.3))


def test_a_flood_of_wrong_keys_hurts_nobody_else(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        key = await there.key()
        wrong = [asyncio.create_task(there.chat(key[:-3] + f"{number:03d}")) for number in range(150)]
        right = [asyncio.create_task(there.chat(key)) for _ in range(20)]
        assert {each.status_code for each in await asyncio.gather(*wrong)} == {401}
        assert {each.status_code for each in await asyncio.gather(*right)} == {200}

    tell(tmp_path, story)


def test_malformed_credentials(tmp_path: Path) -> None:
    wrong = [
        (b"authorization", b"Bearer"),
        (b"authorization", b"Bearer \xff\xfe"),
        (b"authorization", b"Basic eDp5"),
        (b"x-api-key", b""),
        (b"x-api-key", b"x" * 10_000),
    ]

    async def story(there: Town) -> None:
        await there.key()
        for header in wrong:
            answer = await there.http.post("/v1/chat/completions", json={"model": MODEL}, headers=[header])
            assert answer.status_code == 401, header

    tell(tmp_path, story)


def test_refusals_are_in_each_clients_words(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        await there.key()
        assert (await there.http.post("/v1/messages", json={})).json()["error"]["type"] == "authentication_error"
        assert isinstance((await there.http.post("/api/chat", json={})).json()["error"], str)
        assert "detail" in (await there.http.get("/jobs")).json()

    tell(tmp_path, story)


def test_pages_of_other_sites_may_not_use_an_open_server(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        evil = {"origin": "https://evil.example", "content-type": "text/plain"}
        refused = await there.http.post("/models/rollback", headers=evil)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
        assert (await there.http.get("/models", headers={"host": "evil.example"})).status_code == 403
        own = {"origin": there.url, "host": there.url.removeprefix("http://")}
        assert (await there.http.get("/models", headers=own)).status_code == 200
        assert (await there.http.get("/models", headers={"host": "localhost:1"})).status_code == 200

    tell(tmp_path, story)


def test_origins_that_are_set_may(tmp_path: Path) -> None:
    async def story(there: Town) -> None:
        mine, other = "https://ui.example.org", "https://evil.example"
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        allowed = await there.http.options("/v1/chat/completions", headers={"origin": mine, **asked})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == mine
        assert (await there.http.options("/v1/chat/completions", headers={"origin": other, **asked})).status_code == 400
        answer = await there.http.get("/models", headers={"origin": mine})
        assert answer.headers["access-control-allow-origin"] == mine

    tell(tmp_path, story, access=AccessSettings(cors_origins=["https://ui.example.org"]))
