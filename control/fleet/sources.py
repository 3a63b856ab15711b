"""Who sends a model's files to a member: control to a few at once, and then those that have them to all others."""

import time
from asyncio import Event
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from control.fleet.members import Member, Members
from control.tasks import is_set_within
from stepserve.fleet import FileSource, file_ticket

_AT_ONCE = 2  # of each sender, for one model
_MOST_MODELS = 100  # of which it is known who has them
_VALID_S = 24 * 3600
_LONGEST_WAIT_S = 600.0  # for a turn: those before may hang, and a copy more from control costs less than a switch


class FileSources:
    """`now_s` is the wall clock, `longest_wait_s` how long a member waits for a turn."""

    def __init__(
        self, members: Members, longest_wait_s: float = _LONGEST_WAIT_S, now_s: Callable[[], float] = time.time
    ) -> None:
        self._members = members
        self._longest_wait_s = longest_wait_s
        self._now_s = now_s
        self._have: dict[str, set[Member]] = {}
        self._sending: Counter[tuple[str, Member | None]] = Counter()
        self._changed = Event()

    @asynccontextmanager
    async def sending(self, digest: str, to: Member) -> AsyncIterator[FileSource | None]:
        """Waits for a turn; who sends the files then, None: control. Left without an error, the member has them."""
        sender = await self._turn(digest, to)
        self._sending[digest, sender] += 1
        try:
            yield None if sender is None else self._source(digest, sender)
            self._have.setdefault(digest, set()).add(to)
            if len(self._have) > _MOST_MODELS:  # versions that are pushed come and go
                del self._have[next(iter(self._have))]
        finally:
            self._sending[digest, sender] -= 1
            self._sending += Counter()  # without those that send nothing
            self._changed.set()

    async def _turn(self, digest: str, to: Member) -> Member | None:
        waited_until_s = self._now_s() + self._longest_wait_s
        while True:
            self._changed.clear()
            able: list[Member | None] = [*self._able(digest, to), None]
            sender = min(able, key=lambda each: self._sending[digest, each])
            left_s = waited_until_s - self._now_s()
            if self._sending[digest, sender] < _AT_ONCE:
                return sender
            if left_s <= 0:
                return None
            await is_set_within(self._changed, left_s)

    def _able(self, digest: str, to: Member) -> list[Member]:
        have = {each for each in self._have.get(digest, ()) if self._members.find(each.id) is each}
        self._have = {known: there for known, there in self._have.items() if there}
        if digest in self._have:
            self._have[digest] = have
        return [each for each in have if each is not to and not self._members.is_lost(each)]

    def _source(self, digest: str, sender: Member) -> FileSource:
        expires_s = int(self._now_s()) + _VALID_S
        ticket = file_ticket(sender.row.token, digest, expires_s)
        return FileSource(url=sender.row.url, ticket=ticket, expires_s=expires_s)
