"""Models that are loaded beside the active one: loaded when asked for, the least recently used leaving first."""

import asyncio
import logging
from collections.abc import Callable

from gateway.errors import LOAD_FAILURES, EngineStartFailed, LoadFailed, NoRoom
from gateway.metrics import ENGINE_DEATHS, RESIDENT_LOADS, model_label
from gateway.serving.adapter import attach
from gateway.serving.failed_loads import FailedLoads
from gateway.serving.served import Served
from gateway.serving.slot import Slot, StartEngine
from gateway.serving.switching.plan import Memory, shortage
from stepserve.contract import ModelRef, Reference

log = logging.getLogger(__name__)

_POLL_S = 0.05
_DRAIN_S = 300.0


class Residents:
    """Every slot but the active one. Loads for one model are shared by all who ask for it.

    `others` says how many slots there are that are not kept here; together there are never more than `max_loaded`,
    but for the moments in which a switch has both of its models loaded.
    """

    def __init__(
        self,
        *,
        max_loaded: int,
        wait_s: float,
        start_engine: StartEngine,
        memory: Callable[[], Memory],
        failed: FailedLoads,
        others: Callable[[], int],
        active: Callable[[], Slot | None] = lambda: None,
    ) -> None:
        self._max_loaded = max_loaded
        self._wait_s = wait_s
        self._start_engine = start_engine
        self._memory = memory
        self._failed = failed
        self._others = others
        self._active = active
        self._detaching: set[asyncio.Task[None]] = set()
        self._slots: dict[str, Slot] = {}
        self._leaving: dict[asyncio.Task[None], Slot] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._one_load = asyncio.Lock()
        # Held from when memory is measured until what was to be loaded has taken it, or has failed.
        self.room = asyncio.Lock()

    @property
    def slots(self) -> list[Slot]:
        """Those that answer, and those that only finish what is inside."""
        return [*self._slots.values(), *self._leaving.values()]

    def ready(self, name: str) -> Slot | None:
        """The slot of that id, if it can answer now."""
        slot = self._slots.get(name)
        return slot if slot is not None and not slot.dead else None

    def answering(self, name: str) -> Served | None:
        """The slot, or the adapter on a slot, of that id, if it can answer now."""
        alive = (slot for slot in self._slots.values() if not slot.dead)
        return next((found for slot in alive if (found := slot.answering(name)) is not None), None)

    @property
    def names(self) -> list[str]:
        """The ids that `answering` knows."""
        return [name for slot in self._slots.values() if not slot.dead for name in slot.names]

    async def load(
        self,
        model: ModelRef,
        reference: Reference | None,
        base_reference: Reference | None = None,
        *,
        wait: bool = True,
    ) -> None:
        """Returns when the model is loaded, by this call or another's. A caller that is cancelled stops nobody's load.

        `wait`: for a slot to become idle when none is; else NoRoom is raised for that at once.
        Raises NoRoom, and LoadFailed (also at once, while an earlier failure of the same content cools down).
        """
        if model.base is not None:
            await self._load_adapter(model, model.base, reference, base_reference, wait=wait)
            return
        present = self.ready(model.id)
        if present is not None and present.model.is_loaded_as(model):
            return
        failure = self._failed.cooling(model)
        if failure is not None:
            raise LoadFailed(model.id, failure.error, failure.retry_in_s)
        loading = self._loads.get(model.id)
        if loading is None:
            if not wait and (obstacle := self._lasting_obstacle(model)) is not None:
                raise NoRoom(f"`{model.id}` is not loaded and cannot be now: {obstacle}.", 5.0)
            loading = self._loads[model.id] = asyncio.create_task(self._load(model, reference), name=f"load {model.id}")
            loading.add_done_callback(lambda _: self._loads.pop(model.id, None))
        await asyncio.shield(loading)

    def adopt(self, slot: Slot) -> None:
        """Keeps a slot that was the active one."""
        self.drop(slot.model.id)
        slot.phase = "ready"
        self._slots[slot.model.id] = slot

    def claim(self, model: ModelRef) -> Slot | None:
        """Gives away the slot of this very content, to be the active one; None when there is none."""
        slot = self.ready(model.id)
        if slot is None or not slot.model.is_loaded_as(model):
            return None
        return self._slots.pop(model.id)

    def drop(self, name: str) -> bool:
        """Takes no more requests for that id; its slot ends when those inside are done. False: it is not loaded."""
        slot = self._slots.pop(name, None)
        if slot is not None:
            self.retire(slot, _DRAIN_S)
        dropped = [host.adapters.pop(name) for host in self._hosts() if name in host.adapters]
        for adapter in dropped:
            if not adapter.dead:
                task = asyncio.create_task(adapter.front.detach(), name=f"detach {name}")
                self._detaching.add(task)
                task.add_done_callback(self._detaching.discard)
        return slot is not None or bool(dropped)

    def retire(self, slot: Slot, timeout_s: float, *, abort: bool = False) -> None:
        """Lets a slot that serves no more finish its requests, bounded, and ends it; returns at once."""
        slot.phase = "draining"
        task = asyncio.create_task(_finish(slot, timeout_s, abort), name=f"retire {slot.model.id}")
        self._leaving[task] = slot
        task.add_done_callback(self._left)

    def bury(self) -> None:
        """Takes out what died; it is loaded again when somebody asks for it."""
        for name, slot in list(self._slots.items()):
            if slot.dead:
                ENGINE_DEATHS.labels(model=model_label(name)).inc()
                log.error("the engine of %s, which is not the active model, died", name)
                del self._slots[name]
                self.retire(slot, 0.0, abort=True)

    async def make_room(self, model: ModelRef) -> bool:
        """Ends idle slots until one more engine with this model has memory; False when that is not enough."""
        while shortage(model.signature, self._memory()) is not None:
            if not await self._evict_one():
                return False
        return True

    async def close(self) -> None:
        """Ends every engine at once, and every load."""
        for task in (*self._loads.values(), *self._leaving):
            task.cancel()
        await asyncio.gather(*self._loads.values(), *self._leaving, return_exceptions=True)
        await asyncio.gather(*(slot.shutdown() for slot in self.slots), return_exceptions=True)

    async def _load_adapter(
        self,
        model: ModelRef,
        base: ModelRef,
        reference: Reference | None,
        base_reference: Reference | None,
        *,
        wait: bool,
    ) -> None:
        """On the slot of its base, wherever that is; loads the base first when it is nowhere."""
        failure = self._failed.cooling(model)
        if failure is not None:
            raise LoadFailed(model.id, failure.error, failure.retry_in_s)
        host = self._host_of(base)
        if host is None:
            await self.load(base, base_reference, wait=wait)
            host = self._host_of(base)
        try:
            if host is None:
                raise EngineStartFailed(f"its base `{base.id}` was loaded and is gone again")
            await attach(host, model, reference)
        except LOAD_FAILURES as error:
            self._failed.note(model, str(error))
            failure = self._failed.cooling(model)
            raise LoadFailed(model.id, str(error), failure.retry_in_s if failure else 0.0) from error
        self._failed.forget(model.id)

    def _hosts(self) -> list[Slot]:
        active = self._active()
        return [*([active] if active is not None else []), *self._slots.values()]

    def _host_of(self, base: ModelRef) -> Slot | None:
        alive = (slot for slot in self._hosts() if not slot.dead)
        return next((slot for slot in alive if (slot.model.id, slot.model.digest) == (base.id, base.digest)), None)

    async def _load(self, model: ModelRef, reference: Reference | None) -> None:
        async with self._one_load:
            self.drop(model.id)  # other content under the same id
            await self._take_room(model)
            try:
                slot, _ = await Slot.load(model, self._start_engine, reference)
            except LOAD_FAILURES as error:
                RESIDENT_LOADS.labels(outcome="failed").inc()
                self._failed.note(model, str(error))
                failure = self._failed.cooling(model)
                raise LoadFailed(model.id, str(error), failure.retry_in_s if failure else 0.0) from error
            finally:
                self.room.release()
            RESIDENT_LOADS.labels(outcome="loaded").inc()
            self._failed.forget(model.id)
            self._slots[model.id] = slot
            log.info("%s is loaded beside the active model (%.1f s)", model.id, slot.load_duration_s)

    async def _take_room(self, model: ModelRef) -> None:
        """Waits, bounded, until there is room for one more, ending slots that nobody uses. Raises NoRoom.

        Holds `room` when it returns.
        """
        if self._max_loaded < 2:
            raise NoRoom(f"`{model.id}` is not loaded, and max_loaded_models is {self._max_loaded}.", None)
        try:
            async with asyncio.timeout(self._wait_s):
                while True:
                    await self.room.acquire()
                    if (obstacle := self._obstacle(model)) is None:
                        return
                    self.room.release()
                    if not await self._evict_one():
                        if not self._slots and not self._leaving:
                            raise NoRoom(f"`{model.id}` is not loaded and cannot be: {obstacle}.", 30.0)
                        await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise NoRoom(f"`{model.id}` is not loaded and every other slot is busy.", 5.0) from None

    def _lasting_obstacle(self, model: ModelRef) -> str | None:
        if self._max_loaded < 2:
            return f"max_loaded_models is {self._max_loaded}"
        if any(not slot.in_flight for slot in self._slots.values()):
            return None
        return self._obstacle(model)

    def _obstacle(self, model: ModelRef) -> str | None:
        if len(self._slots) + self._others() >= self._max_loaded:
            return f"{self._max_loaded} models are loaded (max_loaded_models)"
        return shortage(model.signature, self._memory())

    async def _evict_one(self) -> bool:
        """Ends the least recently used slot with nobody inside. False: there is none."""
        idle = [slot for slot in self._slots.values() if not slot.in_flight]
        if not idle:
            return False
        slot = min(idle, key=lambda each: each.last_used_s)
        log.info("%s leaves: it was used least recently and room is needed", slot.model.id)
        del self._slots[slot.model.id]
        self.retire(slot, 0.0)
        await asyncio.wait([task for task, leaving in self._leaving.items() if leaving is slot])
        return True

    def _left(self, task: asyncio.Task[None]) -> None:
        slot = self._leaving.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the slot of %s did not end cleanly", slot.model.id, exc_info=error)


async def _finish(slot: Slot, timeout_s: float, abort: bool) -> None:
    if abort or not await slot.emptied(timeout_s):
        aborted = await slot.abort_requests()
        if aborted:
            log.warning("%d requests of %s were aborted at the end of its slot", aborted, slot.model.id)
    await slot.shutdown()
