"""kill -9 of a real control process at many moments of a switch: afterwards database and gateway tell one story."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.killable_control import KillableControl

# After control's request came in, and after the gateway's answer went out: hashing, the row, the wire, the commit.
MOMENTS_MS = [0, 1, 2, 4, 8, 16, 32]


async def prepared(base: Path, gateway: FakeGateway) -> None:
    """a is active, b is registered."""
    async with control(base, gateway) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
    gateway.switch_asked.clear()


async def story(here: ControlPlane, gateway: FakeGateway) -> tuple[str, list[str]]:
    """The active model and the activations' statuses, newest first, once control and the gateway agree."""

    async def look() -> tuple[str, str | None, list[str]]:
        rows = (await here.get("/models/activations"))["activations"]
        active = (await here.get("/models/active"))["id"]
        return active, gateway.active.id if gateway.active else None, [row["status"] for row in rows]

    active, _, statuses = await eventually(look, lambda seen: seen[0] == seen[1] and "running" not in seen[2])
    return active, statuses


def crash(base: Path, killing: Callable[[KillableControl, FakeGateway], Awaitable[None]]) -> tuple[str, list[str]]:
    """What is left after control was killed as told and has started again."""

    async def run() -> tuple[str, list[str]]:
        gateway = FakeGateway(settings_of(base).layout.gateway_socket)
        async with gateway.running():
            await prepared(base, gateway)
            doomed = KillableControl(base)
            await doomed.start()
            try:
                await killing(doomed, gateway)
            finally:
                doomed.kill()
                await doomed.gone()
            gateway.may_switch.set()
            async with control(base, gateway) as here:
                found = await story(here, gateway)
                assert (await here.post("/models/set_active", id="a"))["status"] == "activated"
                return found

    return asyncio.run(run())


def test_killed_before_the_gateway_answers_and_the_switch_succeeds(tmp_path: Path) -> None:
    async def killing(doomed: KillableControl, gateway: FakeGateway) -> None:
        gateway.may_switch.clear()
        client = asyncio.create_task(doomed.set_active("b"))
        await gateway.switch_asked.wait()
        doomed.kill()
        await client

    assert crash(tmp_path, killing) == ("b", ["done", "done"])


def test_killed_before_the_gateway_answers_and_the_candidate_fails(tmp_path: Path) -> None:
    async def killing(doomed: KillableControl, gateway: FakeGateway) -> None:
        gateway.may_switch.clear()
        client = asyncio.create_task(doomed.set_active("b"))
        await gateway.switch_asked.wait()
        gateway.fail_with = "out of memory"
        doomed.kill()
        await client
        gateway.may_switch.set()
        await eventually(lambda: asyncio.sleep(0, gateway.switching_to), lambda target: target is None)
        gateway.fail_with = None

    assert crash(tmp_path, killing) == ("a", ["failed", "done"])


def test_killed_in_the_moment_of_the_answer(tmp_path: Path) -> None:
    """The row is never committed: the process is dead before the answer's first byte is sent."""

    async def killing(doomed: KillableControl, gateway: FakeGateway) -> None:
        gateway.on_answer = doomed.kill
        await doomed.set_active("b")
        await doomed.gone()

    assert crash(tmp_path, killing) == ("b", ["done", "done"])


@pytest.mark.parametrize("delay_ms", MOMENTS_MS)
def test_killed_after_the_answer(tmp_path: Path, delay_ms: int) -> None:
    async def killing(doomed: KillableControl, gateway: FakeGateway) -> None:
        loop = asyncio.get_running_loop()

        def kill_soon() -> None:
            loop.call_later(delay_ms / 1000, doomed.kill)

        gateway.on_answer = kill_soon
        await doomed.set_active("b")
        await doomed.gone()

    assert crash(tmp_path, killing) == ("b", ["done", "done"])


@pytest.mark.parametrize("delay_ms", MOMENTS_MS)
def test_killed_after_the_request(tmp_path: Path, delay_ms: int) -> None:
    """Anywhere from before the row to after the commit: either model may be active, but both sides say the same."""

    async def killing(doomed: KillableControl, gateway: FakeGateway) -> None:
        asyncio.get_running_loop().call_later(delay_ms / 1000, doomed.kill)
        await doomed.set_active("b")
        await doomed.gone()

    active, statuses = crash(tmp_path, killing)
    assert (active, statuses) in [("a", ["done"]), ("a", ["failed", "done"]), ("b", ["done", "done"])]


async def test_killed_together_with_the_gateway(tmp_path: Path) -> None:
    """As when the machine goes down: nobody knows how far the new model came, so the old one is back."""
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    doomed = KillableControl(tmp_path)
    async with gateway.running():
        await prepared(tmp_path, gateway)
        await doomed.start()
        gateway.may_switch.clear()
        client = asyncio.create_task(doomed.set_active("b"))
        await gateway.switch_asked.wait()
        doomed.kill()
        await client
        await doomed.gone()
    gateway = FakeGateway(gateway.socket_path)
    async with gateway.running(), control(tmp_path, gateway) as here:
        assert await story(here, gateway) == ("a", ["failed", "done"])
