"""`keep_alive`: for how long a model stays loaded beside the active one. 0 unloads it, a negative time pins it."""

import re
from dataclasses import dataclass
from typing import Protocol

from gateway.dialects.call import Call
from gateway.dialects.served import Served
from gateway.errors import CanaryRunning, InvalidRequest
from gateway.request.context import RequestContext

_DURATION = re.compile(r"(-?)(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)?")
_MAY = frozenset({"admin", "none", "anonymous"})  # which keys; without keys everybody is the owner


class Keeper(Protocol):
    """`gateway.serving.pool.Pool` is the real one."""

    async def unload(self, name: str) -> None:
        """Raises CanaryRunning."""
        ...

    def pin(self, name: str, *, pinned: bool) -> None:
        """Whether the slot of that id stays when another model needs its place."""
        ...


def sign_of(keep_alive: float | str | None) -> int | None:
    """-1: for ever, 0: not at all, 1: for some time, None: nothing is said. Raises InvalidRequest."""
    if keep_alive is None:
        return None
    found = _DURATION.fullmatch(str(keep_alive).strip())
    if found is None:
        raise InvalidRequest(f"keep_alive: {str(keep_alive)[:50]!r} is not a duration such as 5m, 0 or -1")
    if float(found[2]) == 0:
        return 0
    return -1 if found[1] else 1


@dataclass(frozen=True, slots=True)
class Keeping:
    served: Served
    keeper: Keeper

    async def after(self, call: Call, name: str, sign: int | None) -> bool:
        """Once a request has been answered: whether its model was told to leave. The active one stays; an infer key
        decides about no model.
        """
        if sign is None or RequestContext.of(call.scope).key_class not in _MAY:
            return False
        slot = self.served.slot(name)
        if slot is None or slot.active:
            return False
        if sign == 0:
            try:
                await self.keeper.unload(slot.model.id)
            except CanaryRunning:  # it stays, as the active one does
                return False
        else:
            self.keeper.pin(slot.model.id, pinned=sign < 0)
        return sign == 0
