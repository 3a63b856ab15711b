"""Has a rollout looked at again when another model became active by other hands, or when its status fell behind.

Kubernetes tells of changes of resources alone, and kopf's timers would put a finalizer on each of them, which keeps
people from deleting any once the operator is gone.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import kopf

from stepserve.client.errors import StepserveError
from stepserve.client.results import ActiveModel
from stepserve.operator.driver import Driver
from stepserve.operator.rollout import GROUP, OBSERVED_ANNOTATION, PLURAL, VERSION, status_of

log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
_STUCK_LOOKS = 6


class Observer:
    """Looks at the server and at the rollouts of one namespace every `every_s` seconds, once it is connected."""

    def __init__(self, driver: Driver, namespace: str, every_s: float) -> None:
        self._driver = driver
        self._path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
        self._every_s = every_s
        self._connection: kopf.ConnectionInfo | None = None
        self._unchanged: dict[str, tuple[str, float]] = {}
        self._last_trouble = ""
        self._task: asyncio.Task[None] | None = None

    def connect(self, connection: kopf.ConnectionInfo) -> None:
        """Of the login; a later one replaces it, as a token of a service account ends."""
        self._connection = connection

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="observer")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            if self._connection is None:
                continue
            try:
                await self._look(self._connection)
                self._last_trouble = ""
            except (httpx.HTTPError, StepserveError) as error:
                if str(error) != self._last_trouble:
                    log.warning("cannot compare the rollouts with what is active: %s", error)
                self._last_trouble = str(error)

    async def _look(self, connection: kopf.ConnectionInfo) -> None:
        """Raises StepserveError of the server, httpx.HTTPError of Kubernetes."""
        active = await self._driver.active()
        async with httpx.AsyncClient(
            base_url=connection.server,
            headers=connection.as_http_headers(),
            verify=connection.as_ssl_context(),
            timeout=_TIMEOUT_S,
            trust_env=False,
        ) as kubernetes:
            answer = await kubernetes.get(self._path)
            answer.raise_for_status()
            items = answer.json()["items"]
            for item in items:
                if self._is_behind(item, active):
                    await self._touch(kubernetes, item, active)
        there = {item["metadata"]["uid"] for item in items}
        self._unchanged = {uid: known for uid, known in self._unchanged.items() if uid in there}

    def _is_behind(self, item: Mapping[str, Any], active: ActiveModel | None) -> bool:
        status, meta = status_of(item), item["metadata"]
        if status.phase not in {None, "Progressing"} and status.observed_generation == meta["generation"]:
            self._unchanged.pop(meta["uid"], None)
            said = (active.id, active.digest) if active is not None else (None, None)
            return (status.active, status.digest) != said
        now_s = time.monotonic()
        version, since_s = self._unchanged.get(meta["uid"], ("", now_s))
        if version != meta["resourceVersion"]:
            self._unchanged[meta["uid"]] = (meta["resourceVersion"], now_s)
            return False
        return now_s - since_s >= _STUCK_LOOKS * self._every_s

    async def _touch(self, kubernetes: httpx.AsyncClient, item: Mapping[str, Any], active: ActiveModel | None) -> None:
        """A rollout that was deleted meanwhile needs no look, and one that was changed gets one anyway."""
        seen = f"{active.id if active is not None else '-'} at {datetime.now(UTC).isoformat(timespec='milliseconds')}"
        answer = await kubernetes.patch(
            f"{self._path}/{item['metadata']['name']}",
            json={"metadata": {"annotations": {OBSERVED_ANNOTATION: seen}}},
            headers={"content-type": "application/merge-patch+json"},
        )
        if answer.status_code not in {404, 409}:
            answer.raise_for_status()
