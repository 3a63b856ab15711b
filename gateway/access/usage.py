"""Running totals of what keys used, for /metrics and for the database."""

from collections.abc import Callable
from datetime import UTC, datetime

from prometheus_client import Counter

from gateway.access.meter import Meter
from stepserve.access import Usage

KEY_REQUESTS = Counter("stepserve_key_requests_total", "Requests that a model answered, by key.", ["key", "model"])
KEY_TOKENS = Counter("stepserve_key_tokens_total", "Tokens used, by key.", ["key", "model", "kind"])

_Counted = tuple[str, str, str]


class UsageTotals:
    """Since this process started, by key, model and day (UTC). Totals are told again until they were heard."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._totals: dict[_Counted, tuple[int, int, int]] = {}
        self._untold: set[_Counted] = set()
        self._series: dict[tuple[str, str], tuple[Counter, Counter, Counter]] = {}

    def add(self, key_id: str, meter: Meter, answered: int = 1) -> None:
        """Notes what `answered` requests used; what no model answered counts as nothing."""
        model = meter.model
        if model is None:
            return
        counted = (key_id, model, self._now().date().isoformat())
        requests, prompt, completion = self._totals.get(counted, (0, 0, 0))
        used = (answered, meter.prompt_tokens, meter.completion_tokens)
        self._totals[counted] = (requests + used[0], prompt + used[1], completion + used[2])
        self._untold.add(counted)
        series = self._series.get((key_id, model))
        if series is None:  # looking one up costs more than counting
            series = self._series[key_id, model] = (
                KEY_REQUESTS.labels(key_id, model),
                KEY_TOKENS.labels(key_id, model, "prompt"),
                KEY_TOKENS.labels(key_id, model, "completion"),
            )
        for counter, amount in zip(series, used, strict=True):
            counter.inc(amount)

    def untold(self) -> list[Usage]:
        """What has changed since it was last told and heard."""
        return [
            Usage(
                key_id=key_id,
                model=model,
                day=day,
                requests=totals[0],
                prompt_tokens=totals[1],
                completion_tokens=totals[2],
            )
            for key_id, model, day in sorted(self._untold)
            for totals in (self._totals[key_id, model, day],)
        ]

    def heard(self, told: list[Usage]) -> None:
        """These totals are in the database. What changed meanwhile stays untold; days that are over are forgotten."""
        today = self._now().date().isoformat()
        for usage in told:
            counted = (usage.key_id, usage.model, usage.day)
            if self._totals.get(counted) == (usage.requests, usage.prompt_tokens, usage.completion_tokens):
                self._untold.discard(counted)
        for counted in [each for each in self._totals if each[2] < today and each not in self._untold]:
            del self._totals[counted]
