"""Requests that no client of good will sends: unfinished, silent, malformed, or from pages of other sites."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Literal

import httpx
import pytest

from stepserve.access_settings import AccessSettings, LimitSettings
from tests.eventually import eventually
from tests.integration.full_stack import MODEL, FullStack, run_story


def test_a_body_that_never_arrives(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        port = int(there.url.rpartition(":")[2])
        for path in ("/v1/chat/completions", "/jobs/x/cancel"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{{".encode())
            head = await asyncio.wait_for(reader.readline(), 240)
            assert b" 408 " in head, (path, head)
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        writer.write(head)
        assert b" 413 " in await asyncio.wait_for(reader.readline(), 240)
        writer.close()

    run_story(tmp_path, story, limits=LimitSettings(body_timeout_s=0.2))


def test_connections_that_say_nothing_disturb_nobody(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        port = int(there.url.rpartition(":")[2])
        silent = []
        for _ in range(2000):
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
            silent.append(each)
        try:
            began = time.monotonic()
            async with httpx.AsyncClient(base_url=there.url, timeout=240) as stranger:  # a connection of its own
                assert (await stranger.post("/v1/chat/completions", json={"model": MODEL})).status_code == 200
            assert (await there.chat()).status_code == 200
            assert time.monotonic() - began < 60

            async def closed() -> int:
                return sum(_is_closed(each) for each in silent)

            await eventually(closed, lambda number: number >= 1936)  # all but the newest, by the server
        finally:
            for each in silent:
                each.close()

    run_story(tmp_path, story, limits=LimitSettings(max_silent_connections=64))


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_head_that_never_ends(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        port = int(there.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
        assert b" 431 " in await asyncio.wait_for(reader.readline(), 240)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nX:")
        assert await asyncio.wait_for(reader.read(), 240) == b""
        writer.close()

    run_story(tmp_path, story, limits=LimitSettings(head_timeout_s=0.3))


def test_malformed_credentials(tmp_path: Path) -> None:
    wrong = [
        (b"authorization", b"Bearer"),
        (b"authorization", b"Bearer \xff\xfe"),
        (b"authorization", b"Basic eDp5"),
        (b"x-api-key", b""),
        (b"x-api-key", b"x" * 10_000),
    ]

    async def story(there: FullStack) -> None:
        await there.key()
        for header in wrong:
            answer = await there.http.post("/v1/chat/completions", json={"model": MODEL}, headers=[header])
            assert answer.status_code == 401, header

    run_story(tmp_path, story)


def test_pages_of_other_sites_may_not_use_an_open_server(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        evil = {"origin": "https://evil.example", "content-type": "text/plain"}
        refused = await there.http.post("/models/rollback", headers=evil)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
        assert (await there.http.get("/models", headers={"host": "evil.example"})).status_code == 403
        own = {"origin": there.url, "host": there.url.removeprefix("http://")}
        assert (await there.http.get("/models", headers=own)).status_code == 200
        for name in (
            "localhost:1",
            "LOCALHOST.",
            "127.0.0.1:1",
            "[::1]:1",
            "192.0.2.7",
            socket.gethostname(),
            "a.localhost",
        ):
            assert (await there.http.get("/models", headers={"host": name})).status_code == 200, name
        rebound = (
            "evil.example",
            "printer.local",
            "box.internal",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[",
            "@",
        )
        for name in rebound:
            assert (await there.http.get("/models", headers={"host": name})).status_code == 403, name

    run_story(tmp_path, story)


@pytest.mark.parametrize("mode", ["auto", "open"])
def test_names_that_are_listed_may_and_others_may_not(tmp_path: Path, mode: Literal["auto", "open"]) -> None:
    async def story(there: FullStack) -> None:
        assert (await there.http.get("/models", headers={"host": "LLM.example.org:80"})).status_code == 200
        refused = await there.http.get("/models", headers={"host": "evil.example"})
        assert refused.status_code == 403
        assert "access.host_names" in refused.json()["detail"]

    run_story(tmp_path, story, access=AccessSettings(mode=mode, host_names=["llm.Example.org"]))


async def client_of_last_action(there: FullStack, *forwarded: tuple[str, str]) -> str:
    await there.http.post("/models/rollback", headers=[*forwarded])
    entry = (await there.owner.get("/audit", params={"limit": 1})).json()["entries"][0]
    assert entry["path"] == "/models/rollback"
    return str(entry["client"])


def test_nobody_says_himself_where_he_comes_from(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        forged = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-real-ip", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9"),
            ("x-stepserve-client", "203.0.113.9"),
        ]
        assert await client_of_last_action(there, *forged) == "127.0.0.1"

    run_story(tmp_path, story)


def test_a_proxy_of_the_settings_says_where_a_request_comes_from(tmp_path: Path) -> None:
    stories = [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the first was written by the client
        ("198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),  # 10.1.2.3 is a proxy too
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, nonsense", "127.0.0.1"),
        ("10.9.9.9", "10.9.9.9"),
        ("", "127.0.0.1"),
    ]

    async def story(there: FullStack) -> None:
        for given, seen in stories:
            assert await client_of_last_action(there, ("x-forwarded-for", given)) == seen, given
        two = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.9")]
        assert await client_of_last_action(there, *two) == "203.0.113.9"
        assert await client_of_last_action(there, ("x-real-ip", "203.0.113.9")) == "127.0.0.1"

    run_story(tmp_path, story, access=AccessSettings(trusted_proxies=["127.0.0.1", "10.0.0.0/8"]))


def test_origins_that_are_set_may(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        mine, other = "https://ui.example.org", "https://evil.example"
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        allowed = await there.http.options("/v1/chat/completions", headers={"origin": mine, **asked})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == mine
        assert (await there.http.options("/v1/chat/completions", headers={"origin": other, **asked})).status_code == 400
        answer = await there.http.get("/models", headers={"origin": mine})
        assert answer.headers["access-control-allow-origin"] == mine

    run_story(tmp_path, story, access=AccessSettings(cors_origins=["https://ui.example.org"]))
