"""Models loaded beside the active one because jobs wait for them."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Protocol

from control.errors import NoRoom, ServiceError
from control.tasks import Tasks

log = logging.getLogger(__name__)

NO_ROOM_PAUSE_S = 5.0
FAILED_PAUSE_S = 60.0


class ModelLoader(Protocol):
    async def load_beside(self, model_id: str) -> None:
        """Raises NoRoom, or another ServiceError when it does not load."""
        ...


class SideLoader:
    """Opens one model at a time; one without room is left alone for a while.

    `ready` has those that jobs may run on, `loading` is on its way, `refused` has why others are not there.
    """

    def __init__(
        self, loader: ModelLoader, on_change: Callable[[], None], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._loader = loader
        self._on_change = on_change
        self._clock_s = clock_s
        self._tasks = Tasks()
        self._opening: asyncio.Task[None] | None = None
        self._not_before_s: dict[str, float] = {}
        self.ready: set[str] = set()
        self.loading: str | None = None
        self.refused: dict[str, str] = {}

    def opens_one_of(self, model_ids: Collection[str]) -> bool:
        """Begins to load the first that may be tried now; returns at once. False: none is being loaded, or can be."""
        if self._opening is not None and not self._opening.done():
            return True
        now_s = self._clock_s()
        for model_id in model_ids:
            if model_id not in self.ready and self._not_before_s.get(model_id, 0.0) <= now_s:
                self.loading = model_id
                self._opening = self._tasks.spawn(self._open(model_id), name=f"loading {model_id} for a job")
                return True
        return False

    def forget(self, model_id: str) -> None:
        """It was found not to be loaded any more."""
        self.ready.discard(model_id)
        self._not_before_s[model_id] = self._clock_s() + NO_ROOM_PAUSE_S

    async def close(self) -> None:
        await self._tasks.close()

    async def _open(self, model_id: str) -> None:
        try:
            await self._loader.load_beside(model_id)
        except NoRoom as error:
            self.refused[model_id] = str(error)
            self._not_before_s[model_id] = self._clock_s() + NO_ROOM_PAUSE_S
        except ServiceError as error:
            self.refused[model_id] = str(error)
            self._not_before_s[model_id] = self._clock_s() + FAILED_PAUSE_S
            log.warning("%s cannot be loaded for the jobs that wait for it: %s", model_id, error)
        else:
            self.ready.add(model_id)
            self.refused.pop(model_id, None)
        finally:
            self.loading = None
            self._on_change()
