"""Streams are read in threads of their own, while the page draws what has come at most ten times a second.

So a fast answer is neither slowed down by its drawing nor timed with it, and several are read at the same time.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

_DRAW_EVERY_S = 0.1


def read(streams: Sequence[Iterable[None]], draw: Callable[[int], object]) -> "list[Future[None]]":
    """Iterates all `streams` to their ends, and calls `draw` in this thread with the number of each that has news.

    The futures are done: `result()` raises what the stream raised. Where `draw` raises, as it does when the visitor
    goes elsewhere, streams are closed at their next piece.
    """
    stopped = threading.Event()
    news = [threading.Event() for _ in streams]
    pool = ThreadPoolExecutor(max(1, len(streams)), thread_name_prefix="reads an answer")
    try:
        reads = [pool.submit(_pull, stream, one, stopped) for stream, one in zip(streams, news, strict=True)]
        under_way = True
        while under_way:
            under_way = bool(wait(reads, _DRAW_EVERY_S).not_done)
            for number, one in enumerate(news):
                if one.is_set():
                    one.clear()
                    draw(number)
        return reads
    finally:
        stopped.set()
        pool.shutdown(wait=False)


def _pull(stream: Iterable[None], news: threading.Event, stopped: threading.Event) -> None:
    pieces = iter(stream)
    try:
        for _ in pieces:
            news.set()
            if stopped.is_set():
                return
    finally:
        if (close := getattr(pieces, "close", None)) is not None:
            close()
