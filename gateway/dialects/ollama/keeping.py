"""`keep_alive`: for how long a model that is not active stays loaded. 0 unloads it, a negative time pins it."""

from dataclasses import dataclass
from typing import Protocol

from gateway.dialects.call import Call
from gateway.dialects.served import Served
from gateway.errors import CanaryRunning, InvalidRequest
from gateway.request.context import RequestContext
from stepserve.keep_alive import seconds_of

_MAY = frozenset({"admin", "none", "anonymous"})  # which keys; without keys everybody is the owner


class Keeper(Protocol):
    """`gateway.serving.pool.Pool` is the real one."""

    async def unload(self, name: str) -> None:
        """Raises CanaryRunning."""
        ...

    def keep_alive(self, name: str, keep_alive_s: float) -> None:
        """For how long the slot of that id stays when nobody uses it; negative: also when its place is needed."""
        ...


def asked_s(keep_alive: float | str | None) -> float | None:
    """The seconds that a request asks for; None: nothing is said. Raises InvalidRequest."""
    if keep_alive is None:
        return None
    try:
        return seconds_of(keep_alive)
    except ValueError as error:
        raise InvalidRequest(f"keep_alive: {error}") from None


@dataclass(frozen=True, slots=True)
class Keeping:
    served: Served
    keeper: Keeper

    async def after(self, call: Call, name: str, keep_alive_s: float | None) -> bool:
        """Once a request has been answered: whether its model was told to leave. The active one stays; an infer key
        decides about no model.
        """
        if keep_alive_s is None or RequestContext.of(call.scope).key_class not in _MAY:
            return False
        slot = self.served.slot(name)
        if slot is None or slot.active:
            return False
        if keep_alive_s == 0:
            try:
                await self.keeper.unload(slot.model.id)
            except CanaryRunning:  # it stays, as the active one does
                return False
        else:
            self.keeper.keep_alive(slot.model.id, keep_alive_s)
        return keep_alive_s == 0
