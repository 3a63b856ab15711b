"""Answers on their way to control, and who waits until they are there."""

import asyncio

from prometheus_client import Counter

from gateway.errors import ControlDown
from gateway.sidecar.control_link import ControlProxy
from gateway.sidecar.hand_over import HandOver
from stepserve.stored_responses import CONTROL_KEEP_PATH, KeptResponse

KEPT = Counter("stepserve_stored_responses_total", "Responses that were to be kept, by what came of it.", ["outcome"])

_MAX_WAITING_BYTES = 64 * 1024 * 1024


class ResponseWriter:
    """`run` must be going on. `keeps`: false where there is no control that would ever take one, on a member of a
    fleet.
    """

    def __init__(
        self, control: ControlProxy, max_waiting_bytes: int = _MAX_WAITING_BYTES, *, keeps: bool = True
    ) -> None:
        self._keeps = keeps
        self._hand_over = HandOver(control, CONTROL_KEEP_PATH, "responses", KEPT, max_waiting_bytes)
        self._pending: dict[tuple[str, str], set[asyncio.Future[None]]] = {}

    @property
    def has_room(self) -> bool:
        return self._keeps and self._hand_over.has_room

    def keep(self, kept: KeptResponse) -> bool:
        """Whether it is taken: it is not when too much waits, or it is larger than control reads."""
        if not self._keeps:
            return False
        done = self._hand_over.put(kept.model_dump())
        if done is None:
            return False
        ids = [(kept.owner, str(kept.response["id"]))]
        if kept.conversation_id is not None:
            ids.append((kept.owner, kept.conversation_id))
        for each in ids:
            self._pending.setdefault(each, set()).add(done)
        done.add_done_callback(lambda over: self._settle(ids, over))
        return True

    async def settled(self, owner: str, name: str, timeout_s: float) -> None:
        """Waits until control has what was answered under that id before. Raises ControlDown after `timeout_s`."""
        waited_for = self._pending.get((owner, name))
        if waited_for and (await asyncio.wait(set(waited_for), timeout=timeout_s))[1]:
            raise ControlDown("It keeps responses: ask again, or send the whole conversation in `input`.")

    async def run(self) -> None:
        """Until cancelled; then what waits is brought there, if that is quick."""
        await self._hand_over.run()

    def _settle(self, ids: list[tuple[str, str]], over: asyncio.Future[None]) -> None:
        for each in ids:
            left = self._pending.get(each, set())
            left.discard(over)
            if not left:
                self._pending.pop(each, None)
