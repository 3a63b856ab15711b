"""Switching the active model, and keeping the gateway at it."""

import asyncio
import shutil
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from control.activation.activator import Activator
from control.activation.wishes import SwitchCondition, SwitchWish
from control.database.database import database_url
from control.errors import GatewayUnavailable, Superseded
from control.gateway_client import GatewayClient
from control.jobs.engine_borrow import ActivatorSwitcher
from stepserve.contract import ActivateRequest, FailedLoad, ModelRef, Proof
from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control, control_plane, run_sql, settings_of
from tests.integration.fake_gateway import FakeGateway


async def active_id(here: ControlPlane) -> str:
    return str((await here.get("/models/active"))["id"])


async def test_switching(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        assert (await here.http.get("/models/active")).status_code == 404
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        answer = await here.post("/models/set_active", id="b")
        assert answer.pop("total_ms") >= answer.pop("reference_wait_ms") >= 0
        assert answer == {
            "status": "activated", "id": "b", "previous": "a", "method": "restart", "paused_ms": 10.0,
            "in_flight": 0, "held_ms": 0.0, "proof": None,
        }  # fmt: skip
        assert await active_id(here) == "b"
        history = (await here.get("/models/activations"))["activations"]
        assert [(row["id"], row["status"]) for row in history] == [("b", "done"), ("a", "done")]


async def test_the_active_model_again_is_proved_as_it_serves(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        here.gateway.proof = Proof(kind="computed", prompts=6, mean_abs_diff=0.01, tolerance=0.25, passed=True)
        answer = await here.post("/models/set_active", id="a")
        assert (answer["method"], answer["paused_ms"]) == ("none", 0)
        assert answer["proof"] == here.gateway.proof.model_dump()
        assert here.gateway.activated == ["a"]
        assert [asked.model.id for asked in here.gateway.proved] == ["a"]


async def test_the_active_model_whose_weights_were_pushed_is_loaded_from_its_files(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        here.gateway.pushed = 3
        answer = await here.post("/models/set_active", id="a")
        assert (answer["status"], answer["method"]) == ("activated", "restart")
        assert here.gateway.activated == ["a", "a"]
        assert here.gateway.pushed == 0


async def test_no_job_ends_pushed_weights(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        await here.add_model("b", seed=1)
        here.gateway.pushed = 3
        switcher = ActivatorSwitcher(here.app.state.services[Activator])
        with pytest.raises(GatewayUnavailable, match="version 3 of a was pushed"):
            await switcher.switch_to("b", "job 1")
        assert here.gateway.activated == ["a"]
        here.gateway.pushed = 0
        await switcher.switch_to("b", "job 1")
        assert here.gateway.activated == ["a", "b"]


async def test_one_cause_switches_once_and_who_went_back_has_the_last_word(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        await here.add_model("b", seed=1)
        models = {model["id"]: model["digest"] for model in (await here.get("/models"))["models"]}
        condition = SwitchCondition(models["b"], models["a"])
        activator = here.app.state.services[Activator]
        for _ in range(2):  # as a job that was killed before it could note the first
            result = await activator.set_active("b", SwitchWish(), cause="promotion p", condition=condition)
            assert result.status == "activated"
        assert here.gateway.activated == ["a", "b"]
        await here.post("/models/set_active", id="a")
        with pytest.raises(Superseded, match="b was made active by the promotion p already"):
            await activator.set_active("b", SwitchWish(), cause="promotion p", condition=condition)
        assert await active_id(here) == "a"
        await activator.set_active("b", SwitchWish(), cause="promotion q", condition=condition)
        assert await active_id(here) == "b"


async def test_the_active_model_that_fails_its_proof_is_an_error(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        here.gateway.proof = Proof(kind="weak", prompts=3, passed=False, reason="a number is not finite")
        response = await here.http.post("/models/set_active", json={"id": "a"})
        assert response.status_code == 422
        body = response.json()
        assert body["detail"] == "`a` serves and fails its proof (weak): a number is not finite"
        assert (body["proof"]["passed"], body["rolled_back_to"]) == (False, "a")
        assert here.gateway.activated == ["a"]
        assert await active_id(here) == "a"


async def test_a_candidate_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        here.gateway.fail_with = "out of memory"
        response = await here.http.post("/models/set_active", json={"id": "b"})
        assert response.status_code == 500
        assert response.json() == {
            "detail": "out of memory", "rolled_back_to": "a", "id": "b", "method": "restart", "proof": None,
        }  # fmt: skip
        assert await active_id(here) == "a"
        row = (await here.get("/models/activations"))["activations"][0]
        assert (row["status"], row["error"], row["rolled_back_to"]) == ("failed", "out of memory", "a")


async def test_one_switch_at_a_time(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        here.gateway.may_switch.clear()
        here.gateway.switch_asked.clear()
        first = asyncio.create_task(here.post("/models/set_active", id="b"))
        await here.gateway.switch_asked.wait()
        assert "switch to b is running" in await here.refused(409, "/models/set_active", id="a")
        here.gateway.may_switch.set()
        assert (await first)["id"] == "b"


async def test_the_same_switch_asked_for_twice_is_one(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        here.gateway.may_switch.clear()
        here.gateway.switch_asked.clear()
        first = asyncio.create_task(here.post("/models/set_active", id="b"))
        await here.gateway.switch_asked.wait()
        activator = here.app.state.services[Activator]
        second = asyncio.create_task(activator.set_active("b", SwitchWish(method="restart")))
        await asyncio.sleep(0)  # by now it has joined
        here.gateway.may_switch.set()
        assert await first == (await second).shown()
        assert here.gateway.activated == ["a", "b"]
        assert len((await here.get("/models/activations"))["activations"]) == 2


async def test_of_twenty_switches_at_once_one_wins(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        names = [f"m{number}" for number in range(20)]
        for seed, name in enumerate(names):
            await here.add_model(name, seed=seed + 1)
        here.gateway.may_switch.clear()
        asking = [asyncio.create_task(here.http.post("/models/set_active", json={"id": name})) for name in names]
        refused = 0
        for answer in asyncio.as_completed(asking):
            refused += (await answer).status_code == 409
            if refused == 19:
                here.gateway.may_switch.set()
        [won] = [task.result().json() for task in asking if task.result().status_code == 200]
        assert won["previous"] == "a"
        assert here.gateway.activated == ["a", won["id"]]
        assert here.gateway.active is not None
        assert here.gateway.active.id == won["id"] == await active_id(here)
        history = (await here.get("/models/activations"))["activations"]
        assert [(row["id"], row["status"]) for row in history] == [(won["id"], "done"), ("a", "done")]


async def test_a_request_joins_the_switch_of_the_start(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    gateway.may_switch.clear()
    async with gateway.running(), control(tmp_path, gateway) as here:
        await gateway.switch_asked.wait()
        asked = asyncio.create_task(here.post("/models/set_active", id="a"))
        assert "switch to a is running" in await here.refused(409, "/models/set_active", id="b")
        gateway.may_switch.set()
        assert (await asked)["status"] == "activated"
        assert gateway.activated == ["a"]


async def test_a_method_that_is_impossible(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        reason = "method: `in_place` is impossible here: the tokenizers differ."
        here.gateway.refuse_switches_with = (422, "method_impossible", reason)
        assert await here.refused(422, "/models/set_active", id="b", method="in_place") == reason
        row = (await here.get("/models/activations"))["activations"][0]
        assert (row["status"], row["requested_method"], row["method"]) == ("failed", "in_place", None)
        assert row["error"] == reason
        assert await active_id(here) == "a"


async def test_the_wish_reaches_the_gateway(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_model("a")
        await here.post("/models/set_active", id="a", method="blue_green", in_flight="abort", timeout_s=7)
        (asked,) = here.gateway.asked
        assert (asked.method, asked.in_flight, asked.timeout_s) == ("blue_green", "abort", 7)
        assert asked.model.signature is not None
        assert asked.model.signature.architecture == "Qwen3ForCausalLM"


async def test_a_proof_is_in_the_answer_and_in_the_history(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        here.gateway.proof = Proof(kind="computed", prompts=6, max_abs_diff=0.001, tolerance=0.05, passed=True)
        answer = await here.post("/models/set_active", id="b", method="restart")
        assert answer["proof"] == here.gateway.proof.model_dump()
        row = (await here.get("/models/activations"))["activations"][0]
        assert {name: row[name] for name in row if name not in {"started_at", "finished_at", "digest"}} == {
            "activation_id": 2, "id": "b", "previous": "a", "cause": "request", "status": "done", "phase": None,
            "version": 0, "requested_method": "restart", "method": "restart", "paused_ms": 10.0,
            "total_ms": answer["total_ms"], "reference_wait_ms": answer["reference_wait_ms"], "in_flight": 0,
            "proof": answer["proof"], "error": None, "rolled_back_to": None,
        }  # fmt: skip


async def test_a_proof_that_fails_is_the_clients_to_know(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        here.gateway.proof = Proof(kind="reference", prompts=2, max_abs_diff=3.0, tolerance=0.05, passed=False)
        here.gateway.fail_with = "b does not say what its reference says"
        response = await here.http.post("/models/set_active", json={"id": "b"})
        assert response.status_code == 422
        assert response.json() == {
            "detail": "b does not say what its reference says", "id": "b", "method": "restart",
            "proof": here.gateway.proof.model_dump(), "rolled_back_to": "a",
        }  # fmt: skip
        row = (await here.get("/models/activations"))["activations"][0]
        assert (row["status"], row["proof"]["passed"], row["rolled_back_to"]) == ("failed", False, "a")
        assert await active_id(here) == "a"


async def test_a_client_that_leaves_does_not_stop_the_switch(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_model("a")
        here.gateway.may_switch.clear()
        client = asyncio.create_task(here.post("/models/set_active", id="a"))
        await here.gateway.switch_asked.wait()
        client.cancel()
        await asyncio.wait({client})
        here.gateway.may_switch.set()
        await eventually(lambda: here.http.get("/models/active"), lambda response: response.status_code == 200)


async def test_what_cannot_become_active(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_model("gone", seed=0)
        await here.add_model("changed", seed=1)
        shutil.rmtree(here.layout.models / "gone")
        (here.layout.models / "changed" / "tokenizer.json").write_text('{"other": 1}')
        assert "'ghost'" in await here.refused(404, "/models/set_active", id="ghost")
        assert "does not exist" in await here.refused(422, "/models/set_active", id="gone")
        assert "under a new id" in await here.refused(422, "/models/set_active", id="changed")
        assert "method: " in await here.refused(422, "/models/set_active", id="changed", method="magic")
        assert here.gateway.activated == []


async def test_a_gateway_that_is_away(tmp_path: Path) -> None:
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with control(tmp_path, gateway) as here:
        await here.add_model("a")
        await here.refused(503, "/models/set_active", id="a")
        assert (await here.get("/models/activations"))["activations"][0]["status"] == "failed"
        assert (await here.get("/models"))["models"][0]["loaded"] is False
        assert (await here.get("/health"))["status"] == "ok"


async def test_a_switch_is_waited_for_while_the_gateway_says_that_it_lives_and_no_longer(tmp_path: Path) -> None:
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    client = GatewayClient.at_socket(gateway.socket_path, look_every_s=0.02, patience=1)
    request = ActivateRequest(model=ModelRef(id="a", path="/a", digest="sha256:a"), timeout_s=0.001)
    async with gateway.running():
        looked = asyncio.Event()
        gateway.may_switch.clear()
        gateway.on_state = looked.set
        switching = asyncio.create_task(client.activate(request))
        for _ in range(3):
            await looked.wait()
            looked.clear()
        gateway.may_switch.set()
        assert (await switching).status == "activated"
        gateway.may_switch.clear()
        gateway.hold_states = asyncio.Event()
        with pytest.raises(GatewayUnavailable):
            await client.activate(request)
        gateway.may_switch.set()
        gateway.hold_states.set()
    await client.close()


async def test_rolling_back(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        assert "no earlier" in await here.refused(409, "/models/rollback")
        await here.add_active("b", seed=1)
        assert (await here.http.post("/models/rollback")).json()["id"] == "a"
        assert await active_id(here) == "a"


async def test_a_gateway_that_restarts_gets_its_model_back(tmp_path: Path) -> None:
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with control(tmp_path, gateway) as here:
        async with gateway.running():
            await here.add_active("a")
        gateway.switch_asked.clear()
        async with gateway.running():
            async with asyncio.timeout(240):
                await gateway.switch_asked.wait()
            await eventually(lambda: here.get("/models"), lambda body: body["models"][0]["loaded"])
        assert gateway.activated == ["a", "a"]


async def test_a_switch_that_ends_while_the_gateway_is_looked_at_is_not_made_twice(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        seen = asyncio.Semaphore(0)
        here.gateway.on_state = seen.release
        here.gateway.hold_states = asyncio.Event()  # what they say is settled, and arrives when the switch is over
        await seen.acquire()
        await here.post("/models/set_active", id="b")
        here.gateway.hold_states.set()
        here.gateway.hold_states = None
        for _ in range(5):
            await seen.acquire()
        assert here.gateway.activated == ["a", "b"]


async def test_a_failed_load_is_left_to_cool_down(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        looks = asyncio.Semaphore(0)
        digest = here.gateway.active.digest if here.gateway.active else None
        here.gateway.failed_loads = [FailedLoad(id="a", digest=digest, error="no", failed_at="then", retry_in_s=9.0)]
        here.gateway.active = None
        here.gateway.on_state = looks.release
        for _ in range(5):
            await looks.acquire()
        assert here.gateway.activated == ["a"]
        here.gateway.failed_loads = []
        await eventually(lambda: here.get("/models"), lambda body: body["models"][0]["loaded"])


async def test_a_failed_load_of_other_content_does_not_count(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        here.gateway.failed_loads = [
            FailedLoad(id="a", digest="sha256:other", error="no", failed_at="then", retry_in_s=9.0)
        ]
        here.gateway.active = None
        await eventually(lambda: here.get("/models"), lambda body: body["models"][0]["loaded"])


async def leave_unfinished(base: Path, model_id: str) -> ModelRef:
    """What a control process that died in mid-switch leaves behind."""
    engine = create_async_engine(database_url(base / "db.sqlite"))
    async with engine.begin() as connection:
        row = (await connection.execute(text("SELECT path, digest FROM models WHERE id = :id"), {"id": model_id})).one()
        await connection.execute(
            text(
                "INSERT INTO activations (model_id, digest, cause, requested_method, status, started_at)"
                " VALUES (:id, :digest, 'request', 'auto', 'running', '2026-01-01 00:00:00.000000')"
            ),
            {"id": model_id, "digest": row.digest},
        )
    await engine.dispose()
    return ModelRef(id=model_id, path=row.path, digest=row.digest)


async def test_an_interrupted_switch_that_the_gateway_finished_is_done(tmp_path: Path) -> None:
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with gateway.running(), control(tmp_path, gateway) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
    target = await leave_unfinished(tmp_path, "b")
    async with control(tmp_path, gateway) as here:
        row = (await here.get("/models/activations"))["activations"][0]
        assert row["status"] == "running", "nothing is decided before the gateway answers"
        gateway.active = target
        async with gateway.running():
            await eventually(lambda: active_id(here), lambda model_id: model_id == "b")
            row = (await here.get("/models/activations"))["activations"][0]
            assert (row["id"], row["status"]) == ("b", "done")


async def test_a_switch_whose_end_the_database_does_not_take_is_settled_when_it_does(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        await run_sql(
            tmp_path,
            "CREATE TRIGGER full BEFORE UPDATE ON activations WHEN NEW.status = 'done'"
            " BEGIN SELECT RAISE(ABORT, 'disk is full'); END",
        )
        assert (await here.http.post("/models/set_active", json={"id": "b"})).status_code >= 500
        await run_sql(tmp_path, "DROP TRIGGER full")
        await eventually(lambda: active_id(here), lambda model_id: model_id == "b")
        assert here.gateway.activated == ["a", "b"], "and it was not taken back meanwhile"
        history = (await here.get("/models/activations"))["activations"]
        assert [(row["id"], row["status"]) for row in history] == [("b", "done"), ("a", "done")]


async def test_an_interrupted_switch_that_did_not_happen_is_failed(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
    await leave_unfinished(tmp_path, "b")
    async with control_plane(tmp_path) as here:
        row = await eventually(
            lambda: here.get("/models/activations"), lambda body: body["activations"][0]["status"] != "running"
        )
        assert row["activations"][0]["error"] == "interrupted"
        assert await active_id(here) == "a"
