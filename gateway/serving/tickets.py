"""What a caller holds who wants a model loaded."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from stepserve.contract import LoadRequest


@dataclass(slots=True, eq=False)
class Ticket:
    """`ended` is done when the model is loaded, or holds why it is not: NoRoom, LoadFailed, Unserved, NotLoaded.

    `starts` false: nothing is loaded for this caller, who waits for a load or a switch that is under way.

    `since_s`: since when that caller waits, by the event loop's clock.

    Until `close`, which every holder has to call, the model is not evicted.
    """

    request: LoadRequest
    starts: bool
    on_close: Callable[[], None]
    since_s: float
    ended: asyncio.Future[None] = field(init=False)
    open: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)

    def close(self) -> None:
        self.open = False
        self.ended.cancel()
        self.on_close()
