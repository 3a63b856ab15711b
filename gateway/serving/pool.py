"""The pool: which models are loaded. One loop changes that, an event at a time; everybody else reads snapshots."""

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gateway.errors import CanaryRunning, PushInProgress, SwitchInProgress
from gateway.serving.active_model import Activation, ActiveModel, refuse
from gateway.serving.failed_loads import FailedLoads
from gateway.serving.gate import Gate
from gateway.serving.keep_alive import KeepAlives
from gateway.serving.ledger import Ledger
from gateway.serving.load_queue import LoadQueue
from gateway.serving.loaded_models import LoadedModels
from gateway.serving.memory import Memory
from gateway.serving.operations import Operations
from gateway.serving.pauses import Pause, PauseRequest, Pauses, Resume
from gateway.serving.places import Places, now_s
from gateway.serving.pushes import Push, Pushes, settle
from gateway.serving.slot import Loaded, StartEngine
from gateway.serving.switching.push import Pushed, PushRequest
from gateway.serving.tickets import Ticket
from gateway.serving.watchdog import Watchdog
from gateway.serving.weights.versions import Versions
from stepserve.contract import ActivateRequest, ActivateResult, GatewayState, LoadRequest, ModelRef, SlotState

log = logging.getLogger(__name__)

_DEATH_POLL_S = 0.25
_IDLE_POLL_S = 0.05
_FIRST_RESTART_DELAY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Unload:
    name: str
    forced: bool
    ended: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _KeepAlive:
    """`registered`: what the model is registered with from now on, and not what a client said."""

    name: str
    keep_alive_s: float | None
    registered: bool


class _Look(Enum):
    """Something may be possible that was not: a slot may be evicted, or an operation wants to claim more."""

    LOOK = "look"


_Event = Activation | Push | Pause | Resume | Ticket | _Unload | _KeepAlive | _Look | asyncio.Task[Any]


class Pool:
    """`activate`, `ask_for`, `load` and `unload` put events into a queue, which `run` takes one by one. What takes time
    (engines that start, switches, slots that end) runs as operations, whose ends are events too.

    Together there are never more than `max_loaded` models (None: than there is memory for), but for the moments in
    which a switch has both of its own loaded.
    """

    def __init__(
        self,
        gate: Gate,
        start_engine: StartEngine,
        max_restart_delay_s: float,
        memory: Memory,
        *,
        max_loaded: int | None = 1,
        load_wait_s: float = 300.0,
        turn_wait_s: float = 30.0,
        keep_alive_s: float | None = None,
        cool_down_s: float = 300.0,
        poll_s: float = _DEATH_POLL_S,
        first_delay_s: float = _FIRST_RESTART_DELAY_S,
        watchdog: Watchdog | None = None,
        failed: FailedLoads | None = None,
        versions: Versions | None = None,
        tried: Callable[[], ModelRef | None] = lambda: None,
    ) -> None:
        """`tried`: the candidate of a canary that runs, which stays loaded unless a switch needs its memory.

        `turn_wait_s`: how long a request waits for its model's turn while a loaded one is asked (`turns`).
        """
        self._gate = gate
        self._tried = tried
        self._poll_s = poll_s
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._operations = Operations(self._events.put_nowait, self._look)
        self._ledger = Ledger(self._operations)
        self._failed = failed or FailedLoads(cool_down_s)
        self.versions = versions or Versions()
        self._active = ActiveModel(
            gate, self._ledger, self._failed, start_engine, memory, self.versions, first_delay_s, max_restart_delay_s
        )
        self._pauses = Pauses(gate, self._ledger, self.versions.announce)
        self._pushes = Pushes(gate, self._ledger, self.versions)
        self._keep_alives = KeepAlives(keep_alive_s)
        places = Places(self._ledger, memory, max_loaded, turn_wait_s, self._keep_alives, tried)
        self._loads = LoadQueue(self._ledger, self._failed, start_engine, places, load_wait_s)
        self._memory, self._max_loaded = memory, max_loaded
        self._boot_id = uuid.uuid4().hex
        self._watchdog = watchdog or Watchdog()
        self._moved = asyncio.Event()

    @property
    def loaded(self) -> LoadedModels:
        """What is loaded now; what is loaded later is another value."""
        return self._ledger.loaded

    @property
    def serving(self) -> Loaded | None:
        """The active model while requests pass to it: None during a switch that holds them, and where it is down."""
        serving = self.loaded.serving
        return serving if self._gate.slot is serving else None

    @property
    def switching_to(self) -> str | None:
        """The id of the model that a switch goes to, or is to go to next."""
        activation = self._active.activation
        return activation.request.model.id if activation is not None else None

    @property
    def max_loaded(self) -> int:
        """How many models can be loaded together; where memory alone limits that, further ones like the active one."""
        loaded = self.loaded
        if self._max_loaded is not None:
            return self._max_loaded
        more = self._memory.more(loaded.active.model) if loaded.active is not None else 0
        return max(1, len(loaded.slots) + more)

    def snapshot(self) -> GatewayState:
        return GatewayState(
            boot_id=self._boot_id,
            pid=os.getpid(),
            active=self._active.wanted.model if self._active.wanted is not None else None,
            switching_to=self.switching_to,
            slots=list(self._states()),
            held=self._gate.held + self.versions.waiting,
            failed_loads=self._failed.snapshot(),
            deaths=list(self._ledger.deaths),
            paused=self.is_paused,
        )

    def _states(self) -> Iterator[SlotState]:
        """Every slot's and, after it, those of its adapters."""
        loaded = self.loaded
        for slot in loaded.slots:
            yield slot.state(active=slot is loaded.serving)
            for adapter in slot.adapters.values():
                yield adapter.state(active=adapter is loaded.serving)

    async def activate(self, request: ActivateRequest) -> ActivateResult:
        """Switches to a model and says how it ended; a failed candidate is a result, not an exception.

        Raises SwitchInProgress while another switch runs, PushInProgress, ModelPaused, MethodImpossible,
        EngineReloadFailed when the switch crashed.
        """
        ended: asyncio.Future[ActivateResult] = asyncio.get_running_loop().create_future()
        self._events.put_nowait(Activation(request, ended))
        return await asyncio.shield(ended)

    async def push(self, request: PushRequest) -> Pushed:
        """Weights into the active model; a push that failed and was taken back is a result, not an exception.

        From here on the weights are the pool's, which closes them when they are of no use any more. Raises
        PushInProgress, SwitchInProgress, PushRefused (the model is another by now), Unserved, EngineReloadFailed when
        the push crashed.
        """
        ended: asyncio.Future[Pushed] = asyncio.get_running_loop().create_future()
        self._events.put_nowait(Push(request, ended))
        return await asyncio.shield(ended)

    async def pause(self, request: PauseRequest) -> None:
        """Returns when nobody is answered any more by the active model: new requests wait, as at a switch.

        What is paused already stays so for the new limit. Raises SwitchInProgress, PushInProgress, PushRefused (the
        model is another by now), DrainFailed, Unserved, EngineReloadFailed.
        """
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events.put_nowait(Pause(request, begun))
        await asyncio.shield(begun)

    async def resume(self) -> None:
        """Returns when the active model is not paused any more, also where it was not. Weights that are being put into
        it are waited for.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events.put_nowait(Resume(ended))
        await asyncio.shield(ended)

    @property
    def is_paused(self) -> bool:
        """From when a pause is asked for until requests are answered again."""
        return self._pauses.is_wanted

    @property
    def pushing_to(self) -> str | None:
        """The id of the model that weights are being pushed to."""
        return self._pushes.push.request.model.id if self._pushes.push is not None else None

    def ask_for(self, request: LoadRequest, *, starts: bool = True, since_s: float | None = None) -> Ticket:
        """Has a model loaded, if it is not, for whoever holds the ticket. A switch to it that runs is waited for.

        `starts` false: that is all; where nothing is under way the ticket ends with NotLoaded. `since_s`: since when
        the caller waits, by the event loop's clock; None: from now on.
        """
        ticket = Ticket(request, starts, self._look, now_s() if since_s is None else since_s)
        self._events.put_nowait(ticket)
        return ticket

    async def load(self, request: LoadRequest) -> None:
        """Returns when the model is loaded. A caller that is cancelled stops nobody else's load.

        Raises NoRoom, LoadFailed (also at once, while an earlier failure of the same content cools down), Unserved.
        """
        ticket = self.ask_for(request)
        try:
            await ticket.ended
        finally:
            ticket.close()

    async def unload(self, name: str, *, forced: bool = False) -> None:
        """A model takes no more requests, and its slot ends when those inside are done. Nothing happens to the active
        model, and to one that is about to be.

        Raises CanaryRunning for the candidate of a canary, unless it is `forced`: the model is not registered any more.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events.put_nowait(_Unload(name, forced, ended))
        await ended

    def keep_alive(self, name: str, keep_alive_s: float) -> None:
        """For how long the slot of that id stays when nobody uses it; negative: also when its place is needed.

        Nothing happens where there is none.
        """
        self._events.put_nowait(_KeepAlive(name, keep_alive_s, registered=False))

    def register_keep_alive(self, name: str, keep_alive_s: float | None) -> None:
        """What the model of that id is registered with from now on, loaded or not; None: what the settings say."""
        self._events.put_nowait(_KeepAlive(name, keep_alive_s, registered=True))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when that holds; it is looked at after every event that the pool has taken."""
        while not holds():
            await self._moved.wait()

    async def run(self) -> None:
        """The writer task: takes events until cancelled; then ends every engine."""
        watching = asyncio.create_task(self._memory.watch(), name="memory")
        try:
            while True:
                self._advance()
                event = await self._next_event()
                while event is not None:
                    if isinstance(event, Activation | Ticket):
                        await self._memory.study(event.request.model.base or event.request.model)
                    self._take(event)
                    event = None if self._events.empty() else self._events.get_nowait()
        finally:
            watching.cancel()
            self._watchdog.stop()
            await self._close()

    def _advance(self) -> None:
        """Starts whatever the last events made possible. Earlier things first: what is ending, the active model, the
        loads in their order; each keeps what it waits for from those after it.
        """
        self._operations.grant()
        self._ledger.reap_dead()
        self._pauses.reap_dead()
        reserved = set(self._operations.reserved)
        self._active.advance(reserved)
        reserved |= self._operations.claimed
        self._pauses.advance(reserved, is_pushed_to=self.pushing_to is not None)
        self._pushes.advance(reserved, self._pauses.slot)
        self._loads.advance(reserved)
        self._ledger.advance()
        self._watchdog.look_at(*self.loaded.slots)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _next_event(self) -> _Event | None:
        """None when it is time to look whether an engine died, a slot became idle, or a restart is due."""
        wait_s = min(self._poll_s, _IDLE_POLL_S) if self._loads.waits else self._poll_s
        restart_in_s = self._active.restart_in_s
        if restart_in_s:
            wait_s = min(wait_s, restart_in_s)
        try:
            async with asyncio.timeout(wait_s):
                return await self._events.get()
        except TimeoutError:
            return None

    def _look(self) -> None:
        self._events.put_nowait(_Look.LOOK)

    def _take(self, event: _Event) -> None:
        match event:
            case Activation() | Push() | Pause():
                self._take_change(event)
            case Resume():
                self._pauses.resume(event)
            case Ticket():
                self._loads.ask(event)
            case _Unload():
                self._unload(event)
            case _KeepAlive(name, keep_alive_s, registered=True):
                self._keep_alives.change(name, keep_alive_s)
            case _KeepAlive(name, float(keep_alive_s)):
                self._keep_alives.say(name, keep_alive_s)
            case asyncio.Task():
                self._operations.finish(event)
            case _Look():
                pass

    def _unload(self, event: _Unload) -> None:
        tried = self._tried()
        served = None if tried is None or event.forced else self.loaded.beside(tried.id)
        if served is not None and event.name in {served.model.id, served.host.model.id}:
            if not event.ended.done():
                event.ended.set_exception(CanaryRunning(served.model.id))
            return
        if not self._active.keeps(event.name):
            self._loads.unload(event.name)
            self._ledger.drop(event.name)
        if not event.ended.done():
            event.ended.set_result(None)

    def _take_change(self, event: Activation | Push | Pause) -> None:
        """Of the active model: one at a time, but for a push into what is paused."""
        switching, pushing = self.switching_to, self.pushing_to
        push_runs = PushInProgress(pushing) if pushing is not None else None
        switch_runs = SwitchInProgress(switching) if switching is not None else None
        match event:
            case Activation() if (obstacle := push_runs or self._pauses.obstacle) is not None:
                refuse(event, obstacle)
            case Activation():
                self._keep_alives.register(event.target.host.id, event.request.keep_alive_s)
                self._active.ask(event)
            case Push() if switch_runs is not None:
                settle(event, switch_runs)
            case Push():
                self._pushes.ask(event)
            case Pause() if (other := switch_runs or push_runs) is not None:
                event.begun.set_exception(other)
            case Pause():
                self._pauses.ask(event)

    async def _close(self) -> None:
        await self._operations.close()
        await asyncio.gather(*(slot.shutdown() for slot in self.loaded.slots), return_exceptions=True)
        self._active.close()
        self._pushes.close()
        self._pauses.close()
        self._loads.close()
        while not self._events.empty():
            event = self._events.get_nowait()
            if isinstance(event, Pause):
                event.begun.cancel()
            elif not isinstance(event, asyncio.Task | _Look | _KeepAlive):
                event.ended.cancel()
