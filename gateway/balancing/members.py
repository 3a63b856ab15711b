"""The members of the fleet: who is there by control's last view, and which of them is asked next."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any

from gateway.balancing.asked import Asked
from gateway.balancing.choice import Sessions, least_busy, within_bound
from gateway.balancing.member import Member, says_same
from gateway.balancing.metrics import MemberLabels
from gateway.upstream.errors import UpstreamUnavailable
from stepserve.contract import ACTIVE_ALIAS
from stepserve.fleet import LOCAL_MEMBER, Committed, FleetMember, FleetView

log = logging.getLogger(__name__)

_TAKES_PART = frozenset({"ready", "switching"})


@dataclass(frozen=True, slots=True)
class Serving:
    """What this gateway's own active slot answers with."""

    model: str
    digest: str
    version: int


@dataclass(slots=True)
class Members:
    """`here` says what this gateway serves now; None: nothing, or requests are held there.

    `balances` is False while no other member takes part: then this gateway answers everything, as if there were no
    fleet. The last view holds until another comes; members that are not in it are gone, and what they have of a
    request they may finish.
    """

    here: Callable[[], Serving | None]
    clock: Callable[[], float] = time.monotonic
    labels: MemberLabels = field(default_factory=MemberLabels)
    balances: bool = False
    committed: Committed | None = None
    all: dict[str, Member] = field(default_factory=dict)
    _ready: dict[str, list[Member]] = field(default_factory=dict)  # by model, without this gateway
    _sessions: Sessions = field(default_factory=Sessions)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, view: FleetView) -> None:
        """What control says from now on. A member that nothing can be sent to, or whose id is there twice, is left
        out.
        """
        before = {name: member.entry for name, member in self.all.items()}
        for name in before.keys() - {entry.id for entry in view.gateways}:
            self._drop(name)
        seen: set[str] = set()
        for entry in view.gateways:
            if entry.id in seen:
                log.error("fleet: control names two members %s; the second is left out", entry.id)
                continue
            seen.add(entry.id)
            self._take(entry)
        same = self.committed == view.committed and before.keys() == self.all.keys()
        same = same and all(says_same(entry, self.all[name].entry) for name, entry in before.items())
        self.committed = view.committed
        others = (member for name, member in self.all.items() if name != LOCAL_MEMBER)
        self.balances = view.committed is not None and any(each.entry.state in _TAKES_PART for each in others)
        if not same:
            self._index()
            self._announce()

    @property
    def is_fleet(self) -> bool:
        """Whether weights that are pushed here are for others too: members that are there, or away, or still to come to
        a version that was committed.
        """
        versioned = self.committed is not None and self.committed.version > 0
        return versioned or any(name != LOCAL_MEMBER for name in self.all)

    def committed_model(self, name: str | None) -> str | None:
        """The model that the fleet answers with to this name; None where it is another's."""
        if self.committed is None:
            return None
        return self.committed.model if not name or name in (ACTIVE_ALIAS, self.committed.model) else None

    def choose(self, asked: Asked, tried: Collection[Member]) -> Member | None:
        """Who is to be asked next; None: nobody serves it now, or all who do were tried.

        Raises UpstreamUnavailable where all who serve it are left alone after failures.
        """
        now_s = self.clock()
        serving = self._serving(asked)
        if tried:
            serving = [each for each in serving if each not in tried]
        free = [each for each in serving if not (each.breaker.failures or each.doubted) or each.admits(now_s)]
        if not free:
            if serving and not tried and not any(each.is_doubted(now_s) for each in serving):
                wait_s = min(each.breaker.retry_in_s(now_s) for each in serving)
                names = ", ".join(each.entry.id for each in serving[:5])
                raise UpstreamUnavailable(f"No member of the fleet answers at present ({names}).", max(1.0, wait_s))
            return None
        if len(free) == 1:
            return free[0]
        if asked.session is not None and not tried:  # one failure moves a request, not its session
            return self._sessions.choose(free, asked.session, asked.tokens)
        key = asked.prefix if asked.session is None else asked.session
        return least_busy(free) if key is None else within_bound(free, key, asked.tokens)

    def is_past(self, asked: Asked) -> bool:
        """Whether all that serve the model have gone beyond the version that is demanded."""
        versions = self._versions(asked.model)
        demand = asked.demand
        return demand is not None and bool(versions) and all(demand.is_past(number) for number in versions)

    def newest(self, model: str) -> int:
        """The highest version of the model's weights that any member serves."""
        return max(self._versions(model), default=0)

    def states(self) -> str:
        """Each member's, in words."""
        said = [f"{name}: {each.entry.state}" for name, each in self.all.items()]
        return ", ".join(said[:10]) + (f" and {len(said) - 10} more" if len(said) > 10 else "")

    def changed(self) -> Coroutine[Any, Any, object]:
        """Ends when control says something else than it does now, at the call."""
        return self._changed.wait()

    def _serving(self, asked: Asked) -> list[Member]:
        """Those that control says are ready and serve it, whether or not they have failed of late."""
        found = [] if asked.only_here else self._ready.get(asked.model, [])
        local = self.all.get(LOCAL_MEMBER)
        if local is not None and local.entry.state == "ready" and self._is_served_here(asked.model, local.entry.digest):
            found = [*found, local]
        demand = asked.demand
        return found if demand is None else [each for each in found if demand.is_met(self._version_of(each))]

    def _is_served_here(self, model: str, digest: str | None) -> bool:
        here = self.here()
        return here is not None and (here.model, here.digest) == (model, digest)

    def _version_of(self, member: Member) -> int:
        """What this gateway serves itself it knows better than control."""
        here = self.here() if member.replica is None else None
        return member.entry.version if here is None else here.version

    def _versions(self, model: str) -> list[int]:
        all_ = (each for each in self.all.values() if each.entry.model == model and each.entry.state in _TAKES_PART)
        return [self._version_of(each) for each in all_]

    def _take(self, entry: FleetMember) -> None:
        known = self.all.get(entry.id)
        if known is not None and known.entry.url == entry.url:
            known.entry = entry
            return
        self._drop(entry.id)
        if entry.url is None and entry.id != LOCAL_MEMBER:
            log.error("fleet: %s has no URL and is left out", entry.id)
            return
        try:
            self.all[entry.id] = Member.of(entry, self.labels.take(entry.id))
        except ValueError as error:
            self.labels.release(entry.id)
            log.error("fleet: %s is left out: %s", entry.id, error)

    def _drop(self, name: str) -> None:
        member = self.all.pop(name, None)
        if member is not None:
            member.left = True
            self.labels.release(name)

    def _index(self) -> None:
        self._ready = {}
        for name, member in self.all.items():
            if name != LOCAL_MEMBER and member.entry.state == "ready" and member.entry.model is not None:
                self._ready.setdefault(member.entry.model, []).append(member)

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
