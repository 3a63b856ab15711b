"""Members of a fleet: joining, staying, leaving, and switching them all or none."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from control.fleet.rollout_book import RolloutBook
from control.fleet.rollout_plan import Phase
from stepserve.contract import Proof
from stepserve.fleet_settings import FleetSettings
from stepserve.replica_settings import ReplicaSettings
from tests.e2e.server import free_port
from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control, control_plane, run_sql, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.fake_member import FakeMember
from tests.unit.control.checkpoint_files import write_checkpoint

LEASE_S = 1.0


@asynccontextmanager
async def fleet(
    base: Path, names: Iterable[str] = ("m1", "m2")
) -> AsyncIterator[tuple[ControlPlane, dict[str, FakeMember]]]:
    """Control with its own gateway, the model `a` active everywhere, `b` registered."""
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(control_plane(base, fleet=FleetSettings(lease_s=LEASE_S)))
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        members = {name: FakeMember(name) for name in names}
        for member in members.values():
            await stack.enter_async_context(member.joined(here.http))
        await states(here, dict.fromkeys(members, "ready"))
        yield here, members


async def states(here: ControlPlane, wanted: dict[str, str]) -> dict[str, Any]:
    """GET /fleet, once its members have these states."""

    def enough(seen: Any) -> bool:
        found = {each["id"]: each["state"] for each in seen["gateways"]}
        return all(found.get(name) == state for name, state in wanted.items())

    seen: dict[str, Any] = await eventually(lambda: here.get("/fleet"), enough)
    return seen


def serves(members: dict[str, FakeMember]) -> dict[str, str | None]:
    return {name: member.active.id if member.active else None for name, member in members.items()}


async def test_a_switch_goes_to_every_member_and_names_each(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (here, members):
        for member in members.values():
            assert member.activated == ["a"]
            assert [model.id for model in member.staged] == ["a"]
            await member.told_that("ready")
        seen = await here.get("/fleet")
        local, shown = seen["gateways"][:2]
        assert (local["id"], local["url"], local["state"], local["model"]) == ("local", None, "ready", "a")
        assert (shown["url"], shown["zone"], shown["labels"]) == (members["m1"].url, "z", {"tier": "fast"})
        assert seen["committed"] == {"model": "a", "digest": shown["digest"], "version": 0}

        proof = Proof(kind="computed", prompts=3, passed=True)
        for member in members.values():
            member.proof = proof
        answer = await here.http.post("/models/set_active?wave=1", json={"id": "b"})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["status"], body["id"], body["previous"]) == ("activated", "b", "a")
        went = {each["id"]: (each["method"], each["paused_ms"], each["error"]) for each in body["gateways"]}
        assert went == dict.fromkeys(("local", "m1", "m2"), ("restart", 10.0, None))
        assert [each["proof"] is not None for each in body["gateways"]] == [False, True, True]
        assert serves(members) == {"m1": "b", "m2": "b"}
        seen = await states(here, {"local": "ready", "m1": "ready", "m2": "ready"})
        assert (seen["committed"]["model"], seen["rollout"]["state"]) == ("b", "committed")
        steps = [(step["member"], step["wave"]) for step in seen["rollout"]["steps"]]
        assert steps == [("local", 0), ("m1", 1), ("m2", 2)]
        series = (await here.http.get("/metrics")).text
        assert 'stepserve_fleet_members{state="ready"} 2.0' in series
        assert 'stepserve_fleet_rollouts_total{end="committed"} 1.0' in series


async def test_a_failed_proof_takes_all_back_unless_a_majority_may_go_on(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (here, members):
        bad = members["m2"]
        bad.refuse_stage = "the disk is full"
        answer = await here.http.post("/models/set_active", json={"id": "b"})
        assert answer.status_code == 500
        assert "m2 failed: it could not get the files: the disk is full" in answer.json()["detail"]
        assert [each.activated for each in (here.gateway, *members.values())] == [["a"]] * 3, "nobody was touched"

        bad.refuse_stage = None
        bad.fail_with = "answers otherwise than its reference says"
        bad.proof = Proof(kind="reference", prompts=3, passed=False, reason="it answers otherwise")
        answer = await here.http.post("/models/set_active?wave=1", json={"id": "b"})
        assert answer.status_code == 422
        body = answer.json()
        assert "m2 failed: answers otherwise" in body["detail"]
        assert body["rolled_back_to"] == "a"
        assert {each["id"]: each["error"] is None for each in body["gateways"]} == {
            "local": True, "m1": True, "m2": False,
        }  # fmt: skip
        assert here.gateway.active is not None
        assert here.gateway.active.id == "a"
        assert serves(members) == {"m1": "a", "m2": "a"}
        seen = await states(here, {"local": "ready", "m1": "ready", "m2": "ready"})
        assert (seen["committed"]["model"], seen["rollout"]["state"]) == ("a", "rolled_back")

        bad.fail_with = bad.proof = None  # a majority leaves one that fails behind
        members["m1"].fail_with = "no memory"
        answer = await here.http.post("/models/set_active?policy=quorum", json={"id": "b"})
        assert answer.status_code == 200, answer.text
        assert {each["id"]: each["error"] for each in answer.json()["gateways"]} == {
            "local": None, "m1": "no memory", "m2": None,
        }  # fmt: skip
        seen = await states(here, {"m1": "cordoned", "m2": "ready"})
        assert "no memory" in seen["gateways"][1]["reason"]
        members["m1"].fail_with = None
        await here.post("/fleet/m1/uncordon")
        await states(here, {"m1": "ready"})
        assert serves(members) == {"m1": "b", "m2": "b"}


async def test_a_member_lost_in_a_rollout_takes_all_back_and_is_brought_back_when_it_returns(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (here, members):
        lost = members["m2"]
        lost.may_switch.clear()
        lost.switch_asked.clear()
        switching = asyncio.create_task(here.http.post("/models/set_active?wave=1", json={"id": "b"}))
        await lost.switch_asked.wait()
        seen = await states(here, {"m1": "ready", "m2": "switching"})
        assert seen["rollout"]["state"] == "committing"
        assert "is running" in await here.refused(409, "/models/set_active", id="a")
        lost.beats.clear()
        await states(here, {"m2": "lost"})
        lost.may_switch.set()
        answer = await switching
        assert answer.status_code == 500
        assert "m2 lost: it has said nothing for 1 s" in answer.json()["detail"]
        assert serves(members) == {"m1": "a", "m2": "b"}

        lost.beats.set()
        await states(here, {"m1": "ready", "m2": "ready"})
        assert serves(members) == {"m1": "a", "m2": "a"}

        lost.beats.clear()
        await states(here, {"m2": "lost"})
        answer = await here.http.post("/models/set_active", json={"id": "b"})
        assert [each["id"] for each in answer.json()["gateways"]] == ["local", "m1"], "it was lost before"
        lost.beats.set()
        await states(here, {"m2": "ready"})
        assert serves(members) == {"m1": "b", "m2": "b"}


@dataclass(frozen=True)
class Moment:
    """When control is killed: `block` stops the rollout there, `reached` waits for that, `release` lets go after it."""

    block: Callable[[], None]
    reached: Callable[[], Awaitable[object]]
    release: Callable[[], None]


def moments(local: FakeGateway, m1: FakeMember, m2: FakeMember) -> dict[str, Moment]:
    def at(gateway: FakeGateway) -> Moment:
        def block() -> None:
            gateway.may_switch.clear()
            gateway.switch_asked.clear()

        return Moment(block, gateway.switch_asked.wait, gateway.may_switch.set)

    def block_files() -> None:
        m1.may_stage.clear()
        m1.promotion_scenario.clear()

    def fail_the_last() -> None:
        m2.fail_with = "no memory"
        m2.on_answer = at(m1).block  # so that bringing it back does not end

    def succeed_again() -> None:
        m2.fail_with, m2.on_answer = None, lambda: None
        m1.may_switch.set()

    async def m1_is_brought_back() -> None:
        await eventually(lambda: asyncio.sleep(0, m1.asked[-1].model.id), lambda asked: asked == "a")

    return {
        "the members get files": Moment(block_files, m1.promotion_scenario.wait, m1.may_stage.set),
        "control's own gateway switches": at(local),
        "the first member switches": at(m1),
        "the last member switches": at(m2),
        "all are brought back": Moment(fail_the_last, m1_is_brought_back, succeed_again),
    }


async def test_control_killed_at_any_step(tmp_path: Path) -> None:
    """All are back at what was committed, or, had all been proved, at the new model; whatever ended without control."""
    settings = FleetSettings(lease_s=LEASE_S)
    ready = {"local": "ready", "m1": "ready", "m2": "ready"}
    async with AsyncExitStack() as stack:
        local = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
        await stack.enter_async_context(local.running())
        m1, m2 = FakeMember("m1"), FakeMember("m2")
        all_three = (local, m1, m2)
        killed = ""
        for when, moment in [*moments(*all_three).items(), ("the end", None)]:
            async with control(tmp_path, local, fleet=settings) as here:
                if not killed:
                    await here.add_active("a", seed=0)
                    await here.add_model("b", seed=1)
                    for member in (m1, m2):
                        await stack.enter_async_context(member.joined(here.http))
                    await states(here, ready)
                else:
                    m1.http = m2.http = here.http
                    seen = await settled(here)
                    assert seen["rollout"]["state"] == "rolled_back", killed
                    await states(here, ready)
                    assert [each.active and each.active.id for each in all_three] == ["a"] * 3, killed
                    last = (await here.get("/models/activations"))["activations"][0]
                    assert (last["status"], last["error"] is not None) == ("failed", True), killed
                if moment is None:
                    await here.post("/models/set_active", id="b")
                    continue
                moment.block()
                switching = asyncio.create_task(here.http.post("/models/set_active?wave=1", json={"id": "b"}))
                await moment.reached()
            await asyncio.wait({switching})
            moment.release()
            killed = when

        # As if control had died after the last proof and before the one row that counts.
        newest = "WHERE id = (SELECT max(id) FROM {})"
        await run_sql(tmp_path, f"UPDATE activations SET status = 'running' {newest.format('activations')}")
        await run_sql(tmp_path, f"UPDATE rollouts SET state = 'committing' {newest.format('rollouts')}")
        await run_sql(tmp_path, "UPDATE active_model SET model_id = 'a'")
        async with control(tmp_path, local, fleet=settings) as here:
            m1.http = m2.http = here.http
            seen = await settled(here)
            assert seen["rollout"]["state"] == "committed"
            seen = await states(here, ready)
            assert seen["committed"]["model"] == "b"
            assert [each.active and each.active.id for each in all_three] == ["b"] * 3


async def test_control_killed_between_two_rows(tmp_path: Path) -> None:
    """Of a rollout and its activation one was written and the other was not."""
    settings = FleetSettings(lease_s=LEASE_S)
    gateways = ("local", "m1", "m2")
    async with AsyncExitStack() as stack:
        local = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
        await stack.enter_async_context(local.running())
        m1, m2 = FakeMember("m1"), FakeMember("m2")
        async with control(tmp_path, local, fleet=settings) as here:
            await here.add_active("a", seed=0)
            await here.add_model("b", seed=1)
            for member in (m1, m2):
                await stack.enter_async_context(member.joined(here.http))
            await states(here, dict.fromkeys(gateways, "ready"))
            await here.post("/models/set_active", id="b")

        newest = "WHERE id = (SELECT max(id) FROM {})"
        running = f"UPDATE activations SET status = 'running' {newest.format('activations')}"
        committing = f"UPDATE rollouts SET state = 'committing' {newest.format('rollouts')}"
        rolled_back = f"UPDATE rollouts SET state = 'rolled_back' {newest.format('rollouts')}"
        active = "UPDATE active_model SET model_id = 'a'"
        for when, rows, model, ends in (
            ("the activation has ended", [committing], "b", "done"),
            ("the rollout was taken back", [running, rolled_back, active], "a", "failed"),
            ("no rollout has begun", [running, "DELETE FROM rollout_steps", "DELETE FROM rollouts"], "a", "failed"),
        ):
            for row in rows:
                await run_sql(tmp_path, row)
            async with control(tmp_path, local, fleet=settings) as here:
                m1.http = m2.http = here.http
                last = await eventually(
                    partial(here.get, "/models/activations"),
                    lambda seen: seen["activations"][0]["status"] != "running",
                )
                assert last["activations"][0]["status"] == ends, when
                seen = await states(here, dict.fromkeys(gateways, "ready"))
                assert seen["committed"]["model"] == model, when
                assert [each.active and each.active.id for each in (local, m1, m2)] == [model] * 3, when
                assert (seen["rollout"] or {}).get("state") != "committing", when

        async with control(tmp_path, local, fleet=settings) as here:
            m1.http = m2.http = here.http
            await states(here, dict.fromkeys(gateways, "ready"))
            m2.fail_with = "no memory"
            await here.post("/models/set_active?wave=1&policy=quorum", id="b")
        for row in (running, committing, active, "UPDATE fleet_members SET hold = NULL, reason = NULL"):
            await run_sql(tmp_path, row)
        async with control(tmp_path, local, fleet=settings) as here:
            m1.http = m2.http = here.http
            assert (await settled(here))["rollout"]["state"] == "committed"
            seen = await states(here, {"local": "ready", "m1": "ready", "m2": "cordoned"})
            assert seen["committed"]["model"] == "b"
            assert "no memory" in seen["gateways"][2]["reason"]


async def test_a_database_that_does_not_take_the_end_of_a_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended as soon as the database answers, and no member counts as ready by it later."""
    move, refused = RolloutBook.move, asyncio.Event()

    async def refusing(book: RolloutBook, rollout_id: int, phase: Phase, error: str | None = None) -> None:
        if phase == "committed" and not refused.is_set():
            refused.set()
            raise OperationalError("UPDATE rollouts", {}, Exception("database is locked"))
        await move(book, rollout_id, phase, error)

    async with fleet(tmp_path, ["m1"]) as (here, members):
        monkeypatch.setattr(RolloutBook, "move", refusing)
        await here.http.post("/models/set_active", json={"id": "b"})
        assert refused.is_set()
        assert (await settled(here))["rollout"]["state"] == "committed"
        assert (await states(here, {"local": "ready", "m1": "ready"}))["committed"]["model"] == "b"
        members["m1"].beats.clear()
        await states(here, {"m1": "lost"})
        await here.post("/models/set_active", id="a")
        members["m1"].beats.set()
        await states(here, {"local": "ready", "m1": "ready"})
        assert serves(members) == {"m1": "a"}, "it counted as ready with a model that was not committed"


async def test_a_member_that_was_lost_is_not_ready_because_control_was_restarted(tmp_path: Path) -> None:
    local, m1 = FakeGateway(settings_of(tmp_path).layout.gateway_socket), FakeMember("m1")
    async with local.running():
        async with control(tmp_path, local, fleet=FleetSettings(lease_s=LEASE_S)) as here:
            await here.add_active("a", seed=0)
            await here.add_model("b", seed=1)
            async with m1.joined(here.http):
                await states(here, {"m1": "ready"})
            await eventually(lambda: here.get("/fleet"), lambda seen: seen["gateways"][1]["model"] is None)
        async with control(tmp_path, local, fleet=FleetSettings(lease_s=60)) as here:
            assert (await here.get("/fleet"))["gateways"][1]["state"] == "joining"
            answer = await here.http.post("/models/set_active", json={"id": "b"})
            assert answer.status_code == 200, answer.text


async def test_replicas_of_an_earlier_larger_start_are_forgotten(tmp_path: Path) -> None:
    """Those that `up --replicas` named, and no others."""
    local = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    four, two = ReplicaSettings(count=4), ReplicaSettings(count=2)
    async with local.running():
        async with control(tmp_path, local, fleet=FleetSettings(lease_s=60), replicas=four) as here:
            await here.add_active("a", seed=0)
            async with AsyncExitStack() as stack:
                for name in ("replica-2", "replica-3", "replica-4", "m1"):
                    await stack.enter_async_context(FakeMember(name).joined(here.http))
                await here.post("/fleet/replica-4/cordon")
        async with control(tmp_path, local, fleet=FleetSettings(lease_s=60), replicas=two) as here:
            names = [each["id"] for each in (await here.get("/fleet"))["gateways"]]
            assert names == ["local", "m1", "replica-2", "replica-4"], "a person keeps the last one out"


async def test_control_killed_outright(tmp_path: Path) -> None:
    """As above, with a process that gets no chance to end anything."""
    local, m1 = FakeGateway(settings_of(tmp_path).layout.gateway_socket), FakeMember("m1")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.killed_fleet", str(tmp_path), str(port)
    )
    async with AsyncExitStack() as stack:
        stack.callback(lambda: process.kill() if process.returncode is None else None)
        await stack.enter_async_context(local.running())
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=240))
        await eventually(lambda: answers(http), lambda there: there)
        write_checkpoint(tmp_path / "models" / "a", 0)
        write_checkpoint(tmp_path / "models" / "b", 1)
        for name in ("a", "b"):
            (await http.post("/models/register", json={"id": name, "source": "t"})).raise_for_status()
        (await http.post("/models/set_active", json={"id": "a"})).raise_for_status()
        await stack.enter_async_context(m1.joined(http))
        await m1.told_that("ready")
        m1.may_switch.clear()
        m1.switch_asked.clear()
        switching = asyncio.create_task(http.post("/models/set_active", json={"id": "b"}))
        await m1.switch_asked.wait()
        process.kill()
        await process.wait()
        assert isinstance((await asyncio.gather(switching, return_exceptions=True))[0], httpx.TransportError)
        m1.may_switch.set()
        await eventually(lambda: asyncio.sleep(0, m1.active), lambda active: active is not None and active.id == "b")

        async with control(tmp_path, local, fleet=FleetSettings(lease_s=LEASE_S)) as here:
            m1.http = here.http
            assert (await settled(here))["rollout"]["state"] == "rolled_back"
            await states(here, {"local": "ready", "m1": "ready"})
            assert [each.active and each.active.id for each in (local, m1)] == ["a", "a"]


async def answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/health")).status_code == 200
    except httpx.TransportError:
        return False


async def settled(here: ControlPlane) -> Any:
    """GET /fleet, once the last rollout has ended."""
    return await eventually(
        lambda: here.get("/fleet"), lambda seen: seen["rollout"]["state"] in {"committed", "rolled_back"}
    )


async def test_drained_cordoned_and_stopped_members_get_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path, ["m1"]) as (here, members):
        await members["m1"].beat(in_flight=2)
        members["m1"].beats.clear()
        assert (await here.post("/fleet/m1/drain"))["state"] == "draining"
        members["m1"].beats.set()
        await states(here, {"m1": "cordoned"})
        await here.post("/models/set_active", id="b")
        assert serves(members) == {"m1": "a"}
        assert "is alive" in (await here.http.delete("/fleet/m1")).json()["detail"]
        await here.post("/fleet/m1/uncordon")
        await states(here, {"m1": "ready"})
        assert serves(members) == {"m1": "b"}
        assert (
            await here.refused(404, "/fleet/m9/drain") == "there is no member 'm9': stepserve fleet status lists them"
        )


async def test_weights_that_were_pushed_to_a_member_are_replaced_though_they_are_the_same(tmp_path: Path) -> None:
    """A trainer's first push is often what lies on the disk."""
    async with fleet(tmp_path, ["m1"]) as (here, members):
        members["m1"].pushed = 1
        activated = await eventually(lambda: asyncio.sleep(0, members["m1"].activated), lambda seen: len(seen) > 1)
        assert (activated, members["m1"].pushed) == (["a", "a"], 0)
        await states(here, {"m1": "ready"})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"stepserve_version": "9.9.9"}, "this gateway runs Stepserve 9.9.9 and control"),
    ({"now_s": 1.0}, "s behind control's"),
    ({"url": "http://127.0.0.1:9"}, "control cannot reach http://127.0.0.1:9"),
    ({"url": "ftp://x"}, "url: 'ftp://x' is not a URL"),
    ({"token": "x" * 40}, "another program, or another gateway, answers at"),
    ({"boot_id": "other"}, "another gateway answers at"),
    ({"id": "local"}, "choose another"),
    ({"id": "a b"}, "id: "),
    ({"zone": "z" * 64}, "zone: "),
]


async def test_a_place_whose_answer_does_not_end_is_no_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.gateway_client.STATE_TIMEOUT_S", 0.3)

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                await asyncio.sleep(0.01)

    async with control_plane(tmp_path) as here, await asyncio.start_server(trickle, "127.0.0.1", 0) as server:
        member = FakeMember("m1")
        member.http, member.token = here.http, "t" * 40
        async with asyncio.timeout(240):
            answer = await member.join(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert answer.status_code == 422
        assert "did not say its state within 0.3 s" in answer.json()["detail"]


async def test_who_may_not_join_is_told_why(tmp_path: Path) -> None:
    async with fleet(tmp_path, ["m1"]) as (here, members):
        other = FakeMember("m2")
        other.boot = 7
        async with other.joined(here.http, joins=False):
            for changes, said in WRONG:
                answer = await other.join(**changes)
                assert answer.status_code == 422, changes
                assert said in answer.json()["detail"]
            answer = await other.join(id="m1")
            assert answer.status_code == 409
            assert f"a gateway at {members['m1'].url} has joined as 'm1' and is alive" in answer.json()["detail"]
            assert (await other.beat(id="m1")).status_code == 403
            for changes in ({"version": 2**31}, {"in_flight": -1}, {"model": "m" * 201}):
                assert (await members["m1"].beat(**changes)).status_code == 422, changes
        seen = await states(here, {"m1": "ready"})
        assert len(seen["gateways"]) == 2

        async with AsyncExitStack() as stack:  # the same member after a crash takes its own place
            members["m1"].beats.clear()
            again = FakeMember("m1")
            again.boot = 8
            members["m1"].token = "gone"
            await stack.enter_async_context(again.joined(here.http))
            await states(here, {"m1": "ready"})
            assert again.activated == ["a"]
