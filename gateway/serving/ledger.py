"""Where the set of loaded models changes: the pool's loop alone calls this; everybody else reads `loaded`."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.metrics import ENGINE_DEATHS, model_label
from gateway.serving.adapter import Adapter
from gateway.serving.loaded_models import LoadedModels
from gateway.serving.operations import Claim, Operations
from gateway.serving.slot import Loaded, Slot
from gateway.serving.tickets import Ticket
from gateway.serving.weights.staged import StagedWeights
from stepserve.contract import EngineDeath, ModelRef, Reference, WeightsVersion

log = logging.getLogger(__name__)

DRAIN_S = 300.0
_DEATHS_KEPT = 20


@dataclass(frozen=True, slots=True)
class _Ending:
    """`abort`: whoever is inside is not waited for."""

    slot: Slot
    timeout_s: float
    abort: bool


@dataclass(slots=True)
class Ledger:
    """Every change is one call without an `await`. What has to be done for it afterwards (a slot drained and ended, an
    adapter taken off its engine) is started by `advance`, when nothing else is done with that slot.
    """

    operations: Operations
    loaded: LoadedModels = field(default_factory=LoadedModels)
    deaths: deque[EngineDeath] = field(default_factory=lambda: deque(maxlen=_DEATHS_KEPT), init=False)
    _endings: list[_Ending] = field(default_factory=list, init=False)
    _detachings: list[Adapter[Slot]] = field(default_factory=list, init=False)
    _aborts: list[Slot] = field(default_factory=list, init=False)
    _promised: dict[Slot, list[Ticket]] = field(default_factory=dict, init=False)

    @property
    def taken(self) -> frozenset[Claim]:
        """What may not be evicted: slots that are being changed, and those that somebody waited for and enters next."""
        self._promised = {
            slot: left for slot, tickets in self._promised.items() if (left := [each for each in tickets if each.open])
        }
        return self.operations.claimed.union(self._promised)

    def promise(self, slot: Slot, tickets: Iterable[Ticket]) -> None:
        self._promised.setdefault(slot, []).extend(tickets)

    def serve(self, served: Loaded | None, *, keep: bool = False, timeout_s: float = 0.0, abort: bool = False) -> None:
        """`served` is the active model. The slot of the one before stays loaded or leaves."""
        before, now = self.loaded.active, served.host if served is not None else None
        self.loaded = self.loaded.serves(served, keep=keep)
        if served is not None:
            served.host.phase = "ready"
            served.host.closed = False
        if isinstance(served, Adapter):
            self.mount(served)
        if before is None or before is now:
            return
        if keep:
            before.use.last_s = asyncio.get_running_loop().time()  # until now it was used, however few asked it
            self._aborts += [before] if abort else []
        elif before.phase == "stopped":  # by the switch itself
            self.loaded = self.loaded.left(before)
        else:
            self._end(before, timeout_s, abort=abort or before.dead)

    def become(
        self,
        slot: Slot,
        model: ModelRef,
        reference: Reference | None,
        version: WeightsVersion | None = None,
        weights: StagedWeights | None = None,
    ) -> None:
        """The slot's engine has that model's weights; adapters of others go."""
        adapters = [*slot.adapters.values()]
        slot.become(model, reference, version, weights)
        self._detachings += [each for each in adapters if slot.adapters.get(each.model.id) is not each]

    def keep(self, served: Loaded) -> None:
        """One more model is loaded; an adapter together with its base."""
        self.loaded = self.loaded.keeps(served.host)
        if isinstance(served, Adapter):
            self.mount(served)

    def mount(self, adapter: Adapter[Slot]) -> None:
        """The adapter's slot answers for it, and nobody for an earlier version."""
        for host in self.loaded.hosts:
            earlier = host.adapters.get(adapter.model.id)
            if earlier is not None and earlier is not adapter:
                del host.adapters[adapter.model.id]
                self._detachings.append(earlier)
        adapter.host.adapters[adapter.model.id] = adapter

    def retire(self, slot: Slot, timeout_s: float, *, abort: bool = False) -> None:
        """A slot that is not the active one's takes no more requests, and ends when those inside are done."""
        self.loaded = self.loaded.leaves(slot)
        self._end(slot, timeout_s, abort=abort)

    def withdraw(self, slot: Slot) -> None:
        """A slot that is not the active one's takes no requests until it is given back."""
        self.loaded = self.loaded.leaves(slot)

    def give_back(self, slot: Slot) -> None:
        """It takes requests again, unless it has been ended meanwhile."""
        self.loaded = self.loaded.left(slot)
        if slot.phase != "stopped":
            slot.phase = "ready"
            slot.closed = False
            self.loaded = self.loaded.keeps(slot)

    def drop(self, name: str) -> None:
        """Nothing answers to that id any more but the active model, if it is that."""
        slot = self.loaded.other(name)
        if slot is not None:
            self.retire(slot, DRAIN_S)
        for host in self.loaded.hosts:
            adapter = host.adapters.get(name)
            if adapter is not None and adapter is not self.loaded.serving:
                del host.adapters[name]
                self._detachings.append(adapter)

    def detach(self, adapter: Adapter[Slot]) -> None:
        """Takes an adapter off its engine that no slot answers for."""
        self._detachings.append(adapter)

    def reap_dead(self) -> None:
        """Takes out what died and is not active; it is loaded again when somebody asks for it."""
        claimed = self.operations.claimed
        for slot in self.loaded.others:
            if slot.dead and slot not in claimed:
                self.note_death(slot.model.id, active=False)
                log.error("the engine of %s, which is not the active model, died", slot.model.id)
                self.retire(slot, 0.0, abort=True)

    def note_death(self, model_id: str, *, active: bool) -> None:
        ENGINE_DEATHS.labels(model=model_label(model_id)).inc()
        number = self.deaths[-1].number + 1 if self.deaths else 1
        at = datetime.now(UTC).isoformat()
        self.deaths.append(EngineDeath(number=number, model_id=model_id, active=active, at=at))

    def advance(self) -> None:
        """Starts what follows from earlier changes and does not meet what runs."""
        claimed = set(self.operations.claimed)
        for slot in [each for each in self._aborts if each not in claimed]:
            self._aborts.remove(slot)
            claimed.add(slot)
            self.operations.start(f"abort {slot.model.id}", slot.abort_requests(), {slot}, _note_failure)
        for adapter in [each for each in self._detachings if each.host not in claimed]:
            self._detachings.remove(adapter)
            if not adapter.dead and adapter.host.phase != "stopped":
                claimed.add(adapter.host)
                detach = adapter.front.detach()
                self.operations.start(f"detach {adapter.model.id}", detach, {adapter.host}, _note_failure)
        # A dead engine is ended whatever is being done with it, which fails at that.
        for ending in [each for each in self._endings if each.slot.dead or each.slot not in claimed]:
            self._endings.remove(ending)
            slot = ending.slot
            finish = _finish(slot, ending.timeout_s, ending.abort or slot.dead)

            def ended(task: asyncio.Task[None], slot: Slot = slot) -> None:
                self.loaded = self.loaded.left(slot)
                _note_failure(task)

            self.operations.start(f"retire {slot.model.id}", finish, {slot}, ended)

    def _end(self, slot: Slot, timeout_s: float, *, abort: bool) -> None:
        slot.phase = "draining"
        self._endings.append(_Ending(slot, timeout_s, abort))


async def _finish(slot: Slot, timeout_s: float, abort: bool) -> None:
    if abort or not await slot.emptied(timeout_s):
        aborted = await slot.abort_requests()
        if aborted:
            log.warning("%d requests of %s were aborted at the end of its slot", aborted, slot.model.id)
    await slot.shutdown()


def _note_failure(task: asyncio.Task[object]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed", task.get_name(), exc_info=error)
