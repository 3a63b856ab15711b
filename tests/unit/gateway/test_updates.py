"""Updates in phases: what requests of one that come beside each other do to it."""

import asyncio
import os
from dataclasses import dataclass, field
from typing import cast

import pytest

from gateway.errors import BadWeights, UpdateRefused
from gateway.http.asgi import Receive, Scope
from gateway.pushing.pusher import Arriving, Pusher
from gateway.pushing.updates import Updates
from gateway.serving.pauses import PauseRequest
from gateway.serving.pool import Pool
from gateway.serving.slot import Slot
from gateway.serving.weights.check import Announced, Expected
from stepserve.settings import WeightsSettings
from stepserve.shard import Tensor
from tests.eventually import eventually
from tests.unit.gateway.fakes import model

_WRONG = [Announced("nobody's", "U8", (1,))]
_SCOPE: Scope = {}


@dataclass
class SlowPusher:
    """A body comes for as long as `is_there` is not set."""

    comes: asyncio.Event = field(default_factory=asyncio.Event)
    is_there: asyncio.Event = field(default_factory=asyncio.Event)
    arriving: Arriving | None = None
    ended: list[Arriving] = field(default_factory=list)

    def target(self, name: str) -> None:
        pass

    def check_here(self) -> None:
        pass

    def check_alone(self, route: str) -> None:
        pass

    async def begin(self, name: str) -> Arriving:
        expected = Expected({"one": Tensor("one", "U8", (1,), 0, 1)}, {}, None)
        self.arriving = Arriving(cast("Slot", None), model("a"), expected)
        return self.arriving

    async def receive(self, arriving: Arriving, scope: Scope, receive: Receive) -> None:
        self.comes.set()
        await self.is_there.wait()

    def end(self, arriving: Arriving) -> None:
        arriving.close()
        self.ended.append(arriving)


@dataclass
class SlowPool:
    """Its pauses are asked for, and nobody ever says that they have begun."""

    asked: list[str] = field(default_factory=list)

    async def pause(self, request: PauseRequest) -> None:
        self.asked.append("pause")
        await asyncio.Event().wait()

    async def resume(self) -> None:
        self.asked.append("resume")


async def nothing() -> dict[str, object]:
    return {}


def updates_of(pusher: SlowPusher, pool: SlowPool) -> Updates:
    updates = Updates(cast("Pusher", pusher), cast("Pool", pool), WeightsSettings())
    updates.initialise("a", "http")
    return updates


async def test_a_wrong_announcement_leaves_the_memory_that_is_being_written_to() -> None:
    """Its number would be another file's, while a thread still writes there."""
    pusher = SlowPusher()
    updates = updates_of(pusher, SlowPool())
    await updates.start("a", None, "key")
    coming = asyncio.create_task(updates.receive(_SCOPE, nothing, "key"))
    await pusher.comes.wait()
    with pytest.raises(BadWeights):
        await updates.expect(_WRONG, "key")
    assert pusher.arriving is not None
    assert os.fstat(pusher.arriving.weights.descriptor)
    assert not pusher.ended, "no other push may come in yet"
    pusher.is_there.set()
    with pytest.raises((UpdateRefused, BadWeights)):
        await coming
    assert pusher.ended == [pusher.arriving]
    with pytest.raises(UpdateRefused):
        await updates.expect([], "key")


async def test_the_pause_of_a_trainer_that_is_cut_off_while_it_begins_is_ended() -> None:
    pool = SlowPool()
    updates = updates_of(SlowPusher(), pool)
    starting = asyncio.create_task(updates.start("a", "finish", "key"))
    await eventually(lambda: pool.asked == ["pause"])
    starting.cancel()
    await eventually(lambda: pool.asked == ["pause", "resume"])
