"""The places of models that are loaded in addition to the active one: who gets one, and who leaves for it."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.errors import NoRoom
from gateway.serving.keep_alive import KeepAlives
from gateway.serving.ledger import Ledger
from gateway.serving.memory import Memory
from gateway.serving.pending_load import PendingLoad, Wait
from gateway.serving.room import KEPT_ALIVE, KEPT_FOR_CANARY, check_hope, in_vain, is_about_to_end, obstacle_to
from gateway.serving.slot import Loaded, Slot
from gateway.serving.turns import Close, Evict, Resident, as_they_leave, next_turn
from gateway.serving.use import Use
from stepserve.contract import ModelRef

log = logging.getLogger(__name__)

_USES_REMEMBERED = 256
_FIRST_USE_S = 30.0  # whoever had a model loaded, a job say, comes within that time


@dataclass(slots=True)
class Places:
    """`make` does what `next_turn` decides. Only the pool's loop calls this.

    `max_loaded`: None: as many as there is memory for. `tried`: the candidate of a canary that runs, which stays.
    """

    ledger: Ledger
    memory: Memory
    max_loaded: int | None
    turn_wait_s: float
    keep_alives: KeepAlives
    tried: Callable[[], ModelRef | None] = lambda: None
    _uses: OrderedDict[str, Use] = field(default_factory=OrderedDict, init=False)

    def make(self, load: PendingLoad, behind: Sequence[PendingLoad]) -> Wait | None:
        """None: there is a place for `load`, the first of those that need one. Raises NoRoom where to wait is vain."""
        loaded = self.ledger.loaded
        host = load.target.host
        shortage = self.memory.shortage(host)
        obstacle = obstacle_to(host, loaded, shortage, self.max_loaded)
        if obstacle is not None and is_about_to_end(loaded):
            return Wait(obstacle)
        waiting = [each.waiting(self._takes_s(each.target.host.id)) for each in (load, *behind)]
        kept = self._kept()
        useless = self._useless(host, shortage, kept) if shortage is not None else set()
        stay = {*self.ledger.taken, *kept, *useless}
        residents = [_resident(slot, stays=slot in stay) for slot in loaded.others]
        turn = next_turn(waiting, residents, lambda _: obstacle is None, self.turn_wait_s, now_s())
        self._open_all_but(turn.slot if isinstance(turn, Close | Evict) else None)
        if obstacle is None:
            return None
        match turn:
            case Evict(slot) if not load.evicts:
                raise NoRoom(f"`{load.target.model.id}` is not loaded and is not to be now: {obstacle}.", None)
            case Evict(slot):
                log.info("%s leaves: it is idle and its place is needed", slot.model.id)
                self.ledger.retire(slot, 0.0)
                return Wait(f"`{slot.model.id}` leaves for it")
            case Close(slot):
                if not slot.closed:
                    log.info("%s takes no more requests: it is the turn of %s", slot.model.id, host.id)
                slot.closed = True
        check_hope(host, obstacle, loaded, kept, patient=load.patient)
        return Wait(f"{obstacle}, and every slot is busy")

    def _useless(self, model: ModelRef, shortage: str, kept: Mapping[Slot, str]) -> set[Slot]:
        """Slots whose end would not help: they are on other cards, or others are enough. Raises NoRoom where none's
        would.
        """
        loaded = self.ledger.loaded
        able = [
            each.slot
            for each in as_they_leave([_resident(slot) for slot in loaded.others if slot not in kept], now_s())
        ]
        leavers = self.memory.leavers(model, able)
        if leavers is None:
            check_hope(model, shortage, loaded, kept, patient=True)
            leavers = self.memory.leavers(model, [*loaded.leaving, *able])
        if leavers is None:
            helps = self.memory.leavers(model, [*loaded.leaving, *able, *kept]) is not None
            raise in_vain(model, shortage, kept if helps else {})
        return {slot for slot in loaded.others if slot not in leavers}

    def open_all(self) -> None:
        """Nobody waits for a place: what takes no more requests for that reason takes them again."""
        self._open_all_but(None)

    def expire(self) -> None:
        """Whatever was kept idle for as long as it should be leaves."""
        loaded = self.ledger.loaded
        stay = {*self.ledger.taken, self.tried_host}
        for slot in [each for each in loaded.others if not each.in_flight and each not in stay]:
            idle_s = now_s() - slot.use.last_s
            if slot.use.is_unused and idle_s < _FIRST_USE_S:
                continue
            if self.keep_alives.is_over(slot.model.id, idle_s):
                log.info("%s leaves: nobody used it for %.0f s (keep_alive)", slot.model.id, idle_s)
                self.ledger.retire(slot, 0.0)
        self.keep_alives.forget_the_gone({slot.model.id for slot in self.ledger.loaded.slots})

    def note_request(self, host: ModelRef, came_s: float) -> None:
        """Somebody waits for that model: how soon after the last request tells how it is used."""
        if (use := self._uses.get(host.id)) is not None:
            use.come(came_s)

    def note_load(self, slot: Slot) -> None:
        """How the model is used is known from before it was evicted."""
        known = self._uses.setdefault(slot.model.id, slot.use)
        known.load(slot.use.last_s, slot.load_duration_s)
        slot.use = known
        self._uses.move_to_end(slot.model.id)
        if len(self._uses) > _USES_REMEMBERED:
            self._uses.popitem(last=False)

    @property
    def tried_model(self) -> Loaded | None:
        """What answers as the candidate of a canary that runs."""
        tried = self.tried()
        return None if tried is None else self.ledger.loaded.beside(tried.id)

    @property
    def tried_host(self) -> Slot | None:
        tried = self.tried_model
        return None if tried is None else tried.host

    def _kept(self) -> dict[Slot, str]:
        tried = self.tried_host
        return {
            slot: KEPT_FOR_CANARY if slot is tried else KEPT_ALIVE
            for slot in self.ledger.loaded.others
            if slot is tried or self.keep_alives.is_for_ever(slot.model.id)
        }

    def _takes_s(self, model_id: str) -> float:
        """What the load of a model that was never loaded takes is not known: as long as the longest."""
        known = self._uses.get(model_id)
        return known.load_s if known is not None else max((use.load_s for use in self._uses.values()), default=0.0)

    def _open_all_but(self, closed: Slot | None) -> None:
        for slot in self.ledger.loaded.others:
            slot.closed = slot.closed and slot is closed


def _resident(slot: Slot, *, stays: bool = False) -> Resident[Slot]:
    return Resident(
        slot,
        in_flight=slot.in_flight,
        idle_since_s=slot.use.last_s,
        gap_s=slot.use.gap_s,
        answer_s=slot.use.answer_s,
        load_s=slot.load_duration_s,
        closed=slot.closed,
        stays=stays,
    )


def now_s() -> float:
    return asyncio.get_running_loop().time()
