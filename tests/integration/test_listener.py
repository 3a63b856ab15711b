"""Where the public port listens: before the first key and after it, and with a certificate."""

import asyncio
import socket
import ssl
from pathlib import Path

import httpx
import psutil
import pytest
import trustme
import uvicorn

from gateway.http.asgi import Message, Receive, Scope, Send
from gateway.http.early_port import EarlyPort
from gateway.http.listener import PublicListener
from stepserve.access_settings import TlsSettings
from tests.eventually import eventually
from tests.integration.control_plane import settings_of
from tests.integration.full_stack import listening


async def well(scope: Scope, receive: Receive, send: Send) -> None:
    head: Message = {"type": "http.response.start", "status": 200, "headers": []}
    await send(head)
    await send({"type": "http.response.body", "body": b"well"})


class Quiet(uvicorn.Server):
    def install_signal_handlers(self) -> None: ...


@pytest.fixture
def other_address() -> str:
    """An address of this machine that is not loopback."""
    found = [
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET and not each.address.startswith("127.")
    ]
    if not found:
        pytest.skip("this machine has no address but loopback")
    return found[0]


async def test_without_keys_loopback_alone_and_everything_once_there_is_one(other_address: str) -> None:
    async def answers(host: str, port: int) -> bool:
        async with httpx.AsyncClient(trust_env=False, timeout=240) as client:
            try:
                return (await client.get(f"http://{host}:{port}/")).status_code == 200
            except httpx.ConnectError:
                return False

    async def until(host: str, port: int) -> None:
        await eventually(lambda: answers(host, port))

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = asyncio.Event()

    def server(host: str) -> uvicorn.Server:
        config = uvicorn.Config(well, host=host, port=port, lifespan="off", ws="none", log_config=None)
        return Quiet(config)

    async def reachable() -> None:
        await made.wait()

    listener = PublicListener(server, "0.0.0.0", reachable_now=False, reachable=reachable)
    task = asyncio.create_task(listener.serve())
    await until("127.0.0.1", port)
    assert not await answers(other_address, port)
    async with httpx.AsyncClient(trust_env=False, timeout=240) as kept:  # a connection from before stays
        await kept.get(f"http://127.0.0.1:{port}/")
        made.set()
        await until(other_address, port)
        assert (await kept.get(f"http://127.0.0.1:{port}/")).status_code == 200
    assert await answers("127.0.0.1", port)
    listener.stop()
    await asyncio.wait_for(task, 240)


async def test_https_with_the_settings_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    tls = TlsSettings(cert_file=certificate, key_file=key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    files = {"ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file}
    async with (
        listening(well, settings_of(tmp_path), **files) as port,
        httpx.AsyncClient(verify=context, trust_env=False, timeout=240) as client,
    ):
        assert (await client.get(f"https://127.0.0.1:{port}/")).text == "well"


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nonsense")
    with pytest.raises(ValueError, match="not a certificate and its key"):
        TlsSettings(cert_file=tmp_path / "x.pem", key_file=tmp_path / "x.pem")
    with pytest.raises(ValueError, match="belong together"):
        TlsSettings(cert_file=tmp_path / "x.pem")


async def test_who_connects_before_the_server_runs_is_answered_by_it() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    early = EarlyPort.of("0.0.0.0", port, reachable=False)

    def server(host: str) -> uvicorn.Server:
        return Quiet(uvicorn.Config(well, host=host, port=port, lifespan="off", ws="none", log_config=None))

    made = asyncio.Event()

    async def reachable() -> None:
        await made.wait()

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: early\r\nconnection: close\r\n\r\n")
    await writer.drain()
    listener = PublicListener(server, "0.0.0.0", reachable_now=False, reachable=reachable, early=early)
    task = asyncio.create_task(listener.serve())
    async with asyncio.timeout(240):
        assert b"well" in await reader.read()
    writer.close()
    made.set()  # the address itself takes the place of loopback, on the same port
    async with asyncio.timeout(240):
        await listener.opened(240)
    async with httpx.AsyncClient(trust_env=False, timeout=240) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 200
    listener.stop()
    await task


def test_a_port_that_is_taken_is_an_error_that_leaves_nothing_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        before = psutil.Process().num_fds()
        with pytest.raises(OSError, match="in use"):
            EarlyPort.of("localhost", taken.getsockname()[1], reachable=True)
        assert psutil.Process().num_fds() == before
