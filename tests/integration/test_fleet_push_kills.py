"""Control killed at any step of a push to a fleet: all serve the version in the end, or all what was before it."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from stepserve.contract import WeightsVersion
from stepserve.fleet import CONTROL_PUSHES_PATH, FLEET_FILES_PATH, KEPT_VERSION_FILE, KeptVersion
from stepserve.fleet_settings import FleetSettings
from tests.integration.control_plane import ControlPlane, control, run_sql, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.fake_member import FakeMember
from tests.integration.test_fleet import fleet, moments, settled, states
from tests.unit.control.checkpoint_files import write_checkpoint

LONG_S = 30.0  # a lease that does not end while the machine is busy
READY = {"local": "ready", "m1": "ready", "m2": "ready"}
NEWEST = "WHERE id = (SELECT max(id) FROM {})"


async def kept(here: ControlPlane, number: int) -> KeptVersion:
    """A version of the active model, as the gateway leaves it on disk."""
    active = await here.get("/models/active")
    folder = write_checkpoint(here.layout.pushed_version("a", number), seed=10 + number)
    version = KeptVersion(
        model="a",
        files_digest=active["digest"],
        digest=f"sha256:pushed-{number}",
        version=WeightsVersion(number=number, label=f"step-{number}"),
        folder=str(folder),
    )
    (folder / KEPT_VERSION_FILE).write_text(version.model_dump_json())
    return version


async def push(here: ControlPlane, number: int) -> httpx.Response:
    version = await kept(here, number)
    return await here.http.post(CONTROL_PUSHES_PATH, content=version.model_dump_json())


def served(*gateways: FakeGateway) -> set[tuple[str, int]]:
    return {(each.pushed_digest, each.pushed) for each in gateways}


async def test_control_killed_at_any_step_of_a_push(tmp_path: Path) -> None:
    settings = FleetSettings(lease_s=LONG_S)
    async with AsyncExitStack() as stack:
        local = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
        await stack.enter_async_context(local.running())
        m1, m2 = FakeMember("m1"), FakeMember("m2")
        all_three = (local, m1, m2)
        steps = moments(*all_three)
        del steps["all are brought back"]  # its wait is for a switch
        killed = ""
        for number, (when, moment) in enumerate([*steps.items(), ("the end", None)], 2):
            async with control(tmp_path, local, fleet=settings) as here:
                if not killed:
                    await here.add_active("a", seed=0)
                    for member in (m1, m2):
                        await stack.enter_async_context(member.joined(here.http))
                    await states(here, READY)
                    assert (await push(here, 1)).json()["status"] == "activated"
                else:
                    m1.http = m2.http = here.http
                    assert (await settled(here))["rollout"]["state"] == "rolled_back", killed
                shown = await states(here, READY)
                assert shown["committed"]["version"] == 1, killed
                assert served(*all_three) == {("sha256:pushed-1", 1)}, killed
                if moment is None:
                    assert (await push(here, number)).json()["status"] == "activated"
                    continue
                moment.block()
                pushing = asyncio.create_task(push(here, number))
                await moment.reached()
            await asyncio.wait({pushing})
            moment.release()
            killed = when

        # As if control had died after the last proof and before the one row that counts.
        await run_sql(tmp_path, f"UPDATE activations SET status = 'running' {NEWEST.format('activations')}")
        await run_sql(tmp_path, f"UPDATE rollouts SET state = 'committing' {NEWEST.format('rollouts')}")
        await run_sql(tmp_path, "UPDATE active_model SET version = 1, version_digest = 'sha256:pushed-1'")
        async with control(tmp_path, local, fleet=settings) as here:
            m1.http = m2.http = here.http
            assert (await settled(here))["rollout"]["state"] == "committed"
            shown = await states(here, READY)
            assert shown["committed"] == {"model": "a", "digest": f"sha256:pushed-{number}", "version": number}
            assert served(*all_three) == {(f"sha256:pushed-{number}", number)}


async def test_a_head_that_is_not_brought_back_at_once_is_brought_back_later(tmp_path: Path) -> None:
    """The files, though it has weights in memory that nobody committed."""
    async with fleet(tmp_path, ["m1"]) as (here, members):
        members["m1"].fail_with = "no memory"
        members["m1"].on_answer = lambda: setattr(here.gateway, "refuse_switches_with", (503, "busy", "not now"))
        answer = await push(here, 1)
        assert answer.json()["status"] == "failed"
        assert "not back yet: " in answer.json()["error"]
        assert here.gateway.pushed == 1
        members["m1"].fail_with, members["m1"].on_answer = None, lambda: None
        here.gateway.refuse_switches_with = None
        await states(here, {"local": "ready", "m1": "ready"})
        assert served(here.gateway, members["m1"]) == {("", 0)}


async def test_a_member_gets_the_version_s_files_from_control(tmp_path: Path) -> None:
    async with fleet(tmp_path, ["m1"]) as (here, members):
        assert (await push(here, 1)).json()["status"] == "activated"
        staged = members["m1"].staged[-1]
        answer = await here.http.get(f"{FLEET_FILES_PATH}/a/model.safetensors", params={"digest": staged.digest})
        assert answer.status_code == 200
        assert answer.content == (here.layout.pushed_version("a", 1) / "model.safetensors").read_bytes()


async def test_who_returns_after_a_push_is_brought_to_it(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (here, members):
        away = members["m2"]
        away.beats.clear()
        await states(here, {"m2": "lost"})
        answer = await push(here, 1)
        assert [each["id"] for each in answer.json()["gateways"]] == ["local", "m1"]
        away.beats.set()
        await states(here, READY)
        assert served(here.gateway, *members.values()) == {("sha256:pushed-1", 1)}
        last = (await here.get("/models/activations"))["activations"][0]
        assert (last["cause"], last["version"], last["status"]) == ("push", 1, "done")


async def test_a_push_while_a_switch_runs_is_refused(tmp_path: Path) -> None:
    async with fleet(tmp_path, ["m1"]) as (here, members):
        member = members["m1"]
        member.may_switch.clear()
        member.switch_asked.clear()
        switching = asyncio.create_task(here.http.post("/models/set_active", json={"id": "b"}))
        await member.switch_asked.wait()
        answer = await push(here, 1)
        assert (answer.status_code, "a switch to b is running" in answer.json()["detail"]) == (409, True)
        member.may_switch.set()
        assert (await switching).status_code == 200

        member.may_switch.clear()
        member.switch_asked.clear()
        pushing = asyncio.create_task(push_to(here, "b", 1))
        await member.switch_asked.wait()
        assert "is running" in await here.refused(409, "/models/set_active", id="b"), "it joined a push"
        member.may_switch.set()
        assert (await pushing).json()["status"] == "activated"


async def push_to(here: ControlPlane, model: str, number: int) -> httpx.Response:
    version = (await kept(here, number + 10)).model_copy(update={"model": model})
    folder = Path(version.folder).rename(here.layout.pushed_version(model, version.version.number))
    version = version.model_copy(update={"folder": str(folder)})
    (folder / KEPT_VERSION_FILE).write_text(version.model_dump_json())
    return await here.http.post(CONTROL_PUSHES_PATH, content=version.model_dump_json())


async def test_one_member_that_takes_too_long_does_not_hold_all_others(tmp_path: Path) -> None:
    settings = FleetSettings(lease_s=LONG_S, step_timeout_s=0.5)
    local, m1 = FakeGateway(settings_of(tmp_path).layout.gateway_socket), FakeMember("m1")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(local.running())
        here = await stack.enter_async_context(control(tmp_path, local, fleet=settings))
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        await stack.enter_async_context(m1.joined(here.http))
        await states(here, {"m1": "ready"})
        m1.may_stage.clear()
        answer = await here.http.post("/models/set_active", json={"id": "b"})
        assert answer.status_code == 500
        assert "m1 failed: it took longer than 0.5 s (setting fleet.step_timeout_s)" in answer.json()["detail"]
        m1.may_stage.set()
        await states(here, {"local": "ready", "m1": "ready"})
