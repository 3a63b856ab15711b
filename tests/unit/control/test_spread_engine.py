"""Whom a job's items go to, and whom next when that does not answer."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from control.errors import GatewayUnavailable, Invalid, ModelNotServed, WrongWeights
from control.jobs.spread_engine import JobGateway, SpreadEngine
from stepserve.contract import AskItem, AskRequest, AskResult, BatchItem, BatchOutput, BatchRequest, BatchResult
from stepserve.jobs.patience import Patience
from tests.unit.evals.adding_engine import MODEL

TIMEOUT_S = 120
WINDOW = 4


class Engine:
    """Says its name; `trouble` is what it raises, once `may_answer`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.digest = MODEL.digest
        self.requests: list[BatchRequest] = []
        self.asks: list[AskRequest] = []
        self.entered = asyncio.Condition()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.trouble: Exception | None = None

    async def generate(self, request: BatchRequest) -> BatchResult:
        async with self.entered:
            self.requests.append(request)
            self.entered.notify_all()
        await self.may_answer.wait()
        if self.trouble is not None:
            raise self.trouble
        outputs = [BatchOutput(text=self.name) for _ in request.items]
        return BatchResult(model=request.model, digest=self.digest, outputs=outputs)

    async def ask(self, request: AskRequest) -> AskResult:
        self.asks.append(request)
        return AskResult(model=request.model, digest=request.digest, outputs=[])

    async def has_had(self, count: int) -> None:
        async with self.entered:
            await self.entered.wait_for(lambda: len(self.requests) >= count)


@dataclass(eq=False)
class Member:
    id: str
    is_out: bool = False
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = Engine(self.id)

    def still_answers(self) -> bool:
        return not self.is_out


@dataclass
class Fleet:
    members: list[Member] = field(default_factory=list)
    looks: asyncio.Queue[None] = field(default_factory=asyncio.Queue)

    @property
    def has_members(self) -> bool:
        return bool(self.members)

    async def is_looked_at(self, times: int) -> None:
        while not self.looks.empty():
            self.looks.get_nowait()
        for _ in range(times):
            await self.looks.get()

    def serving(self, model_id: str, digest: str) -> list[JobGateway]:
        self.looks.put_nowait(None)
        return [each for each in self.members if not each.is_out and (model_id, digest) == (MODEL.id, MODEL.digest)]


class Here:
    """A job's engine over a fleet of so many members, with a clock of its own."""

    def __init__(self, members: int = 2) -> None:
        self.now_s = 0.0
        self.local = Engine("local")
        self.fleet = Fleet([Member(f"m{number + 1}") for number in range(members)])
        self.shared = 0
        self.engine = SpreadEngine(
            local=self.local,
            fleet=self.fleet,
            own_window_items=WINDOW,
            on_shared=self._note_shared,
            look_every_s=0.01,
            patience=Patience(give_up_after_s=0.0),
            clock_s=lambda: self.now_s,
        )

    def _note_shared(self) -> None:
        self.shared += 1

    @property
    def engines(self) -> list[Engine]:
        return [self.local, *(member.engine for member in self.fleet.members)]

    @property
    def given(self) -> list[int]:
        """How many requests each has had, control's own gateway first."""
        return [len(engine.requests) for engine in self.engines]

    async def ask(self, items: int = 1, digest: str | None = MODEL.digest) -> str:
        """Who answered."""
        request = BatchRequest(model=MODEL.id, digest=digest, items=[BatchItem(prompt="?")] * items)
        return (await self.engine.generate(request)).outputs[0].text


def run(story: Callable[[Here], Awaitable[None]], members: int = 2) -> None:
    async def told() -> None:
        await story(Here(members))

    asyncio.run(asyncio.wait_for(told(), TIMEOUT_S))


async def ended(*work: Coroutine[Any, Any, str] | asyncio.Task[str]) -> list[str]:
    return list(await asyncio.gather(*work))


def test_each_gets_the_next_as_it_answers() -> None:
    async def story(here: Here) -> None:
        for engine in here.engines[:2]:
            engine.may_answer.clear()
        asked = [asyncio.create_task(here.ask(items=2)) for _ in range(12)]
        await here.engines[2].has_had(8)
        assert here.given == [2, 2, 8], "no more than a window, while the others wait for its answers"
        assert here.engine.window_items(MODEL) == 3 * WINDOW
        for engine in here.engines:
            engine.may_answer.set()
        assert sorted(await ended(*asked)) == ["local"] * 2 + ["m1"] * 2 + ["m2"] * 8
        assert here.shared == 10

    run(story)


def test_the_fleet_is_asked_once_for_all_that_happens_at_a_moment_and_again_for_the_next() -> None:
    async def story(here: Here) -> None:
        for _ in range(10):
            assert here.engine.window_items(MODEL) == 3 * WINDOW
        assert here.fleet.looks.qsize() == 1
        here.fleet.members[0].is_out = True
        await asyncio.sleep(0)
        assert here.engine.window_items(MODEL) == 2 * WINDOW

    run(story)


def test_without_members_nothing_waits_here() -> None:
    async def story(here: Here) -> None:
        here.local.may_answer.clear()
        asked = [asyncio.create_task(here.ask(items=WINDOW)) for _ in range(3)]
        await here.local.has_had(3)
        assert here.engine.window_items(MODEL) == WINDOW
        here.local.may_answer.set()
        assert await ended(*asked) == ["local"] * 3
        assert here.shared == 0

    run(story, members=0)


def test_other_models_and_whole_requests_are_asked_of_controls_own_gateway() -> None:
    async def story(here: Here) -> None:
        for digest in (None, "sha256:other"):
            here.local.digest = digest or MODEL.digest
            assert [await here.ask(digest=digest) for _ in range(3)] == ["local"] * 3
        other = MODEL.model_copy(update={"digest": "sha256:other"})
        assert here.engine.window_items(other) == WINDOW
        await here.engine.ask(
            AskRequest(model=MODEL.id, digest=MODEL.digest, items=[AskItem(path="/generate", body={})])
        )
        assert (len(here.local.asks), here.given) == (1, [6, 0, 0])

    run(story)


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(
    "trouble", [GatewayUnavailable("gone"), ModelNotServed("other model"), WrongWeights("other digest")], ids=str
)
def test_what_one_does_not_answer_another_does(who: int, trouble: Exception) -> None:
    """The one that failed is left alone for a while, the longer the more often."""

    async def story(here: Here) -> None:
        bad, good = here.engines[who], here.engines[1 - who]
        bad.trouble = trouble
        for rest_s in (1.0, 2.0, 4.0):
            before = len(bad.requests)
            answers = await ended(*(here.ask() for _ in range(4)))
            assert answers == [good.name] * 4
            tried = len(bad.requests)
            assert tried > before
            assert here.engine.window_items(MODEL) == WINDOW
            assert await here.ask() == good.name
            here.now_s += rest_s - 0.1
            assert await here.ask() == good.name
            assert len(bad.requests) == tried
            here.now_s += 0.2
        bad.trouble = None
        assert bad.name in await ended(*(here.ask() for _ in range(2)))

    run(story, members=1)


def test_an_answer_of_other_weights_is_thrown_away() -> None:
    async def story(here: Here) -> None:
        here.engines[1].digest = "sha256:other"
        assert await ended(*(here.ask() for _ in range(2))) == ["local"] * 2
        assert here.shared == 0
        here.local.digest = "sha256:other"
        with pytest.raises(WrongWeights, match=r"asked sha256:aa, answered by sha256:other"):
            await here.ask()

    run(story, members=1)


def test_what_control_itself_cannot_ask_is_its_error_once_nobody_else_is_left() -> None:
    async def story(here: Here) -> None:
        here.local.trouble = ModelNotServed("it has left")
        assert {await here.ask() for _ in range(4)} == {"m1", "m2"}
        for member in here.fleet.members:
            member.is_out = True
        with pytest.raises(ModelNotServed, match="it has left"):
            await here.ask()
        here.local.trouble = None
        assert await here.ask() == "local", "it is the last resort, also while it is left alone"

    run(story)


def test_a_model_that_control_has_lost_says_nothing_of_its_others() -> None:
    async def story(here: Here) -> None:
        here.local.trouble = ModelNotServed("the judge has left")
        with pytest.raises(ModelNotServed):
            await here.ask(digest="sha256:judge")
        here.local.trouble = None
        assert sorted(await ended(*(here.ask() for _ in range(3)))) == ["local", "m1", "m2"]

    run(story)


def test_an_error_of_the_request_is_no_matter_of_who_answers() -> None:
    async def story(here: Here) -> None:
        here.local.trouble = Invalid("a field")
        with pytest.raises(Invalid, match="a field"):
            await here.ask()
        assert here.given == [1, 0, 0]

    run(story)


def test_items_that_kill_engines_do_not_go_through_the_whole_fleet() -> None:
    async def story(here: Here) -> None:
        for engine in here.engines:
            engine.trouble = GatewayUnavailable("the engine died")
        for _ in range(2):
            with pytest.raises(GatewayUnavailable, match="the engine died"):
                await here.ask()
        assert sum(here.given[1:]) == 4, "two members for each of two requests"

    run(story, members=8)


def test_an_answer_of_a_member_that_is_lost_is_not_waited_for() -> None:
    async def story(here: Here) -> None:
        lost = here.fleet.members[0]
        lost.engine.may_answer.clear()
        asked = [asyncio.create_task(here.ask()) for _ in range(2)]
        await lost.engine.has_had(1)
        lost.is_out = True
        assert await ended(*asked) == ["local"] * 2
        assert here.given == [2, 1]

    run(story, members=1)


def test_what_a_member_left_behind_waits_for_room_with_the_others() -> None:
    async def story(here: Here) -> None:
        for engine in here.engines:
            engine.may_answer.clear()
        asked = [asyncio.create_task(here.ask(items=WINDOW)) for _ in range(3)]
        for engine in here.engines:
            await engine.has_had(1)
        lost, other = here.fleet.members
        lost.engine.trouble = GatewayUnavailable("killed")
        lost.engine.may_answer.set()
        await here.fleet.is_looked_at(3)
        assert here.given == [1, 1, 1]
        other.engine.may_answer.set()
        await other.engine.has_had(2)
        here.local.may_answer.set()
        assert sorted(await ended(*asked)) == ["local", "m2", "m2"]

    run(story)
