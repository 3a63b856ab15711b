"""Whether one more model fits, and whether to wait for room is of use: pure decisions over what is loaded."""

from collections.abc import Mapping

from gateway.errors import NoRoom
from gateway.serving.loaded_models import LoadedModels
from gateway.serving.slot import Slot
from stepserve.contract import ModelRef


def obstacle_to(model: ModelRef, loaded: LoadedModels, shortage: str | None, max_loaded: int | None) -> str | None:
    """Why it cannot be loaded now; None when it fits. `shortage`: of memory. One place of `max_loaded`, which None does
    not limit, is always the active model's.

    Raises NoRoom where that is so whoever leaves.
    """
    if max_loaded is not None and max_loaded < 2:
        raise NoRoom(f"`{model.id}` is not loaded, and max_loaded_models is {max_loaded}.", None)
    if max_loaded is not None and 1 + len(loaded.others) + len(loaded.leaving) >= max_loaded:
        return f"{max_loaded} models are loaded (max_loaded_models)"
    return shortage


def is_about_to_end(loaded: LoadedModels) -> bool:
    """Whether a slot ends, which may be room enough."""
    return any(not slot.in_flight for slot in loaded.leaving)


def check_hope(
    model: ModelRef, obstacle: str, loaded: LoadedModels, kept: Mapping[Slot, str], *, patient: bool
) -> None:
    """Raises NoRoom when to wait is in vain, or not wanted. `kept`: slots that do not leave for others, and why."""
    if kept and len(kept) == len(loaded.others) and not loaded.leaving:
        raise in_vain(model, obstacle, kept)
    if not loaded.others and not loaded.leaving:
        raise in_vain(model, obstacle, {})
    if not patient:
        raise NoRoom(f"`{model.id}` is not loaded and cannot be now: {obstacle}.", 5.0)


def in_vain(model: ModelRef, obstacle: str, kept: Mapping[Slot, str]) -> NoRoom:
    """Nobody's leaving would help but that of those who are `kept`, and why."""
    if not kept:
        return NoRoom(f"`{model.id}` is not loaded and cannot be: {obstacle}.", 30.0)
    names = " and ".join(f"{slot.model.id} is to stay ({why})" for slot, why in kept.items())
    retry_after_s = None if set(kept.values()) == {KEPT_ALIVE} else 30.0
    return NoRoom(f"`{model.id}` is not loaded and cannot be: {obstacle}, and {names}.", retry_after_s)


KEPT_ALIVE, KEPT_FOR_CANARY = "keep_alive", "a canary"
