"""From lines of the log to the result's numbers; the same ones after any number of crashes."""

from collections import Counter
from typing import Any

from datagen.attempts_log import AttemptLine

MOST_LISTED = 20


class Tally:
    def __init__(self) -> None:
        self.attempts = 0
        self.accepted = 0
        self._rejected: Counter[str] = Counter()
        self._methods: Counter[str] = Counter()
        self._items = 0
        self._engine_errors = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._seconds: dict[int, float] = {}
        self._busy_s: dict[int, float] = {}
        self._contaminated: list[dict[str, Any]] = []

    @property
    def next_run(self) -> int:
        return max(self._seconds, default=-1) + 1

    @property
    def rejected(self) -> dict[str, int]:
        """By reason, the commonest first."""
        return dict(self._rejected.most_common())

    def add(self, line: AttemptLine) -> None:
        self.attempts += 1
        self.accepted += len(line.accepted)
        self._rejected.update(rejection["reason"] for rejection in line.rejected)
        self._methods.update(record["metadata"]["verify_method"] for record in line.accepted)
        self._items += line.items
        self._engine_errors += line.engine_errors
        self._prompt_tokens += line.prompt_tokens
        self._completion_tokens += line.completion_tokens
        self._seconds[line.run] = max(self._seconds.get(line.run, 0.0), line.at_s)
        self._busy_s[line.run] = max(self._busy_s.get(line.run, 0.0), line.busy_s)
        for rejection in line.rejected:
            if rejection["reason"] == "contaminated" and len(self._contaminated) < MOST_LISTED:
                self._contaminated.append(rejection["detail"])

    @property
    def contaminated(self) -> list[dict[str, Any]]:
        """The first few of what gave a test question away; attempts.jsonl has all."""
        return self._contaminated

    def result(self) -> dict[str, Any]:
        """`seconds` are those of work; `engine_busy_share` is of them."""
        seconds, busy_s = sum(self._seconds.values()), sum(self._busy_s.values())
        tokens = self._prompt_tokens + self._completion_tokens
        return {
            "accepted": self.accepted,
            "rejected": self.rejected,
            "rejected_total": self._rejected.total(),
            "attempts": self.attempts,
            "verified_by": dict(self._methods.most_common()),
            "generations": self._items,
            "engine_errors": self._engine_errors,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "tokens_per_accepted_example": tokens / self.accepted if self.accepted else None,
            "tokens_per_s": self._completion_tokens / seconds if seconds else None,
            "seconds": seconds,
            "engine_busy_share": min(1.0, busy_s / seconds) if seconds else None,
        }
