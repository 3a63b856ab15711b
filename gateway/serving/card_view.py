"""The cards as the driver last described them: whoever looks does not wait for the driver, which may hang."""

import asyncio
from collections.abc import Callable, Sequence

from stepserve.placement import Device

RENEWED_EVERY_S = 1.0


class CardView:
    """`read` blocks: it is called in a thread, but for the first time, when nobody is served yet.

    What our own engines take and give back is counted by whoever starts and ends them, so a view that is a second old
    is wrong about other programs alone.
    """

    def __init__(self, read: Callable[[], Sequence[Device]], renewed_every_s: float = RENEWED_EVERY_S) -> None:
        self._read = read
        self._renewed_every_s = renewed_every_s
        self._one_reads = asyncio.Lock()
        self.cards: Sequence[Device] = read()

    async def renew(self) -> Sequence[Device]:
        """What the driver says from now on, and not before."""
        async with self._one_reads:
            self.cards = await asyncio.to_thread(self._read)
            return self.cards

    async def run(self) -> None:
        """Renews it until cancelled; the driver tells of nothing by itself."""
        while True:
            await asyncio.sleep(self._renewed_every_s)
            await self.renew()
