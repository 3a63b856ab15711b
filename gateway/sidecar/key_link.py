"""Keeps the keyring as new as control's database, and brings usage there: once a second, and when control pushes."""

import asyncio
import logging
from pathlib import Path

import httpx
from pydantic import ValidationError

from gateway.access.keyring import Keyring
from gateway.access.usage import UsageTotals
from stepserve.access import KeySet, SyncAnswer, SyncRequest
from stepserve.unix_http import unix_transport

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_FIRST_S = 0.1  # until control has answered once
_TIMEOUT_S = 5.0


def to_sidecar(socket: Path) -> httpx.AsyncClient:
    """The way to the control process of this machine."""
    return httpx.AsyncClient(transport=unix_transport(socket), base_url="http://control", timeout=_TIMEOUT_S)


class KeySync:
    """`control` is its own way to control, where `path` takes the exchange. `source` names this run of the gateway in
    the database. While control is away the keyring stays as it is.
    """

    def __init__(
        self,
        control: httpx.AsyncClient,
        path: str,
        keyring: Keyring,
        usage: UsageTotals,
        source: str,
        every_s: float = _EVERY_S,
    ) -> None:
        self._keyring = keyring
        self._usage = usage
        self._source = source
        self._every_s = every_s
        self._away = False
        self._compared = False
        self._others_may = asyncio.Event()
        self._answered = asyncio.Event()
        self._client = control
        self._path = path
        self._look()

    def put(self, keys: KeySet, asked_with: int | None = None) -> None:
        if self._keyring.put(keys, asked_with):
            log.info("keys: revision %d, %d keys", keys.revision, len(keys.keys))
        self._look()

    def accept(self, keys: KeySet) -> None:
        """As the machine's owner said: these keys, whatever was known before."""
        self._keyring.accept(keys)
        log.warning("keys: accepted revision %d, %d keys", keys.revision, len(keys.keys))
        self._look()

    async def others_may(self) -> None:
        """Waits until other machines may reach the server."""
        await self._others_may.wait()

    async def control_answers(self) -> None:
        """Returns at the next exchange in which control answers."""
        await self._answered.wait()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self.sync()
                seen = self._keyring.version[0] is not None or self._keyring.closed is not None
                await asyncio.sleep(self._every_s if seen else _FIRST_S)
        finally:
            await self._client.aclose()

    async def sync(self) -> None:
        """One exchange; what goes wrong is logged once, and tried again the next time.

        At first, after control was away and while the server is closed, all keys are asked for: a database that was
        put in the place of another may say the same revision.
        """
        epoch, revision = known = self._keyring.version
        if not self._compared or self._keyring.closed is not None:
            epoch, revision = None, -1
        told = self._usage.untold()
        request = SyncRequest(source=self._source, epoch=epoch, revision=revision, usage=told)
        try:
            answer = await self._client.post(
                self._path,
                content=request.model_dump_json(),
                headers={"content-type": "application/json"},
            )
            answer.raise_for_status()
            keys = SyncAnswer.model_validate_json(answer.content).keys
        except (httpx.HTTPError, ValidationError) as error:
            if not self._away:
                log.warning("the keys cannot be compared with control's: %s", error or type(error).__name__)
            self._away = True
            self._compared = False
            return
        self._away = False
        self._compared = True
        answered, self._answered = self._answered, asyncio.Event()
        answered.set()
        self._usage.heard(told)
        if keys is not None:
            self.put(keys, known[1])

    def _look(self) -> None:
        if self._keyring.lets_others_in:
            self._others_may.set()
