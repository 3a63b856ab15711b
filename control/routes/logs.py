"""GET /logs/{component}: the end of a log, and what comes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from control.errors import LogUnreadable, NotOffered
from control.logs.tail import follow as followed
from control.logs.tail import last_lines
from control.services import Given
from stepserve.logs import COMPONENTS
from stepserve.paths import Layout

router = APIRouter()

MAX_LINES = 10_000
_KEEP_ALIVE_TURNS = 40  # about ten seconds


@router.get("/logs/{component}", response_model=None)
async def logs(
    component: str,
    layout: Given[Layout],
    lines: Annotated[int, Query(ge=1, le=MAX_LINES)] = 100,
    follow: bool = False,
) -> dict[str, Any] | StreamingResponse:
    if component not in COMPONENTS:
        raise NotOffered(f"component: there is no log {component!r}; there are {', '.join(COMPONENTS)}")
    path = layout.logs / COMPONENTS[component]
    if follow:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = _events(followed(path, lines))
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
    return {"component": component, "lines": await asyncio.to_thread(last_lines, path, lines)}


async def _events(lines: AsyncIterator[str | None]) -> AsyncIterator[str]:
    """An event a line; a comment about every ten seconds without one."""
    quiet = 0
    yield ": following\n\n"
    try:
        async for line in lines:
            if line is None:
                quiet += 1
                if quiet % _KEEP_ALIVE_TURNS == 0:
                    yield ": still here\n\n"
                continue
            quiet = 0
            yield "".join(f"data: {part}\n" for part in line.splitlines() or [""]) + "\n"
    except LogUnreadable as error:  # the answer has begun, so the failure has to be said in it
        yield f"event: error\ndata: {error}\n\n"
