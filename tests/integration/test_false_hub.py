"""A hub that lies, redirects and dawdles, and the real program that speaks with it."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from control.errors import BadJob, HubUnavailable
from control.pull.hub import Hub
from control.pull.orders import Listing
from control.pull.selection import RemoteFile
from tests.integration.raw_server import Speak, reply, speaking

COMMIT = "c" * 40
CONFIG = b'{"architectures": ["LlamaForCausalLM"]}'
HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
TOKEN = "hf_for_the_hub_alone"
FILE = RemoteFile(name="model.safetensors", size_bytes=100_000_000)


def listing(**changes: Any) -> bytes:
    return reply(json.dumps({"id": "acme/x", "sha": COMMIT, "siblings": [], **changes}).encode())


def answering(of_api: bytes, of_files: bytes = b"") -> Speak:
    async def speak(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(of_api if "/api/" in head.splitlines()[0] else of_files)
        await writer.drain()

    return speak


@pytest.fixture(autouse=True)
def _hub_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def against(
    speak: Speak, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Hub], Awaitable[Any]], hosts: tuple[str, ...] = ()
) -> Any:
    async def run() -> Any:
        async with speaking(speak) as url:
            monkeypatch.setenv("HF_ENDPOINT", url)
            return await ask(Hub(SecretStr(TOKEN), timeout_s=2, hosts=hosts))

    return asyncio.run(run())


async def listed(hub: Hub) -> Listing:
    return await hub.listing("acme/x", "main")


def fetching(folder: Path) -> Callable[[Hub], Awaitable[None]]:
    async def progress(_: int) -> None:
        pass

    return lambda hub: hub.fetch("acme/x", COMMIT, folder, [FILE], progress)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (listing(sha="/../../../xx"), "makes no sense"),
        (listing(sha="c/../../../../etc/x"), "makes no sense"),
        (listing(siblings=[{"rfilename": "model.safetensors", "size": -5}]), "makes no sense"),
        (reply(b"[" * 200_000), "makes no sense"),
        (reply(b"<html>log in</html>"), "makes no sense"),
        (reply(gzip.compress(b" " * 2**20) * 200, content_encoding="gzip"), "it is compressed"),
        (HEAD + b"\r\n" + b" " * (65 * 2**20), "it is longer than 67108864 bytes"),
    ],
)
def test_a_listing_that_lies_is_refused(answer: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadJob, match=said):
        against(answering(answer), monkeypatch, listed)


def test_a_configuration_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = {"rfilename": "config.json", "size": len(CONFIG), "blobId": "0" * 40}
    endless = HEAD + b"\r\n" + b" " * 12_000_000
    with pytest.raises(BadJob, match="has more than 10000000 bytes"):
        against(answering(listing(siblings=[sibling]), endless), monkeypatch, listed)


def test_the_hub_does_not_send_us_to_other_hosts_of_the_own_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither listings nor files; the inner server is not even asked."""
    asked: list[str] = []

    async def inner(head: str, writer: asyncio.StreamWriter) -> None:
        asked.append(head)
        writer.write(reply(b"{}"))

    async def run() -> None:
        async with speaking(inner) as url:
            moved = reply(b"", "302 Found", location=url.replace("127.0.0.1", "localhost") + "/metadata")
            async with speaking(answering(moved, moved)) as hub_url:
                monkeypatch.setenv("HF_ENDPOINT", hub_url)
                hub = Hub(SecretStr(TOKEN), timeout_s=2)
                for ask in (listed, fetching(tmp_path / "place" / "files")):
                    with pytest.raises(BadJob, match=r"localhost resolves to .* not public.*INFERENCE_HUB_HOSTS"):
                        await ask(hub)
                assert asked == []
                # Named by settings it is gone to, without the token.
                with pytest.raises((BadJob, HubUnavailable)):
                    await listed(Hub(SecretStr(TOKEN), timeout_s=2, hosts=["localhost"]))
                assert len(asked) == 1
                assert TOKEN not in asked[0]

    asyncio.run(run())


async def test_the_token_goes_to_the_hubs_own_port_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def other(head: str, writer: asyncio.StreamWriter) -> None:
        asked.append(head)
        writer.write(listing())

    async with speaking(other) as url:

        async def hub(head: str, writer: asyncio.StreamWriter) -> None:
            asked.append(head)
            writer.write(reply(b"", "307 Temporary Redirect", location=f"{url}/api/models/acme/x/revision/main"))

        async with speaking(hub) as hub_url:
            monkeypatch.setenv("HF_ENDPOINT", hub_url)
            await listed(Hub(SecretStr(TOKEN), timeout_s=2))
    assert [TOKEN in head for head in asked] == [True, False]


def test_a_hub_that_sends_a_byte_now_and_then_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No single read takes long, and a pull's place is one of few."""

    async def drip(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"content-length: 100000000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    with pytest.raises(HubUnavailable, match="sends less than 1024 bytes/s"):
        against(drip, monkeypatch, fetching(tmp_path / "place" / "files"))


def test_a_hub_that_says_wait_a_year_is_asked_again_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = asyncio.Event()
    asked = 0

    async def busy(_: str, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            again.set()
        writer.write(reply(b"", "429 Too Many Requests", retry_after="31536000"))

    async def ask(hub: Hub) -> None:
        fetch = asyncio.ensure_future(fetching(tmp_path / "place" / "files")(hub))
        async with asyncio.timeout(240):
            await again.wait()
        fetch.cancel()
        await asyncio.gather(fetch, return_exceptions=True)

    against(busy, monkeypatch, ask)
