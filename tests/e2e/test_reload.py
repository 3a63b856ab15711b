"""Settings that are read again by `stepserve up` on SIGHUP, while it answers."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepserve.setting_sources import CONFIG_NAME
from tests.e2e.server import Server
from tests.eventually import wait_until

_LIMIT_S = 240.0


@pytest.fixture
def config_file(server: Server) -> Iterator[Path]:
    path = server.base_dir / CONFIG_NAME
    path.parent.mkdir(exist_ok=True)
    yield path
    path.unlink(missing_ok=True)
    server.process.send_signal(signal.SIGHUP)
    wait_until("the settings are those of the start", lambda: "hup" not in _aliases(server), _LIMIT_S)


def _aliases(server: Server) -> list[str]:
    return [each["name"] for each in server.http.get("/aliases").json()["aliases"]]


def _processes(server: Server) -> list[int]:
    return [server.named(f"stepserve: {name}").pid for name in ("gateway", "control")]


def test_sighup_to_the_supervisor_changes_what_can_change_and_drops_nothing(server: Server, config_file: Path) -> None:
    processes = _processes(server)
    assert server.ask("What is 17+25?", "hup").status_code == 404
    asked = {"model": "active", "prompt": "1, 2,", "max_tokens": 40, "ignore_eos": True, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=asked) as answer:
        events = answer.iter_lines()
        next(events)
        config_file.write_text('[aliases]\nhup = "active"\n')
        server.process.send_signal(signal.SIGHUP)
        wait_until("it knows the alias", lambda: "hup" in _aliases(server), _LIMIT_S)
        assert [line for line in events if line][-1] == "data: [DONE]"
    assert server.ask("What is 17+25?", "hup").status_code == 200
    config_file.write_text("[aliases\n")
    server.process.send_signal(signal.SIGHUP)
    log = server.base_dir / "logs" / "api_server.log"
    wait_until("a broken file is told", lambda: "the settings stay as they were" in log.read_text(), _LIMIT_S)
    assert "hup" in _aliases(server)
    assert _processes(server) == processes
