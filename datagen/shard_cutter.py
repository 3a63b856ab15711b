"""Cuts accepted examples, in the log's order, into shards: as soon as one is full, or all of them at the end."""

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import Any

from datagen.attempts_log import AttemptLine
from datagen.shards import ShardFacts, ShardWriter
from stepserve.jobs.jsonl_log import JsonlLog

_LINES_AT_ONCE = 500


class ShardCutter:
    """`withheld`: nothing is published before `publish_rest`, and nothing is kept in memory until then."""

    def __init__(self, writer: ShardWriter, size: int, *, withheld: bool) -> None:
        self.shards: list[ShardFacts] = []
        self._writer = writer
        self._size = size
        self._withheld = withheld
        self._open: list[dict[str, Any]] = []

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        if not self._withheld:
            self._open.extend(records)

    async def publish_full(self, log: JsonlLog[AttemptLine]) -> None:
        """What a shard was made of must outlive a loss of power as the shard does."""
        if len(self._open) >= self._size:
            await asyncio.to_thread(log.sync)
        while len(self._open) >= self._size:
            self.shards.append(await self._writer.publish(len(self.shards), self._open[: self._size]))
            del self._open[: self._size]

    async def publish_rest(self, log: JsonlLog[AttemptLine]) -> None:
        """The examples that fill no shard, and what was withheld, which is read from the log again."""
        await asyncio.to_thread(log.sync)
        if self._withheld:
            self._withheld = False
            lines = log.recover()
            while batch := await asyncio.to_thread(lambda: list(islice(lines, _LINES_AT_ONCE))):
                for line in batch:
                    self._open.extend(line.accepted)
                await self.publish_full(log)
        if self._open:
            self.shards.append(await self._writer.publish(len(self.shards), self._open))
            self._open = []
