"""What a translated request has to know of the models that are served: their names, and how long their context is."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.dialects.call import Json
from gateway.serving.naming import Naming
from stepserve.contract import ACTIVE_ALIAS, GatewayState, SlotState


@dataclass(frozen=True, slots=True)
class Served:
    """A view of the pool's snapshots under the names of the settings."""

    snapshot: Callable[[], GatewayState]
    naming: Naming

    def slots(self) -> list[SlotState]:
        return [slot for slot in self.snapshot().slots if slot.phase not in ("draining", "stopped")]

    def slot(self, name: str | None) -> SlotState | None:
        """Who would answer to that name now; None when nobody does, or somebody on another machine."""
        state = self.snapshot()
        target = self.naming.target(name) or ACTIVE_ALIAS
        if target == ACTIVE_ALIAS:
            target = state.active.id if state.active else ""
        return next((slot for slot in self.slots() if slot.model.id == target), None)

    def fitting(self, name: str | None, max_tokens: int) -> int:
        """A number of tokens that was not asked for by name, cut to what the context can hold at all."""
        slot = self.slot(name)
        longest = slot.max_model_len_tokens if slot else None
        return max_tokens if longest is None else min(max_tokens, longest)

    def defaults(self, name: str | None, path: str, own: Json) -> Json:
        """A route's own defaults, below those of an alias's preset."""
        return own | self.naming.preset(name, path)

    def names(self) -> list[str]:
        """Every name beside the ids."""
        return [ACTIVE_ALIAS, *self.naming.aliases]
