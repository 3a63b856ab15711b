"""A body on its way to a file through the event loop, and who may close that file when."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.http.asgi import Message
from gateway.http.body_to_file import Arrival, BodyToFile, Destination

PIECE = os.urandom(3 * 1024 * 1024)


class SlowDisk(ThreadPoolExecutor):
    """Each write begins, and goes on once it `may`."""

    def __init__(self) -> None:
        super().__init__(2)
        self.begun = threading.Event()
        self.may = threading.Event()

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def slowly() -> Any:
            self.begun.set()
            assert self.may.wait(240)
            return work(*args, **kwargs)

        return super().submit(slowly)


@pytest.mark.parametrize("is_whole", [True, False])
async def test_who_is_cancelled_waits_for_the_write_that_is_under_way(tmp_path: Path, is_whole: bool) -> None:
    """Whoever closes the file would have the rest written to another one, which gets its descriptor."""

    async def receive() -> Message:
        return {"type": "http.request", "body": PIECE, "more_body": not is_whole}

    disk, arrival = SlowDisk(), Arrival()
    bodies = BodyToFile(20.0, "test")
    bodies.writers = disk
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    there = Destination(file, 0, None)
    filling = asyncio.create_task(bodies.fill(there, {"type": "http"}, receive, arrival))
    assert await asyncio.to_thread(disk.begun.wait, 120)
    filling.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not filling.done(), "the file could be closed now"
    disk.may.set()
    await asyncio.wait({filling})
    os.close(file)
    assert filling.cancelled()
    assert arrival.written_bytes == len(PIECE)
    assert (tmp_path / "file").read_bytes() == PIECE
