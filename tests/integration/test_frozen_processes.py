"""Processes that live and do nothing: the supervisor ends them and starts them again, and says why."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from stepserve.child import Child
from stepserve.heartbeat import Pulse
from stepserve.unix_http import unix_transport
from tests.eventually import eventually
from tests.integration.control_plane import settings_of
from tests.integration.full_stack import full_stack
from tests.integration.programs import environment_of

HANG_S = 3.0

# A process whose first life ends in a loop of its own, in the event loop; its second one goes on.
FREEZES = """
import asyncio, pathlib, sys, time
from stepserve.heartbeat import beat

def a_long_sum():
    while True:
        pass

async def main():
    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    life = pathlib.Path(sys.argv[1])
    with life.open("a") as file:
        file.write("begun\\n")
    if len(life.read_text().splitlines()) == 1:
        a_long_sum()
    await beating

asyncio.run(main())
"""

# Nothing of its beats comes until a start that is longer than the limit is over, and then all is well.
SLOW_START = """
import asyncio, pathlib, sys, time
from stepserve.heartbeat import beat
time.sleep(float(sys.argv[2]))

async def main():
    beating = asyncio.create_task(beat())
    await asyncio.sleep(float(sys.argv[2]))
    pathlib.Path(sys.argv[1]).touch()
    await beating

asyncio.run(main())
"""


@asynccontextmanager
async def living(child: Child) -> AsyncIterator[None]:
    running = asyncio.create_task(child.run())
    try:
        yield
    finally:
        await child.stop(5)
        await running


def program(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


async def lives(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


async def test_an_event_loop_that_stands_still_is_ended_and_says_where(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    child = Child("busy", program(FREEZES, tmp_path / "lives"), hang_timeout_s=HANG_S)
    async with living(child):
        await eventually(lambda: lives(tmp_path / "lives"), lambda begun: begun == 2)
    assert "the event loop of busy" in caplog.text
    said = capfd.readouterr().err
    assert "busy stood still for 3 s (setting hang_timeout_s) and was ended; starting it again" in said
    assert "a_long_sum" in said, "the stack of what held it up"


async def test_a_long_start_is_no_standstill(tmp_path: Path) -> None:
    async def there() -> bool:
        return (tmp_path / "well").exists()

    child = Child("slow", program(SLOW_START, tmp_path / "well", 1.5 * HANG_S), hang_timeout_s=HANG_S)
    async with living(child):
        await eventually(there, bool)
    assert child.starts == 1


def test_a_supervisor_that_was_stopped_accuses_nobody(tmp_path: Path) -> None:
    """As after a suspended machine or Ctrl-Z: time in which it did not run itself says nothing of others."""
    script = f"""
import asyncio, sys
from stepserve.child import Child
child = Child("well", {program(SLOW_START, tmp_path / "well", 0.1)!r}, hang_timeout_s={HANG_S})
async def main():
    running = asyncio.create_task(child.run())
    await asyncio.to_thread(sys.stdin.readline)
    await child.stop(5)
    await running
    print(child.starts)
asyncio.run(main())
"""

    async def there() -> bool:
        return (tmp_path / "well").exists()

    async def story() -> str:
        supervisor = await asyncio.create_subprocess_exec(
            *program(script), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        await eventually(there, bool)
        (child,) = psutil.Process(supervisor.pid).children()
        supervisor.send_signal(signal.SIGSTOP)
        child.suspend()  # and it is as long without a beat as its supervisor without a look
        await asyncio.sleep(2 * HANG_S)
        child.resume()
        supervisor.send_signal(signal.SIGCONT)
        out, _ = await supervisor.communicate(b"\n")
        return out.decode().strip()

    assert asyncio.run(story()) == "1"


def test_a_gateway_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(pulse: Pulse) -> None:
        async def came() -> bool:
            return pulse._came()

        async with full_stack(tmp_path, with_control=False):
            await eventually(came, bool)
            await eventually(came, bool)

    with Pulse() as pulse:
        for name, value in pulse.variable.items():
            monkeypatch.setenv(name, value)
        asyncio.run(run(pulse))


async def test_a_control_that_is_stopped_is_started_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """SIGSTOP: it takes connections and answers nothing."""
    layout = settings_of(tmp_path).layout
    layout.create()

    async def pid(http: httpx.AsyncClient) -> int | None:
        try:
            answer = await http.get("/health", timeout=1)
        except httpx.HTTPError:
            return None
        mine = psutil.Process().children()
        found = [each.pid for each in mine if " ".join(each.cmdline()).startswith("stepserve: control")]
        return found[0] if answer.status_code == 200 and found else None

    environment = environment_of(tmp_path, {"install_demo": False})
    child = Child("control", [sys.executable, "-m", "control"], environment, hang_timeout_s=HANG_S)
    transport = unix_transport(layout.control_socket)
    async with (
        living(child),
        httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240) as http,
    ):
        first = await eventually(lambda: pid(http), bool)
        os.kill(first, signal.SIGSTOP)
        second = await eventually(lambda: pid(http), lambda now: now not in {None, first})
        assert not psutil.pid_exists(first)
        assert second is not None
        assert (await http.get("/jobs/stats")).status_code == 200
    assert "control stood still for 3 s" in capfd.readouterr().err
