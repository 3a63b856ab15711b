"""Whether one more model may be loaded now, and who would leave for it: a pure decision over what is loaded."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from gateway.errors import NoRoom
from gateway.serving.loaded_models import LoadedModels
from gateway.serving.slot import Slot
from gateway.serving.switching.plan import Memory, shortage
from stepserve.contract import ModelRef


@dataclass(frozen=True, slots=True)
class Evict:
    """That slot leaves; then the question is asked again."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Wait:
    """Until a slot is idle or has ended, or what runs is over. `first`: nothing that needs room overtakes it."""

    obstacle: str
    first: bool = True


def room_for(
    model: ModelRef,
    loaded: LoadedModels,
    memory: Memory,
    max_loaded: int,
    *,
    taken: Collection[object],
    patient: bool,
    tried: Slot | None = None,
) -> Literal["start"] | Evict | Wait:
    """One place is always the active model's. `taken`: slots that may not leave now, however idle.

    `patient`: to wait for a slot that requests are inside of. `tried`: the slot of a canary's candidate, which stays
    until that is over. Raises NoRoom when to wait is in vain, or not wanted.
    """
    if max_loaded < 2:
        raise NoRoom(f"`{model.id}` is not loaded, and max_loaded_models is {max_loaded}.", None)
    if model.signature is None:
        raise NoRoom(f"`{model.id}` is not loaded and cannot be: {shortage(None, memory)}.", 30.0)
    if 1 + len(loaded.others) + len(loaded.leaving) >= max_loaded:
        obstacle: str | None = f"{max_loaded} models are loaded (max_loaded_models)"
    else:
        obstacle = shortage(model.signature, memory)
    if obstacle is None:
        return "start"
    if any(not slot.in_flight for slot in loaded.leaving):  # it ends, and that may be room enough
        return Wait(obstacle)
    kept = {
        slot: "a canary" if slot is tried else "keep_alive" for slot in loaded.others if slot.pinned or slot is tried
    }
    idle = loaded.idle_longest(but=[*taken, *kept])
    if idle is not None:
        return Evict(idle)
    if kept and len(kept) == len(loaded.others) and not loaded.leaving:
        names = " and ".join(f"{slot.model.id} is to stay ({why})" for slot, why in kept.items())
        retry_after_s = 30.0 if tried in kept else None
        raise NoRoom(f"`{model.id}` is not loaded and cannot be: {obstacle}, and {names}.", retry_after_s)
    if not loaded.others and not loaded.leaving:
        raise NoRoom(f"`{model.id}` is not loaded and cannot be: {obstacle}.", 30.0)
    if not patient:
        raise NoRoom(f"`{model.id}` is not loaded and cannot be now: {obstacle}.", 5.0)
    return Wait(f"{obstacle}, and every slot is busy")
