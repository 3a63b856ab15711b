"""The numbers of pushed versions, which only grow, also over restarts; and news of what serves now."""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import InvalidField
from stepserve.durable import write_whole

log = logging.getLogger(__name__)

MINIMUM_HEADER = b"x-min-model-version"
EXACT_HEADER = b"x-model-version"
_LONGEST = 18  # digits


@dataclass(slots=True)
class Versions:
    """`file` keeps the last number of each model; None: they begin anew with the process. `waiting`: how many requests
    wait for another version.
    """

    file: Path | None = None
    waiting: int = field(default=0, init=False)
    _last: dict[str, int] = field(default_factory=dict, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            self._last = _read(self.file)

    async def next(self, model_id: str) -> int:
        """A number that no version of the model has had, nor will have after a crash. Raises OSError."""
        number = self._last.get(model_id, 0) + 1
        await self._write(model_id, number)
        return number

    async def reach(self, model_id: str, number: int) -> None:
        """Another gateway has given that number, which is not given again here. Raises OSError."""
        if number > self._last.get(model_id, 0):
            await self._write(model_id, number)

    async def _write(self, model_id: str, number: int) -> None:
        self._last[model_id] = number
        if self.file is not None:
            await asyncio.to_thread(write_whole, self.file, json.dumps(self._last))

    def announce(self) -> None:
        """Something else may serve than before."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self) -> None:
        """Returns at the next `announce`."""
        self.waiting += 1
        try:
            await self._changed.wait()
        finally:
            self.waiting -= 1


@dataclass(frozen=True, slots=True)
class Demand:
    """The version that a request wants to be answered by: an exact one, or that one and every later one."""

    number: int
    exact: bool

    def __str__(self) -> str:
        return f"exactly {self.number}" if self.exact else f"{self.number} or later"

    def is_met(self, number: int) -> bool:
        return number == self.number if self.exact else number >= self.number

    def is_past(self, number: int) -> bool:
        """Whether no later version will meet it either, unless the model is loaded from its files again."""
        return self.exact and number > self.number


def demand_of(headers: list[tuple[bytes, bytes]]) -> Demand | None:
    """What a request's headers demand. Raises InvalidField."""
    found: Mapping[bytes, bytes] = {name: value for name, value in headers if name in (MINIMUM_HEADER, EXACT_HEADER)}
    if not found:
        return None
    if len(found) > 1:
        raise InvalidField(EXACT_HEADER.decode(), "excludes x-min-model-version")
    name, value = next(iter(found.items()))
    if not value.isdigit() or len(value) > _LONGEST:
        raise InvalidField(name.decode(), f"must be a version's number, not {value[:50].decode('latin-1')!r}")
    return Demand(int(value), name == EXACT_HEADER)


def _read(file: Path) -> dict[str, int]:
    try:
        content = json.loads(file.read_bytes())
        return {str(name): int(number) for name, number in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.error("%s cannot be read, so versions of weights are counted anew: %s", file, error)
        return {}
