"""One task looks at the cards; everybody else reads what it saw last."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from control.telemetry.cards import Card, CardReader, CardsSeen, NoCards

T = TypeVar("T")
log = logging.getLogger(__name__)

_PATIENCE_S = 5.0
_WITHOUT_CARDS_S = 60.0


class CardSampler:
    """Without cards it looks again only once a minute. A driver that hangs holds up nobody but its own thread."""

    def __init__(
        self,
        reader: CardReader,
        interval_s: float,
        on_sample: Callable[[CardsSeen], Awaitable[None]] | None = None,
    ) -> None:
        self.reader = reader
        self._interval_s = interval_s
        self._on_sample = on_sample
        self._looking: Future[list[Card]] | None = None
        self.seen = CardsSeen()

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._interval_s if self.seen.cards else max(_WITHOUT_CARDS_S, self._interval_s))

    @property
    def is_looking(self) -> bool:
        return self._looking is not None

    async def look(self) -> CardsSeen:
        """One sample, now."""
        if self._looking is None:
            self._looking = in_thread(self.reader.read)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                cards = await asyncio.shield(asyncio.wrap_future(self._looking))
        except TimeoutError:
            old = self.seen
            problem = f"the driver has not answered for {_PATIENCE_S:.0f} s"
            self.seen = CardsSeen(old.cards, old.driver_version, problem, old.at_s)
            return self.seen
        except NoCards as error:
            self.seen = CardsSeen(problem=str(error))
        else:
            self.seen = CardsSeen(cards, self.reader.driver_version, None, time.monotonic())
        self._looking = None
        if self._on_sample is not None:
            await self._on_sample(self.seen)
        return self.seen


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Runs what may hang for ever in a daemon thread of its own: it would block an executor, and the process's end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # whoever waits for the future gets it
            future.set_exception(error)

    Thread(target=run, name="stepserve-look", daemon=True).start()
    return future
