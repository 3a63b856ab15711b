"""The key that a starter makes for the replicas of a server that demands keys."""

import asyncio
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from stepserve.fleet_settings import FleetSettings
from stepserve.starters.fleet_key import NAME, fleet_key
from stepserve.starters.order import Order
from stepserve.starters.placing import ClusterRefused
from stepserve.starters.replica_actor import ReplicaActor
from tests.e2e.server import free_port
from tests.eventually import wait_until
from tests.integration.full_stack import FullStack, bearer, run_story

NEVER = threading.Event()


def test_a_key_is_made_where_keys_are_demanded_and_the_former_one_is_revoked(tmp_path: Path) -> None:
    async def story(here: FullStack) -> None:
        async def made() -> str | None:
            return await asyncio.to_thread(fleet_key, here.settings, NEVER)

        assert await made() is None, "the first key closes the server to everybody else, so it is a person's to make"
        admin = bearer(await here.key(scopes=["admin"]))
        keys = [await made(), await made()]
        assert None not in keys
        listed = (await here.owner.get("/keys")).json()["keys"]
        assert [(each["scopes"], each["status"]) for each in listed if each["name"] == NAME] == [
            (["fleet"], "valid"),
            (["fleet"], "revoked"),
        ]
        assert (await here.http.get("/fleet", headers=bearer(str(keys[1])))).status_code == 200
        assert (await here.http.get("/fleet", headers=admin)).status_code == 200
        given = FleetSettings(api_key=SecretStr("sy_given"))
        assert fleet_key(here.settings.model_copy(update={"fleet": given}), NEVER) == "sy_given"

    run_story(tmp_path, story)


def test_a_key_that_cannot_be_made(tmp_path: Path) -> None:
    async def story(here: FullStack) -> None:
        access = here.settings.access.model_copy(update={"mode": "keys"})
        settings = here.settings.model_copy(update={"access": access})
        with pytest.raises(
            ClusterRefused, match=r"No key could be made for the replicas .*admin.*: set fleet\.api_key"
        ):
            await asyncio.to_thread(fleet_key, settings, NEVER)

    run_story(tmp_path, story)


def test_an_actor_says_why_its_gateway_does_not_run_and_goes_on_trying(tmp_path: Path) -> None:
    """Ray itself is in tests/integration/test_ray.py."""
    order = Order("replica-1", {"INFERENCE_NO_SUCH": "1"}, str(tmp_path), free_port())
    actor = ReplicaActor(order, "127.0.0.1")
    wait_until("it has tried", lambda: actor.report().trouble is not None, 240.0)
    assert "INFERENCE_NO_SUCH: there is no such setting" in str(actor.report().trouble)
    assert actor.report().port == order.first_port
    wait_until("it tries again", lambda: actor.report().trouble is None, 240.0)
    actor.stop(5.0)
    assert "NO_SUCH" not in repr(order), "what it has may be secret"
