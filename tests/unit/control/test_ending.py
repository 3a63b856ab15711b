"""How each attempt ends, over every way that a run can come out and every reason to stop it."""

import asyncio
import errno
from datetime import UTC, datetime

import pytest

from control.errors import (
    BadJob,
    DatabaseUnavailable,
    GatewayUnavailable,
    HubUnavailable,
    JobCancelled,
    JobPaused,
    ModelNotServed,
    NoRoom,
    NotFound,
    RunIsLocked,
    WrongWeights,
)
from control.jobs.ending import (
    LAPSED,
    LONGEST_BACKOFF_S,
    SHUTDOWN,
    TAKEN,
    AttemptFacts,
    Cancelled,
    Done,
    Ending,
    Failed,
    Lost,
    Outcome,
    Requeued,
    RetryPolicy,
    Stop,
    backoff_s,
    believable_until,
    ending_of,
    held,
    is_defect,
)

HELD = held("space on the disk of /")
POLICY = RetryPolicy(retries=3, first_backoff_s=5.0)
RESULT = {"accuracy": 1.0}
FULL = OSError(errno.ENOSPC, "No space left on device")
FULL_FILE = OSError(errno.ENOSPC, "No space left on device", "samples.jsonl")
AWAY = GatewayUnavailable("the engine died")
STOPPED: list[BaseException] = [asyncio.CancelledError(), JobCancelled("it was stopped")]
ERRORS: list[Exception] = [
    AWAY,
    HubUnavailable("the hub stalls"),
    JobPaused("room is needed"),
    FULL,
    ModelNotServed("it left"),
    RunIsLocked("an earlier attempt is still alive"),
    DatabaseUnavailable("locked"),
    BadJob("a broken dataset"),
    ZeroDivisionError("by zero"),
]
OUTCOMES: list[Outcome] = [RESULT, *STOPPED, *ERRORS]


def _end(outcome: Outcome, *, stop: Stop | None = None, failures: int = 0, made_progress: bool = False) -> Ending:
    return ending_of(outcome, AttemptFacts(stop, failures, made_progress, folder="/runs/eval/j"), POLICY)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=repr)
def test_a_row_that_was_taken_away_has_the_last_word_whatever_the_run_says(outcome: Outcome) -> None:
    assert _end(outcome, stop=TAKEN, failures=99) == Cancelled()


@pytest.mark.parametrize("stop", [None, SHUTDOWN, LAPSED, HELD])
def test_a_run_that_was_complete_before_it_could_be_stopped_is_done(stop: Stop | None) -> None:
    assert _end(RESULT, stop=stop) == Done(RESULT)


@pytest.mark.parametrize("outcome", STOPPED, ids=repr)
@pytest.mark.parametrize(
    ("stop", "ending"),
    [
        (SHUTDOWN, Requeued("the server stops")),
        (LAPSED, Requeued("the database was away for longer than the lease")),
        (HELD, Requeued("paused: space on the disk of /", shown=True)),
    ],
)
def test_a_stopped_run_goes_back_to_the_queue_at_once_and_counts_as_no_failure(
    outcome: Outcome, stop: Stop, ending: Ending
) -> None:
    assert _end(outcome, stop=stop, failures=99) == ending


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("stop", [SHUTDOWN, LAPSED, HELD])
def test_an_error_counts_as_such_though_the_run_was_told_to_stop_meanwhile(error: Exception, stop: Stop) -> None:
    assert _end(error, stop=stop, failures=1) == _end(error, failures=1)


def test_a_run_that_nobody_stopped_and_that_cancels_itself_has_failed() -> None:
    assert _end(asyncio.CancelledError()) == Failed("the run ended itself")


def test_a_run_that_finds_its_job_cancelled_is_cancelled() -> None:
    assert _end(JobCancelled("it was cancelled")) == Cancelled()


@pytest.mark.parametrize("error", [AWAY, HubUnavailable("the hub stalls")])
@pytest.mark.parametrize(
    ("failures", "made_progress", "counted", "pause_s"),
    [(0, False, 1, 5.0), (1, False, 2, 10.0), (2, False, 3, 20.0), (2, True, 1, 5.0), (99, True, 1, 5.0)],
)
def test_an_engine_that_died_is_waited_for_longer_while_attempts_make_no_progress(
    error: Exception, failures: int, made_progress: bool, counted: int, pause_s: float
) -> None:
    ending = _end(error, failures=failures, made_progress=made_progress)
    assert ending == Requeued(str(error), backoff_s=pause_s, failures=counted)


def test_a_job_out_of_attempts_fails_with_the_last_reason() -> None:
    assert _end(AWAY, failures=3) == Failed("given up after 4 attempts that got nowhere: the engine died")


@pytest.mark.parametrize(
    ("failures", "counted", "pause_s"), [(0, 1, 5.0), (3, 4, 40.0), (4, 5, 80.0), (5, 5, 80.0), (99, 5, 80.0)]
)
def test_a_job_that_waits_for_a_person_is_never_given_up(failures: int, counted: int, pause_s: float) -> None:
    paused = _end(JobPaused("room is needed"), failures=failures)
    assert paused == Requeued("room is needed", backoff_s=pause_s, failures=counted, shown=True)


@pytest.mark.parametrize(("error", "where"), [(FULL, "/runs/eval/j"), (FULL_FILE, "samples.jsonl")])
def test_a_full_disk_pauses_the_job_and_is_named(error: OSError, where: str) -> None:
    reason = f"the disk of {where} is full: the job goes on when there is space"
    assert _end(error) == Requeued(reason, backoff_s=5.0, failures=1, shown=True)


@pytest.mark.parametrize("error", [ModelNotServed("b left"), NoRoom("no room for b"), RunIsLocked("still alive")])
def test_waiting_for_a_model_or_an_earlier_attempt_is_no_failure(error: Exception) -> None:
    assert _end(error, failures=3) == Requeued(str(error), backoff_s=5.0)


def test_an_attempt_whose_writes_are_unknown_is_lost() -> None:
    assert _end(DatabaseUnavailable("locked"), failures=99) == Lost("its end could not be written", backoff_s=5.0)


@pytest.mark.parametrize("error", [BadJob("a broken dataset"), WrongWeights("other weights"), NotFound("no model")])
def test_an_expected_error_that_is_not_retryable_fails_the_job_in_its_own_words(error: Exception) -> None:
    assert _end(error) == Failed(str(error))
    assert not is_defect(error)


def test_a_defect_fails_the_job_with_its_type_and_a_reason_of_bounded_length() -> None:
    assert _end(ZeroDivisionError("by zero")) == Failed("ZeroDivisionError: by zero")
    assert _end(PermissionError(errno.EACCES, "denied", "/f")) == Failed("PermissionError: [Errno 13] denied: '/f'")
    ending = _end(ValueError("x" * 10_000))
    assert isinstance(ending, Failed)
    assert len(ending.reason) == 500


def test_only_what_nobody_expects_belongs_in_the_log_with_its_traceback() -> None:
    assert [error for error in ERRORS if is_defect(error)] == [ERRORS[-1]]
    assert is_defect(PermissionError(errno.EACCES, "denied"))


@pytest.mark.parametrize(("failures", "whole_s"), [(1, 5), (2, 10), (3, 20), (7, 320), (8, 600), (1000, 600)])
def test_backoffs_double_up_to_the_longest(failures: int, whole_s: float) -> None:
    assert backoff_s(failures, RetryPolicy(20)) == whole_s
    assert backoff_s(failures, RetryPolicy(20, jitter=0.5)) == whole_s * 0.75


def test_every_backoff_begun_by_now_is_believed() -> None:
    now = datetime(2025, 11, 22, tzinfo=UTC)
    assert (believable_until(now) - now).total_seconds() == LONGEST_BACKOFF_S >= backoff_s(99, RetryPolicy(20))
