"""The engine of an attempt at a job: control's own gateway, and every member of the fleet that serves the same model.

Work is pulled. A gateway may have a window of items, and whichever has answered some gets the next, so that each has
its share by how fast it is. A piece of work is given to another gateway only after the one before has failed, so each
is answered once.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from control.errors import Conflict, GatewayUnavailable, Invalid, ModelNotServed, ServiceError, WrongWeights
from control.tasks import is_set_within
from stepserve.contract import AskRequest, AskResult, BatchRequest, BatchResult, ModelRef
from stepserve.fleet import LOCAL_MEMBER
from stepserve.jobs.patience import Patience
from stepserve.jobs.ports import BatchEngine

log = logging.getLogger(__name__)

MAX_FAILURES = 2  # of members with the same items: what kills engines must not go through a whole fleet
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 60.0
Content = tuple[str, str | None]  # a model's id and digest; None: whatever control's own gateway has under that id
_MOVED = (ModelNotServed, WrongWeights, Conflict)  # it serves something else, which is no fault of the items


class JobGateway(Protocol):
    """A member as jobs ask it. Two of the same run of the same member are equal."""

    @property
    def id(self) -> str: ...

    @property
    def engine(self) -> BatchEngine: ...

    def still_answers(self) -> bool:
        """Whether an answer that it owes is worth waiting for. Costs little."""
        ...


class JobFleet(Protocol):
    @property
    def has_members(self) -> bool:
        """Whether there are more gateways than control's own, in whatever state."""
        ...

    def serving(self, model_id: str, digest: str) -> Sequence[JobGateway]:
        """The members that take new work for that content now. Costs little."""
        ...


@dataclass(frozen=True, slots=True)
class _Local:
    """Control's own gateway."""

    engine: BatchEngine
    id: str = LOCAL_MEMBER

    def still_answers(self) -> bool:
        return True


@dataclass(slots=True)
class _Load:
    """What a gateway has of this job for one model. `given`: requests until now. It is left alone until
    `rests_until_s`.
    """

    items: int = 0
    given: int = 0
    rests_until_s: float = float("-inf")
    next_rest_s: float = _FIRST_REST_S

    @property
    def work(self) -> tuple[int, int]:
        return self.items, self.given

    def rests(self, now_s: float) -> bool:
        return now_s < self.rests_until_s

    def fail(self, now_s: float) -> float | None:
        """How long it is left alone from now on; None: it is already. All that a gateway had when it died fails at
        once, which is one failure.
        """
        if self.rests(now_s):
            return None
        rest_s = self.next_rest_s
        self.rests_until_s, self.next_rest_s = now_s + rest_s, min(2 * rest_s, _LONGEST_REST_S)
        return rest_s


_Candidate = tuple[JobGateway, _Load]


@dataclass(slots=True)
class _Piece:
    """A request, and how many members have failed with it."""

    request: BatchRequest
    failures: int = 0

    @property
    def content(self) -> Content:
        return self.request.model, self.request.digest


@dataclass(slots=True, kw_only=True)
class SpreadEngine:
    """Implements stepserve.jobs.ports.BatchEngine for one attempt. Without members it is `local` with patience.

    `own_window_items`: of each gateway and model. `on_shared` is called when a member has answered. `look_every_s`: how
    soon it is seen that a member is lost, or that another is there.
    """

    local: BatchEngine
    fleet: JobFleet
    own_window_items: int
    on_shared: Callable[[], None]
    look_every_s: float = 1.0
    patience: Patience = field(default_factory=Patience)
    clock_s: Callable[[], float] = time.monotonic
    _here: _Local = field(init=False)
    _loads: dict[tuple[JobGateway, Content], _Load] = field(init=False, default_factory=dict)
    _room: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _seen: dict[Content, list[_Candidate]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._here = _Local(self.local)

    def window_items(self, model: ModelRef) -> int:
        """As JobContext.window_items."""
        content = (model.id, model.digest)
        others = len(self._members(content))
        rests = others > 0 and self._load(self._here, content).rests(self.clock_s())
        return self.own_window_items * (others + (not rests))

    async def generate(self, request: BatchRequest) -> BatchResult:
        return await self.patience(self._once, _Piece(request))

    async def ask(self, request: AskRequest) -> AskResult:
        """By control's own gateway alone, whose aliases and filters whole requests go through."""
        return await self.patience(self.local.ask, request)

    async def _once(self, piece: _Piece) -> BatchResult:
        """Asks until one answers, each gateway once. Raises what control's own has raised, when no other is left."""
        tried: set[JobGateway] = set()
        reason: ServiceError | None = None
        while (gateway := await self._with_room(piece, tried)) is not None:
            try:
                return await self._ask(gateway, piece)
            except ServiceError as error:
                if gateway is self._here:
                    if isinstance(error, Invalid):  # it is so wherever it is asked
                        raise
                    reason = error
                elif not isinstance(error, _MOVED):
                    piece.failures += 1
                tried.add(gateway)
        assert reason is not None, "control's own gateway has been asked"
        raise reason

    async def _with_room(self, piece: _Piece, tried: set[JobGateway]) -> JobGateway | None:
        """Who is to be asked next, the one that has least to do, once it has room. None: all have been."""
        while True:
            self._room.clear()
            candidates = self._candidates(piece, tried)
            if not candidates:
                return None
            gateway, load = min(candidates, key=_work)
            fits = load.items + len(piece.request.items) <= self.own_window_items
            if fits or not load.items or not self.fleet.has_members:
                return gateway
            await is_set_within(self._room, self.look_every_s)

    def _candidates(self, piece: _Piece, tried: set[JobGateway]) -> list[_Candidate]:
        """Control's own gateway is the last resort, also while it rests."""
        found: list[_Candidate] = []
        if piece.failures < MAX_FAILURES:
            found = self._members(piece.content)
            if tried:
                found = [each for each in found if each[0] not in tried]
        if self._here not in tried:
            load = self._load(self._here, piece.content)
            if not found or not load.rests(self.clock_s()):
                found.insert(0, (self._here, load))
        return found

    def _members(self, content: Content) -> list[_Candidate]:
        """Those that serve it and are not left alone now."""
        if content[1] is None or not self.fleet.has_members:
            return []
        now_s = self.clock_s()
        return [each for each in self._serving(content) if not each[1].rests(now_s)]

    def _serving(self, content: Content) -> list[_Candidate]:
        """As the fleet says, asked once in a turn of the event loop: of many members that is most of what a request
        costs.
        """
        known = self._seen.get(content)
        if known is None:
            model_id, digest = content
            assert digest is not None
            if not self._seen:
                asyncio.get_running_loop().call_soon(self._seen.clear)
            known = [(each, self._load(each, content)) for each in self.fleet.serving(model_id, digest)]
            self._seen[content] = known
        return known

    async def _ask(self, gateway: JobGateway, piece: _Piece) -> BatchResult:
        """Raises what the gateway's engine raises, and GatewayUnavailable for a member that is out meanwhile."""
        request, load = piece.request, self._load(gateway, piece.content)
        load.items += len(request.items)
        load.given += 1
        try:
            if gateway is self._here:
                result = await gateway.engine.generate(request)
            else:
                result = await self._ask_member(gateway, request)
            if request.digest is not None and result.digest != request.digest:
                raise WrongWeights(f"{request.model}: asked {request.digest}, answered by {result.digest}")
        except ServiceError as error:
            rest_s = load.fail(self.clock_s())
            if rest_s is not None and self.fleet.has_members:
                log.warning("%s gets nothing of this job for %g s: %s", gateway.id, rest_s, error)
            raise
        finally:
            load.items -= len(request.items)
            self._room.set()
        load.next_rest_s = _FIRST_REST_S
        if gateway is not self._here:
            self.on_shared()
        return result

    async def _ask_member(self, gateway: JobGateway, request: BatchRequest) -> BatchResult:
        asking = asyncio.create_task(gateway.engine.generate(request), name=f"items for {gateway.id}")
        try:
            while not (await asyncio.wait((asking,), timeout=self.look_every_s))[0]:
                if not gateway.still_answers():
                    raise GatewayUnavailable("it is lost, or kept out")
            return asking.result()
        finally:
            asking.cancel()

    def _load(self, gateway: JobGateway, content: Content) -> _Load:
        load = self._loads.get((gateway, content))
        if load is None:
            load = self._loads[gateway, content] = _Load()
        return load


def _work(candidate: _Candidate) -> tuple[int, int]:
    return candidate[1].work
