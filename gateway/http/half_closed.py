"""Clients that close their half of the connection once they have asked, and read the answer: `nc -N`, old SOAP stacks.

To this side that looks as if they had left: either way a FIN comes, and only what is sent tells the two apart. A client
that has left refuses it by a reset. So one interim response is sent, `100 Continue`, which every client of HTTP/1.1
reads over, and then it is looked whether the connection was reset. docs/decisions/0046 says why.
"""

import asyncio
import select
from collections.abc import Callable

_INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
_FIRST_LOOK_S, _LATEST_LOOK_S = 0.02, 1.0


class HalfClosed:
    """Looks after one connection until `stop`; `gone` is called at most once, when its client turns out to have left.

    `asks`: whether an interim response can be sent, which is before the answer has begun and from HTTP/1.1 on. A client
    of HTTP/1.0 that leaves is noticed when its answer is written.
    """

    def __init__(self, transport: asyncio.Transport, gone: Callable[[], None], *, asks: bool) -> None:
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), 0)  # resets are told unasked
        self._wait_s = _FIRST_LOOK_S
        if asks:
            transport.write(_INTERIM)
        self._timer = self._loop.call_later(self._wait_s, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._poll.poll(0):
            self._gone()
            return
        self._wait_s = min(2 * self._wait_s, _LATEST_LOOK_S)
        self._timer = self._loop.call_later(self._wait_s, self._look)
