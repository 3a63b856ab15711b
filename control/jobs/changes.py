"""Who waits for news of a job is woken when this process writes some."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Changes:
    """`tell` wakes every watcher of a job. What other processes write is not told: watchers look now and then."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """The event is set at each change; who waits clears it before looking."""
        event = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            watchers = self._watchers[job_id]
            watchers.discard(event)
            if not watchers:
                del self._watchers[job_id]

    def tell(self, job_id: str) -> None:
        for event in self._watchers.get(job_id, ()):
            event.set()
