"""The ledger of shards, in memory."""

from dataclasses import dataclass, field

from stepserve.jobs.ports import ShardEntry


@dataclass
class MemoryLedger:
    """Implements stepserve.jobs.ports.ShardLedger; `entries` in the order of allotment."""

    entries: dict[tuple[str, int], ShardEntry] = field(default_factory=dict)
    facts: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    async def allot(self, job_id: str, ordinal: int, folder: str, day: str, at_least: int) -> ShardEntry:
        if (job_id, ordinal) not in self.entries:
            given = [int(entry.name[-9:-6]) for entry in self.entries.values() if day in entry.name]
            name = f"shard_{day}_{max([at_least, *(number + 1 for number in given)]):03d}.jsonl"
            self.entries[job_id, ordinal] = ShardEntry(name, f"{folder}/{name}", "allotted")
        return self.entries[job_id, ordinal]

    async def stage(self, name: str, *, rows: int, size_bytes: int, sha256: str) -> None:
        self.facts[name] = (rows, size_bytes, sha256)
        self._become(name, "allotted", ShardEntry(name, self._of(name)[1].path, "staged"))

    async def publish(self, name: str) -> None:
        self._become(name, "staged", ShardEntry(name, self._of(name)[1].path, "published"))

    def _become(self, name: str, before: str, entry: ShardEntry) -> None:
        key, present = self._of(name)
        if present.state == before:
            self.entries[key] = entry

    def _of(self, name: str) -> tuple[tuple[str, int], ShardEntry]:
        return next((key, entry) for key, entry in self.entries.items() if entry.name == name)
