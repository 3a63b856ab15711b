"""uvicorn in a task beside the test, on a socket that is bound already."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


@asynccontextmanager
async def serving(
    app: Any, listener: socket.socket, *, at_once: bool = False, **options: Any
) -> AsyncIterator[uvicorn.Server]:
    """From the moment that it answers to its stop, which waits a second for answers, or not at all (`at_once`).

    A kept connection is not closed while it is used, as with the program itself. Raises RuntimeError when the
    application does not start.
    """
    config = uvicorn.Config(
        app,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=0 if at_once else 1,
        timeout_keep_alive=60,
        **options,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
            if task.done():
                task.result()
                raise RuntimeError("the application did not start; the log says why")
        yield server
    finally:
        server.should_exit = True
        server.force_exit = at_once
        await task
        listener.close()
