"""The process that serves the pages: started after the server, started again when it dies, ended with the rest."""

import asyncio
import socket
from pathlib import Path

import httpx
import psutil
import pytest

from stepserve import web_ui
from stepserve.child import EXIT_REFUSED
from stepserve.settings import Settings
from stepserve.supervisor import announce
from tests.eventually import eventually
from tests.ui.ui_server import UiServer
from ui.__main__ import main


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


async def _is_up(port: int) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=240) as http:
        try:
            return (await http.get(f"http://127.0.0.1:{port}/_stcore/health")).status_code == 200
        except httpx.TransportError:
            return False


async def _until_up(port: int) -> None:
    await eventually(lambda: _is_up(port))


def _ui_of_this_process() -> psutil.Process:
    children = psutil.Process().children(recursive=True)
    return next(child for child in children if " ".join(child.cmdline()).startswith("stepserve: ui"))


async def test_it_is_announced_started_again_and_ended(
    empty_server: UiServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(base_dir=tmp_path, port=httpx.URL(empty_server.url).port or 0, ui_port=_free_port())

    ui = web_ui.child_of(settings)
    assert ui is not None
    running = asyncio.create_task(announce(settings, ui))
    await _until_up(settings.ui_port)
    first = _ui_of_this_process()
    first.kill()
    await _until_up(settings.ui_port)
    assert _ui_of_this_process().pid != first.pid
    await ui.stop(20)
    await running
    assert not await _is_up(settings.ui_port)
    told = capfd.readouterr().out
    assert f"Web UI                http://127.0.0.1:{settings.ui_port}" in told


async def test_nothing_is_started_before_the_server_is_ready(tmp_path: Path) -> None:
    settings = Settings(base_dir=tmp_path, port=_free_port(), ui_port=_free_port())
    before = psutil.Process().children()

    ui = web_ui.child_of(settings)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await announce(settings, ui)
    assert psutil.Process().children() == before


def test_a_port_that_is_taken_is_refused_in_words_and_for_good(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
        main(["--port", str(taken.getsockname()[1])])
    assert ended.value.code == EXIT_REFUSED
    assert "INFERENCE_UI_PORT" in capfd.readouterr().err
