"""Who sends a model's files to whom."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

from control.fleet.members import Member, Members
from control.fleet.sources import FileSources
from stepserve.fleet import FileSource, file_ticket


@dataclass(eq=False)
class Placed:
    id: str

    @property
    def row(self) -> SimpleNamespace:
        return SimpleNamespace(url=f"http://{self.id}", token="t" * 40)


class Fleet:
    """Members, some of which are `lost`."""

    def __init__(self, count: int) -> None:
        self.all = [cast("Member", Placed(f"m{n}")) for n in range(count)]
        self.lost: set[str] = set()

    def find(self, member_id: str) -> Member | None:
        return next((each for each in self.all if each.id == member_id), None)

    def is_lost(self, member: Member) -> bool:
        return member.id in self.lost


async def test_control_sends_to_two_at_once_and_the_others_get_it_from_those() -> None:
    fleet = Fleet(5)
    sources = FileSources(cast("Members", fleet), now_s=lambda: 1000.0)
    async with AsyncExitStack() as stack:
        first = [await stack.enter_async_context(sources.sending("d", each)) for each in fleet.all[:2]]
        assert first == [None, None]
        waiting = asyncio.create_task(stack.enter_async_context(sources.sending("d", fleet.all[2])))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done(), "a third copy from control"
        await stack.aclose()
        sender = await waiting
        assert sender is not None
        assert sender.url in {"http://m0", "http://m1"}
        assert sender.ticket == file_ticket("t" * 40, "d", sender.expires_s)
        other = await stack.enter_async_context(sources.sending("e", fleet.all[0]))
        assert other is None, "nobody has that yet"


async def test_who_is_lost_or_failed_to_get_it_sends_nothing() -> None:
    fleet = Fleet(3)
    sources = FileSources(cast("Members", fleet), now_s=lambda: 1000.0)
    got: list[FileSource | None] = []
    async with sources.sending("d", fleet.all[0]) as source:
        got.append(source)
    try:
        async with sources.sending("d", fleet.all[1]) as source:
            raise RuntimeError("the disk is full")
    except RuntimeError:
        pass
    fleet.lost.add("m0")
    async with sources.sending("d", fleet.all[2]) as source:
        got.append(source)
    assert got == [None, None]


async def test_nobody_waits_for_ever() -> None:
    fleet = Fleet(3)
    sources = FileSources(cast("Members", fleet), longest_wait_s=0.01)
    async with AsyncExitStack() as stack:
        for each in fleet.all[:2]:
            await stack.enter_async_context(sources.sending("d", each))
        assert await stack.enter_async_context(sources.sending("d", fleet.all[2])) is None
