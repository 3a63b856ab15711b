"""How an attempt at a job ends: a pure decision from the outcome of its run and the facts of the attempt.

outcome of the run                         ending
──────────────────────────────────────     ─────────────────────────────────────────────────────────
(the row was taken: cancelled, say)        Cancelled, whatever the run says: the row has the last word
a result                                   Done
cancelled, with a stop                     Requeued with the stop's reason
cancelled, without one                     Failed: the run ended itself
ModelNotServed, RunIsLocked                Requeued after a fixed backoff
GatewayUnavailable, HubUnavailable         Requeued after an exponential backoff; Failed when out of attempts
JobPaused, a full disk                     Requeued after a backoff of a minute or so, for ever
DatabaseUnavailable                        Lost, with a fixed backoff: nobody knows what was written
any other error                            Failed
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from control.errors import (
    DatabaseUnavailable,
    GatewayUnavailable,
    HubUnavailable,
    JobCancelled,
    JobPaused,
    ModelNotServed,
    RunIsLocked,
    ServiceError,
)
from control.jobs.states import AttemptOutcome
from stepserve.full_disk import is_disk_full

FIRST_BACKOFF_S: Final = 5.0
LONGEST_BACKOFF_S: Final = 600.0
MAX_PAUSED_FAILURES: Final = 5
_LONGEST_REASON = 500

Outcome = dict[str, Any] | BaseException
"""Of a run: its result, or what it raised."""


@dataclass(frozen=True, slots=True)
class Done:
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody else has changed the row already."""


@dataclass(frozen=True, slots=True)
class Requeued:
    """Back to pending, its files kept, for no attempt within `backoff_s`.

    `failures`: attempts in a row without progress, None to leave the count. `shown`: the reason is also the job's
    `error` until its next attempt.
    """

    reason: str
    backoff_s: float = 0.0
    failures: int | None = None
    shown: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """Back to pending: its runner is dead, or does not know what was written. No attempt within `backoff_s`."""

    reason: str
    backoff_s: float = 0.0


Ending = Done | Failed | Cancelled | Requeued | Lost


FROZEN: Final = Lost("its process stood still, and was ended")
FROZEN_TWICE: Final = Failed(
    "its process stood still while this job ran, for the second time: whatever the job does there does not end"
)


@dataclass(frozen=True, slots=True)
class Stop:
    """Why an attempt was told to end."""

    cause: Literal["taken", "shutdown", "held", "lapsed"]
    reason: str


TAKEN: Final = Stop("taken", "the job is not this runner's any more")
SHUTDOWN: Final = Stop("shutdown", "the server stops")
LAPSED: Final = Stop("lapsed", "the database was away for longer than the lease")


def held(reason: str) -> Stop:
    """Jobs of this type may not run now."""
    return Stop("held", f"paused: {reason}")


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """`stop`: why the attempt was told to end, if it was. `failures`: attempts in a row before this one without
    progress. `folder` names the disk in a message when the error itself does not.
    """

    stop: Stop | None = None
    failures: int = 0
    made_progress: bool = False
    folder: str = ""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`jitter` in [0, 1) shortens a backoff by up to a half."""

    retries: int
    first_backoff_s: float = FIRST_BACKOFF_S
    jitter: float = 0.0


def ending_of(outcome: Outcome, attempt: AttemptFacts, policy: RetryPolicy) -> Ending:
    """See the table above."""
    if attempt.stop == TAKEN:
        return Cancelled()
    if isinstance(outcome, dict):
        return Done(outcome)
    if isinstance(outcome, asyncio.CancelledError | JobCancelled):
        return _stopped(outcome, attempt.stop)
    return _after_error(outcome, attempt, policy)


def attempt_outcome(ending: Ending) -> tuple[AttemptOutcome, str | None]:
    """The attempt's row after it: how it ended, and why."""
    match ending:
        case Done():
            return "done", None
        case Failed(reason):
            return "failed", reason
        case Cancelled():
            return "cancelled", None
        case Requeued(reason):
            return "released", reason
        case Lost(reason):
            return "lost", reason


def is_defect(error: Exception) -> bool:
    """True for an error that nobody expects: it belongs in the log with its traceback."""
    disk_full = isinstance(error, OSError) and is_disk_full(error)
    return not isinstance(error, ServiceError) and not disk_full


def backoff_s(failures: int, policy: RetryPolicy) -> float:
    """After `failures` attempts in a row without progress (from 1)."""
    whole_s = min(policy.first_backoff_s * 2.0 ** (min(failures, 32) - 1), LONGEST_BACKOFF_S)
    return whole_s * (1 - policy.jitter / 2)


def believable_until(now: datetime) -> datetime:
    """The latest moment a backoff begun by `now` can end: a later one was written before the clock went back."""
    return now + timedelta(seconds=LONGEST_BACKOFF_S)


def _stopped(outcome: BaseException, stop: Stop | None) -> Ending:
    if stop is not None:
        return Requeued(stop.reason, shown=stop.cause == "held")
    return Cancelled() if isinstance(outcome, JobCancelled) else Failed("the run ended itself")


def _after_error(error: BaseException, attempt: AttemptFacts, policy: RetryPolicy) -> Ending:
    ending: Ending
    match error:
        case ModelNotServed() | RunIsLocked():
            ending = Requeued(str(error), backoff_s=policy.first_backoff_s)
        case GatewayUnavailable() | HubUnavailable():
            ending = _retried(str(error), attempt, policy)
        case JobPaused():
            ending = _paused(str(error), attempt, policy)
        case OSError() if is_disk_full(error):
            where = error.filename or attempt.folder
            ending = _paused(f"the disk of {where} is full: the job goes on when there is space", attempt, policy)
        case DatabaseUnavailable():
            ending = Lost("its end could not be written", backoff_s=policy.first_backoff_s)
        case ServiceError():
            ending = Failed(str(error))
        case _:
            ending = Failed(f"{type(error).__name__}: {error}"[:_LONGEST_REASON])
    return ending


def _retried(reason: str, attempt: AttemptFacts, policy: RetryPolicy) -> Ending:
    failures = _failures(attempt)
    if failures > policy.retries:
        return Failed(f"given up after {failures} attempts that got nowhere: {reason}")
    return Requeued(reason, backoff_s=backoff_s(failures, policy), failures=failures)


def _paused(reason: str, attempt: AttemptFacts, policy: RetryPolicy) -> Ending:
    """A person has to help: never given up, and tried again every minute or so."""
    failures = min(_failures(attempt), MAX_PAUSED_FAILURES)
    return Requeued(reason, backoff_s=backoff_s(failures, policy), failures=failures, shown=True)


def _failures(attempt: AttemptFacts) -> int:
    return 1 if attempt.made_progress else attempt.failures + 1
