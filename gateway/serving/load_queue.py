"""Models that requests and jobs want loaded; those who ask for the same one share its load."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gateway.errors import LOAD_FAILURES, EngineStartFailed, GatewayError, LoadFailed, NoRoom, NotLoaded, Unserved
from gateway.metrics import LOAD_WAIT, RESIDENT_LOADS, model_label
from gateway.serving.adapter import Adapter, surplus
from gateway.serving.failed_loads import FailedLoads
from gateway.serving.ledger import DRAIN_S, Ledger
from gateway.serving.operations import Claim, Shared, ids
from gateway.serving.pending_load import LoadKey, PendingLoad, Wait, key_of
from gateway.serving.places import Places, now_s
from gateway.serving.slot import Loaded, Slot, StartEngine
from gateway.serving.switching.target import Target
from gateway.serving.tickets import Ticket
from gateway.serving.turns import in_order
from stepserve.contract import Proof

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadQueue:
    """One engine at a time, in the order of `turns`. Only the pool's loop calls this."""

    ledger: Ledger
    failed: FailedLoads
    start_engine: StartEngine
    places: Places
    wait_s: float
    _loads: dict[LoadKey, PendingLoad] = field(default_factory=dict, init=False)

    @property
    def waits(self) -> bool:
        """Whether something waits that no event may tell the end of: a slot that becomes idle, memory."""
        return any(not load.started for load in self._loads.values())

    def ask(self, ticket: Ticket) -> None:
        asked = ticket.request
        key = key_of(asked.model)
        load = self._loads.get(key)
        if load is None:
            load = self._loads[key] = PendingLoad(Target(asked.model, asked.reference, asked.base_reference))
        load.tickets.append(ticket)
        self.places.note_request(load.target.host, ticket.since_s)

    def unload(self, name: str) -> None:
        """Whoever waits for that model is told; what is loaded of it is not kept."""
        for load in [each for each in self._loads.values() if each.target.model.id == name]:
            load.unwanted = True
            self._end(load, Unserved(f"`{name}` was unloaded meanwhile; ask again.", 1.0))

    def close(self) -> None:
        """Nobody waits any more."""
        for load in [*self._loads.values()]:
            self._end(load, Unserved("The server is stopping.", 5.0))

    def advance(self, reserved: set[Claim]) -> None:
        """Starts what can be started, and settles what is settled. `reserved`: what runs, or is to run before."""
        queue = self._in_order()
        if not any(self._needs_place(load) for load in queue):
            self.places.open_all()
        first = True
        for n, load in enumerate(queue):
            try:
                wait = self._step(load, reserved, queue[n + 1 :], first)
            except EngineStartFailed as error:
                self._fail(load, error)
            except GatewayError as error:
                self._end(load, error)
            except Exception as error:  # a defect costs this load, and not the pool
                log.exception("the load of %s crashed", load.target.model.id)
                self._end(load, LoadFailed(load.target.model.id, f"{type(error).__name__}: {error}", 5.0))
            else:
                if wait is not None:
                    self._dismiss_the_late(load, wait)
                first = first and (wait is None or not wait.first)
        self.places.expire()

    def _in_order(self) -> list[PendingLoad]:
        """Those that have not begun, as they take turns; those that nobody waits for any more are gone."""
        for load in [each for each in self._loads.values() if not each.started]:
            if not load.forget_the_gone():
                self._end(load)
        return [each.load for each in in_order([load.waiting() for load in self._loads.values() if not load.started])]

    def _needs_place(self, load: PendingLoad) -> bool:
        return load.starts and self.ledger.loaded.hosting(load.target.host) is None

    def _dismiss_the_late(self, load: PendingLoad, wait: Wait) -> None:
        """Whoever has waited for as long as one may is told what for."""
        late = [ticket for ticket in load.tickets if now_s() >= ticket.since_s + self.wait_s]
        load.tickets = [ticket for ticket in load.tickets if ticket not in late]
        for ticket in late:
            reason = f"`{load.target.model.id}` was not loaded within {self.wait_s:g} s: {wait.obstacle}."
            ticket.fail(NoRoom(reason, 5.0))
        if not load.tickets:
            self._end(load)

    def _step(self, load: PendingLoad, reserved: set[Claim], behind: Sequence[PendingLoad], first: bool) -> Wait | None:
        """One step towards it; None when it is there, or under way. Raises GatewayError."""
        target, loaded = load.target, self.ledger.loaded
        present = self._present(target, reserved, first)
        if present is not None:
            self._end(load, served=present)
            return None
        claims = ids(target.ids)
        if claims & reserved:
            return Wait("it is being loaded, or a switch to it or from it runs", first=False)
        self._refuse_what_failed(target)
        if not load.starts:
            raise NotLoaded(target.model.id)
        self._refuse_a_second(target)
        host = loaded.hosting(target.host)
        if host is not None and target.model.base is not None:
            return self._attach(load, host, claims, reserved)
        if host is not None and host is loaded.active and host in reserved:
            return Wait("something is done with its engine", first=False)
        if not first:
            if not load.patient and Shared.ROOM not in reserved:
                raise NoRoom(f"`{target.model.id}` is not loaded and cannot be now: requests for others wait.", 5.0)
            return Wait("another model is loaded first")
        return self._load(load, claims, reserved, [each for each in behind if self._needs_place(each)])

    def _load(
        self, load: PendingLoad, claims: frozenset[Claim], reserved: set[Claim], behind: Sequence[PendingLoad]
    ) -> Wait | None:
        """In an engine of its own, for which others may have to leave first. Raises NoRoom."""
        target = load.target
        if Shared.ROOM in reserved:
            return Wait("another engine starts")
        tried = self.places.tried_model
        old = self.ledger.loaded.other(target.host.id)
        if old is not None and tried is not None and old is tried.host:
            raise NoRoom(
                f"`{target.model.id}` cannot be loaded otherwise now: a canary of `{tried.model.id}` runs.", 30.0
            )
        if old is not None:  # other content under the same id
            self.ledger.retire(old, DRAIN_S)
        wait = self.places.make(load, behind)
        if wait is None:
            claims |= {Shared.ROOM}
            self._start(load, target.load(self.start_engine), claims, self._loaded, reserved)
        return wait

    def _present(self, target: Target, reserved: set[Claim], first: bool) -> Loaded | None:
        loaded = self.ledger.loaded
        host = loaded.hosting(target.host)
        if host is None or (host is loaded.active and host in reserved):  # a switch may be about to take it away
            return None
        host.closed = host.closed and not first  # whoever is first, it was closed for somebody who came later, or left
        if host.closed:
            return None
        if target.model.base is not None:
            adapter = host.adapters.get(target.model.id)
            return adapter if adapter is not None and adapter.model.digest == target.model.digest else None
        return host if host is loaded.active or host.model.is_loaded_as(target.model) else None

    def _refuse_what_failed(self, target: Target) -> None:
        """Raises LoadFailed while an earlier failure of the same content cools down."""
        failure = self.failed.cooling(target.model)
        if failure is not None:
            raise LoadFailed(target.model.id, failure.error, failure.retry_in_s)

    def _refuse_a_second(self, target: Target) -> None:
        """Requests that name a model and those for the active one go to the same engine. Raises NoRoom."""
        loaded = self.ledger.loaded
        active = (
            {each.id: each.digest for each in (loaded.serving.model, loaded.serving.host.model)}
            if (loaded.serving is not None)
            else {}
        )
        for model in (target.model, target.host):
            if active.get(model.id, model.digest) != model.digest:
                raise NoRoom(f"`{model.id}` is active with other content, which only a switch replaces.", 5.0)

    def _attach(self, load: PendingLoad, host: Slot, claims: frozenset[Claim], reserved: set[Claim]) -> Wait | None:
        if host in reserved:
            return Wait("its base is being changed", first=False)
        if host.closed:
            return Wait("it is the turn of another model", first=False)
        leaving = surplus(host, load.target.model.id, self.ledger.loaded.serving, self.places.tried_model)
        if leaving is not None:
            del host.adapters[leaving.model.id]
        self._start(load, _mount(load.target, host, leaving), claims | {host}, self._attached, reserved)
        return None

    def _start(
        self,
        load: PendingLoad,
        work: Coroutine[Any, Any, tuple[Loaded, Proof]],
        claims: frozenset[Claim],
        finish: Callable[[PendingLoad, asyncio.Task[tuple[Loaded, Proof]]], None],
        reserved: set[Claim],
    ) -> None:
        load.started = True
        reserved |= claims
        self.ledger.operations.start(f"load {load.target.model.id}", work, claims, partial(finish, load))

    def _loaded(self, load: PendingLoad, task: asyncio.Task[tuple[Loaded, Proof]]) -> None:
        served = self._result(load, task)
        if served is None:
            RESIDENT_LOADS.labels("failed", model_label(load.target.host.id)).inc()
            return
        RESIDENT_LOADS.labels("loaded", model_label(load.target.host.id)).inc()
        self.ledger.keep(served)
        self.places.note_load(served.host)
        self.places.keep_alives.register(served.host.model.id, load.keep_alive_s)
        log.info("%s is loaded in addition to the active model (%.1f s)", served.model.id, served.host.load_duration_s)
        if load.unwanted:
            self.ledger.retire(served.host, 0.0)
        self._end(load, served=served)

    def _attached(self, load: PendingLoad, task: asyncio.Task[tuple[Loaded, Proof]]) -> None:
        gone = Unserved(f"The engine of `{load.target.host.id}` is gone again; ask again.", 1.0)
        if not task.cancelled() and task.exception() and self.ledger.loaded.hosting(load.target.host) is None:
            self._end(load, gone)  # the base died, which says nothing about the adapter
            return
        served = self._result(load, task)
        if served is None:
            return
        assert isinstance(served, Adapter)
        if load.unwanted or served.host not in self.ledger.loaded.hosts:
            self.ledger.detach(served)
            self._end(load, gone)
            return
        self.ledger.mount(served)
        self._end(load, served=served)

    def _result(self, load: PendingLoad, task: asyncio.Task[tuple[Loaded, Proof]]) -> Loaded | None:
        """None when there is none, which all have been told then."""
        if task.cancelled():
            self._end(load, Unserved("The server is stopping.", 5.0))
            return None
        error = task.exception()
        if error is None:
            self.failed.forget(load.target.model.id)
            return task.result()[0]
        if not isinstance(error, LOAD_FAILURES):
            log.error("the load of %s crashed", load.target.model.id, exc_info=error)
        self._fail(load, error)
        return None

    def _fail(self, load: PendingLoad, error: BaseException) -> None:
        model = load.target.model
        self.failed.note(model, str(error))
        failure = self.failed.cooling(model)
        self._end(load, LoadFailed(model.id, str(error), failure.retry_in_s if failure else 0.0))

    def _end(self, load: PendingLoad, error: GatewayError | None = None, served: Loaded | None = None) -> None:
        """Tells everybody who waits."""
        model = load.target.model
        key = key_of(model)
        if self._loads.get(key) is load:
            del self._loads[key]
        waiting = [ticket for ticket in load.tickets if not ticket.ended.done()]
        load.tickets = []
        for ticket in waiting:
            if error is not None:
                ticket.fail(error)
            else:
                ticket.ended.set_result(None)
                LOAD_WAIT.labels(model_label(model.id)).observe(now_s() - ticket.since_s)
        if served is not None:
            self.ledger.promise(served.host, waiting)


async def _mount(target: Target, host: Slot, leaving: Adapter[Slot] | None) -> tuple[Loaded, Proof]:
    if leaving is not None:
        await leaving.front.detach()
    return await target.mount(host)
