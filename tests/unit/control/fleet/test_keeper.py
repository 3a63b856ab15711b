"""The keeper: whom it brings where, when what is committed changes under its hands."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from control.database.fleet_tables import FleetMemberRow
from control.fleet.bringing import Bringer
from control.fleet.keeper import Keeper
from control.fleet.member_book import MemberBook
from control.fleet.members import Member, Members
from control.fleet.rollouts import Rollouts
from control.models.activation_log import ActivationLog, ActiveModel
from stepserve.fleet import Committed
from stepserve.fleet_settings import FleetSettings

A, B = Committed(model="a", digest="sha256:a"), Committed(model="b", digest="sha256:b")


class Book:
    def __init__(self, served: Sequence[Committed | None]) -> None:
        self._rows = [
            FleetMemberRow(
                id=f"m{number}", url="http://127.0.0.1:9", token="t" * 32, boot_id="1", zone="", labels={}, devices=[],
                stepserve_version="0", vllm_version=None, hold=None, reason=None, version=0,
                model=each and each.model, digest=each and each.digest,
            )
            for number, each in enumerate(served)
        ]  # fmt: skip

    async def all(self) -> Sequence[FleetMemberRow]:
        return self._rows


class History:
    """`on_read` runs while the database is being read."""

    def __init__(self, active: Committed) -> None:
        self.now = active
        self.on_read: Callable[[], None] = lambda: None

    async def active(self) -> Any:
        read = self.now
        self.on_read()
        return ActiveModel(read.model, "/", read.digest, datetime.now(UTC))


class Bringing:
    """Notes who was brought where; `work` is what it takes."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self.brought: list[tuple[str, str]] = []
        self._work = work

    async def wanted(self, active: ActiveModel) -> str:
        return active.id

    async def bring(self, member: Member, request: str) -> None:
        self.brought.append((member.id, request))
        await self._work()


async def at_once() -> None: ...


class Fleet:
    """Members that serve this, and a keeper with a clock that stands still."""

    def __init__(self, served: Sequence[Committed | None], active: Committed, work: Callable[[], Awaitable[None]]):
        self.history, self.bringing = History(active), Bringing(work)
        self.members = Members(cast("MemberBook", Book(served)), FleetSettings())
        rollouts = cast("Rollouts", SimpleNamespace(unsettled=False))
        bringer, history = cast("Bringer", self.bringing), cast("ActivationLog", self.history)
        self.keeper = Keeper(self.members, rollouts, bringer, history, at_once, every_s=60.0, clock_s=lambda: 0.0)

    async def idle(self) -> None:
        """Returns once nothing more happens by itself."""
        for _ in range(20):
            await asyncio.sleep(0)


async def test_a_switch_that_ends_while_the_database_is_read_is_not_undone() -> None:
    fleet = Fleet([B, B], A, at_once)
    await fleet.members.open()
    fleet.members.committed = A

    def commit() -> None:
        fleet.members.committed = fleet.history.now = B

    fleet.history.on_read = commit
    await fleet.keeper.look()
    await fleet.idle()
    assert fleet.members.committed == B
    assert fleet.bringing.brought == [], "members that serve what is committed were switched back"
    assert fleet.members.changed.is_set(), "so that it looks again at once"
    fleet.history.on_read = lambda: None
    await fleet.keeper.look()
    assert [fleet.members.state(each)[0] for each in fleet.members.all()] == ["ready", "ready"]
    await fleet.members.close()


async def test_who_waited_for_a_turn_is_not_brought_to_what_was_committed_before() -> None:
    may_end = asyncio.Event()
    fleet = Fleet([None] * 10, A, lambda: cast("Awaitable[None]", may_end.wait()))
    await fleet.members.open()
    await fleet.keeper.look()
    await fleet.idle()
    assert {model for _, model in fleet.bringing.brought} == {"a"}
    early = len(fleet.bringing.brought)
    assert early < 10
    fleet.history.now = B
    await fleet.keeper.look()
    may_end.set()
    await fleet.idle()
    assert len(fleet.bringing.brought) == early, "the others were brought to a model that is not committed any more"
    await fleet.keeper.look()
    await fleet.idle()
    assert sorted(fleet.bringing.brought[early:]) == [(f"m{number}", "b") for number in range(10)]
    await fleet.members.close()


async def test_an_error_that_nobody_foresaw_has_its_pause_too() -> None:
    async def fails() -> None:
        raise KeyError("surprise")

    fleet = Fleet([None], A, fails)
    await fleet.members.open()
    for _ in range(3):
        await fleet.keeper.look()
        await fleet.idle()
    assert fleet.bringing.brought == [("m0", "a")], "asked again and again, without a pause"
    state, reason = fleet.members.state(fleet.members.get("m0"))
    assert (state, reason) == ("joining", "unexpected error: KeyError('surprise')")
    await fleet.members.close()
