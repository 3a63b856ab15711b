"""report.json: one pass over a run's log, in as little memory after a million rows as after a thousand."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from datagen.attempts_log import AttemptLine
from datagen.decontamination import ContaminationIndex
from datagen.quality.measures import Measures
from stepserve.jobs.ports import CardUse

REPORT_FILE: Final = "report.json"
DUPLICATES: Final = ("duplicate", "near_duplicate", "duplicate_of_earlier_shard", "near_duplicate_of_earlier_shard")


class ReportMaker:
    """Fed with the log's lines in their order; accepted rows are cut into shards as the run cuts them."""

    def __init__(self, known: ContaminationIndex, shard_size: int) -> None:
        self._known = known
        self._shard_size = shard_size
        self._job, self._open = Measures(known), Measures(known)
        self._shards: list[dict[str, Any]] = []
        self._passed: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def add(self, lines: Iterable[AttemptLine]) -> None:
        """Blocks: some tenths of a millisecond a row."""
        for line in lines:
            for rejection in line.rejected:
                if "verifier" in rejection["detail"]:
                    self._failed[rejection["detail"]["verifier"]] += 1
            for record in line.accepted:
                for method in str(record["metadata"]["verify_method"]).split("+"):
                    self._passed[method] += 1
                self._open.add(record)
                if self._open.rows == self._shard_size:
                    self._close_shard()

    def report(self, about: dict[str, str], result: dict[str, Any], used: CardUse) -> dict[str, Any]:
        """Of everything that was added; `result` has the numbers of datagen.tally. No more is to be added."""
        if self._open.rows:
            self._close_shard()
        rows, rejected = self._job.rows, result["rejected"]
        joules = (used.energy or {}).get("joules")
        return {
            **about,
            "job": self._job.shown(),
            "yield": {
                "attempts": result["attempts"],
                "generations": result["generations"],
                "accepted": rows,
                "rejected": rejected,
                "accepted_share": _ratio(rows, rows + result["rejected_total"]),
                "by_verifier": self._verifiers(),
            },
            "duplicates_removed": {reason: rejected.get(reason, 0) for reason in DUPLICATES},
            "cost": {
                "prompt_tokens": result["prompt_tokens"],
                "completion_tokens": result["completion_tokens"],
                "tokens_per_row": _ratio(result["prompt_tokens"] + result["completion_tokens"], rows),
                "joules": joules,
                "joules_per_row": None if joules is None else _ratio(joules, rows),
                "gpu_seconds": used.gpu_seconds,
            },
            "shards": self._shards,
        }

    def _close_shard(self) -> None:
        self._shards.append(self._open.shown())
        self._job.merge(self._open)
        self._open = Measures(self._known)

    def _verifiers(self) -> dict[str, dict[str, Any]]:
        """`passed` are rows that were kept, `failed` are rejections."""
        names = [name for name in {**self._passed, **self._failed} if name != "none"]
        return {
            name: {
                "passed": self._passed[name],
                "failed": self._failed[name],
                "yield": _ratio(self._passed[name], self._passed[name] + self._failed[name]),
            }
            for name in names
        }


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
