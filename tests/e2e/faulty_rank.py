"""Stepserve's part of a worker, whose second rank does what the name of a checkpoint's folder says."""

from typing import Any

from gateway.engine.process.worker import StepserveWorker

FAULTY_RANK = 1
UNREAD, UNREADABLE = "unread", "unreadable"


class FaultyRankWorker(StepserveWorker):
    """`unread`: this rank keeps its shard and says that it has loaded the new one; `unreadable`: it raises."""

    def stepserve_reload(self, path: str, weights: str | None = None) -> float:
        worker: Any = self
        if worker.rank == FAULTY_RANK and path.endswith(UNREAD):
            return 0.0
        if worker.rank == FAULTY_RANK and path.endswith(UNREADABLE):
            raise OSError("this rank cannot read its shard")
        return super().stepserve_reload(path, weights)
