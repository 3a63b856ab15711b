"""Which checkpoints did not load, why, and until when they are left alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from stepserve.contract import FailedLoad, ModelRef


@dataclass(frozen=True, slots=True)
class _Failure:
    digest: str
    error: str
    at: datetime
    monotonic_s: float


class FailedLoads:
    """One entry a model id, the latest. An explicit switch may try again at once; a mere request may not."""

    def __init__(self, cool_down_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._cool_down_s = cool_down_s
        self._clock_s = clock_s
        self._failures: dict[str, _Failure] = {}

    def note(self, model: ModelRef, error: str) -> None:
        self._failures[model.id] = _Failure(model.digest, error, datetime.now(UTC), self._clock_s())

    def forget(self, model_id: str) -> None:
        self._failures.pop(model_id, None)

    def cooling(self, model: ModelRef) -> FailedLoad | None:
        """The failure that keeps this very content from being tried again now."""
        failure = self._failures.get(model.id)
        if failure is None or failure.digest != model.digest or self._left_s(failure) <= 0:
            return None
        return self._shown(model.id, failure)

    def snapshot(self) -> list[FailedLoad]:
        return [self._shown(name, failure) for name, failure in self._failures.items()]

    def _left_s(self, failure: _Failure) -> float:
        return failure.monotonic_s + self._cool_down_s - self._clock_s()

    def _shown(self, name: str, failure: _Failure) -> FailedLoad:
        return FailedLoad(
            id=name,
            digest=failure.digest,
            error=failure.error,
            failed_at=failure.at.isoformat(),
            retry_in_s=round(max(0.0, self._left_s(failure)), 1),
        )
