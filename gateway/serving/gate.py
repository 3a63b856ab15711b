"""Who may pass to a slot: at once, after the switch that is running, or not at all."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from gateway.errors import ModelNotFound, Unserved
from gateway.serving.served import Served
from stepserve.contract import ACTIVE_ALIAS


class Gate:
    """Open on a slot, held (callers wait, bounded in number and time), or down (callers are refused, with a reason).

    Only the pool turns it. Between `enter` returning and the caller's next `await` nothing else runs, so a slot that
    was handed out is never drained before the request has entered it.
    """

    def __init__(self, max_held: int, hold_timeout_s: float) -> None:
        self._max_held = max_held
        self._hold_timeout_s = hold_timeout_s
        self._slot: Served | None = None
        self._down: tuple[str, float] | None = ("No model has been loaded yet; the server is starting.", 5.0)
        self._moved = asyncio.Event()
        self.held = 0

    @property
    def slot(self) -> Served | None:
        """The slot that answers now; None while held or down."""
        return self._slot

    def open(self, slot: Served) -> None:
        self._turn(slot, None)

    def hold(self) -> None:
        self._turn(None, None)

    def down(self, reason: str, retry_after_s: float) -> None:
        self._turn(None, (reason, retry_after_s))

    async def enter(self, name: str | None, disconnected: Callable[[], Coroutine[Any, Any, None]]) -> Served:
        """The slot for the model `name` (None, empty, or `active`: the active one), waiting while held.

        Raises ModelNotFound, Unserved (down, too many waiting, waited too long), or what `disconnected` raises when
        the client leaves while it waits.
        """
        if self._slot is None and self._down is None:
            await self._wait(disconnected)
        if self._down is not None:
            raise Unserved(*self._down)
        slot = self._slot
        if slot is None:
            raise Unserved("Another switch began; the request waited too long.", 1.0)
        if slot.dead:
            raise Unserved("The engine died and is being restarted.", 5.0)
        if not name or name in (ACTIVE_ALIAS, slot.model.id):
            return slot
        named = slot.answering(name)
        if named is None:
            raise ModelNotFound(name, [slot.model.id, ACTIVE_ALIAS])
        return named

    async def _wait(self, disconnected: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self.held >= self._max_held:
            raise Unserved(f"A switch is running and {self.held} requests wait for it already.", 5.0)
        self.held += 1
        gone = asyncio.ensure_future(disconnected())
        try:
            async with asyncio.timeout(self._hold_timeout_s):
                while self._slot is None and self._down is None:
                    await _first(self._moved.wait(), gone)
        except TimeoutError:
            waited = f"The request waited {self._hold_timeout_s:.0f} s for a switch to end."
            raise Unserved(waited, 5.0) from None
        finally:
            self.held -= 1
            gone.cancel()

    def _turn(self, slot: Served | None, down: tuple[str, float] | None) -> None:
        self._slot, self._down = slot, down
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


async def _first(event: Awaitable[object], gone: asyncio.Future[None]) -> None:
    """Waits for the event; raises what `gone` raises if that is earlier."""
    waiting = asyncio.ensure_future(event)
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            gone.result()
    finally:
        waiting.cancel()
