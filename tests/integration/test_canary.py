"""A canary ordered over the private API, as the public port's clients see it: gateway and control as they run."""

from pathlib import Path

import pytest

from control.errors import Conflict
from control.gateway_client import GatewayClient
from stepserve.canary import CanaryOrder
from tests.integration.full_stack import MODEL, FullStack, run_story
from tests.unit.control.checkpoint_files import write_checkpoint


async def ordered(there: FullStack, client: GatewayClient, **changed: object) -> CanaryOrder:
    """A second model is loaded beside the active one, by asking for it."""
    write_checkpoint(there.settings.layout.models / "b", 1)
    (await there.owner.post("/models/register", json={"id": "b", "source": "t"})).raise_for_status()
    assert (await there.chat(model="b")).headers["x-model-id"] == "b"
    models = {one["id"]: one["digest"] for one in (await there.owner.get("/models")).json()["models"]}
    asked = {
        "id": "job", "candidate": {"id": "b", "path": "", "digest": models["b"]}, "active": models[MODEL],
        "share": 0.5, "seconds": 60, "max_error_rate": 0.05,
    }  # fmt: skip
    order = CanaryOrder.model_validate(asked | changed)
    assert (await client.canary(order)).state == "running"
    return order


async def answered_by(there: FullStack, count: int) -> dict[str, set[str]]:
    """By session, twice each."""
    found: dict[str, set[str]] = {}
    for number in range(2 * count):
        session = f"s{number % count}"
        answer = await there.http.post(
            "/v1/chat/completions", json={"model": "active"}, headers={"x-session-id": session}
        )
        found.setdefault(session, set()).add(answer.headers.get("x-model-id", ""))
    return found


def test_sessions_go_one_way_until_the_canary_ends(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        client = GatewayClient.at_socket(there.settings.layout.gateway_socket)
        try:
            order = await ordered(there, client)
            found = await answered_by(there, 20)
            assert all(len(models) == 1 for models in found.values())
            assert set().union(*found.values()) == {MODEL, "b"}
            report = await client.canary(order)
            assert report.candidate.requests + report.active.requests == 40
            with pytest.raises(Conflict, match="A canary of `b` is running"):
                await client.canary(order.model_copy(update={"id": "other"}))
            await client.end_canary("job")
            assert set().union(*(await answered_by(there, 20)).values()) == {MODEL}
        finally:
            await client.close()

    run_story(tmp_path, story)


def test_its_candidate_is_unloaded_by_nobody_until_it_is_over(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        client = GatewayClient.at_socket(there.settings.layout.gateway_socket)
        try:
            order = await ordered(there, client, share=1.0)
            refused = await there.owner.post("/models/b/unload")
            assert (refused.status_code, "A canary of `b` is running" in refused.json()["detail"]) == (409, True)
            (await there.http.post("/api/generate", json={"model": "b", "keep_alive": 0})).raise_for_status()
            assert (await there.owner.get("/models/b")).json()["loaded"] is True
            assert set().union(*(await answered_by(there, 2)).values()) == {"b"}
            assert (await client.canary(order)).state == "running"
            (await there.owner.delete("/models/b")).raise_for_status()
            assert set().union(*(await answered_by(there, 2)).values()) == {MODEL}
            assert (await client.canary(order)).state == "lost", (
                "no job asked for this canary, so nothing kept the model"
            )
        finally:
            await client.close()

    run_story(tmp_path, story)


def test_a_switch_ends_it(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        client = GatewayClient.at_socket(there.settings.layout.gateway_socket)
        try:
            order = await ordered(there, client, share=1.0)
            (await there.owner.post("/models/set_active", json={"id": "b"})).raise_for_status()
            await answered_by(there, 1)
            assert (await client.canary(order)).state == "superseded"
        finally:
            await client.close()

    run_story(tmp_path, story)
