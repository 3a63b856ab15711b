"""An ending is written once, by whoever still holds the job; all others are told that they came second."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from control.database.tables import JobRow
from control.jobs.ending import Cancelled, Done, Ending, Failed, Lost, Requeued
from tests.integration.worker_pool import WorkerPool, worker_pool

pytestmark = pytest.mark.usefixtures("each_database")

ENDINGS: list[tuple[Ending, str, str | None, str, str | None]] = [
    (Done({"accuracy": 1.0}), "done", None, "done", None),
    (Failed("a broken dataset"), "failed", "a broken dataset", "failed", "a broken dataset"),
    (Cancelled(), "cancelled", None, "cancelled", None),
    (Requeued("the server stops"), "pending", None, "released", "the server stops"),
    (Requeued("paused", shown=True), "pending", "paused", "released", "paused"),
    (Lost("its process died"), "pending", None, "lost", "its process died"),
]
NAMES = ["done", "failed", "cancelled", "requeued", "paused", "lost"]


async def _taken(here: WorkerPool, owner: str = "me") -> JobRow:
    job = await here.queue.take(owner, ["count"])
    assert job is not None
    return job


def _run(base: Path, scenario: Callable[[WorkerPool], Awaitable[None]]) -> None:
    async def run() -> None:
        async with worker_pool(base) as here:
            await here.job()
            await scenario(here)

    asyncio.run(run())


@pytest.mark.parametrize(("ending", "status", "error", "outcome", "reason"), ENDINGS, ids=NAMES)
def test_an_ending_is_shown_by_the_job_and_by_its_attempt(
    tmp_path: Path, ending: Ending, status: str, error: str | None, outcome: str, reason: str | None
) -> None:
    async def scenario(here: WorkerPool) -> None:
        taken = await _taken(here)
        ended = await here.queue.end(taken, ending)
        assert ended is not None
        job = await here.queue.get(taken.id)
        assert (job.status, job.error, job.lease_owner) == (status, error, None)
        assert job.result == ({"accuracy": 1.0} if status == "done" else None)
        assert (job.finished_at is None) == (status == "pending")
        [attempt] = await here.queue.attempts(taken.id)
        assert (attempt.outcome, attempt.error) == (outcome, reason)
        assert attempt.ended_at is not None

    _run(tmp_path, scenario)


@pytest.mark.parametrize("ending", [each[0] for each in ENDINGS], ids=NAMES)
def test_a_cancellation_that_came_first_has_the_last_word(tmp_path: Path, ending: Ending) -> None:
    async def scenario(here: WorkerPool) -> None:
        taken = await _taken(here)
        await here.queue.cancel(taken.id)
        assert await here.queue.end(taken, ending) is None
        job = await here.queue.get(taken.id)
        assert (job.status, job.result, job.error) == ("cancelled", None, None)
        assert [attempt.outcome for attempt in await here.queue.attempts(taken.id)] == ["cancelled"]

    _run(tmp_path, scenario)


@pytest.mark.parametrize("ending", [each[0] for each in ENDINGS], ids=NAMES)
def test_an_attempt_that_was_thought_dead_changes_nothing_of_the_next_one(tmp_path: Path, ending: Ending) -> None:
    async def scenario(here: WorkerPool) -> None:
        first = await _taken(here)
        [lease] = await here.queue.leases()
        assert await here.queue.end(lease, Lost("its worker gave no sign of life")) is not None
        second = await _taken(here, "another")
        assert await here.queue.end(first, ending) is None
        job = await here.queue.get(first.id)
        assert (job.status, job.lease_owner, job.attempt) == ("running", "another", 2)
        assert [attempt.outcome for attempt in await here.queue.attempts(first.id)] == ["lost", None]
        assert await here.queue.end(second, Done({})) is not None

    _run(tmp_path, scenario)


def test_a_lease_that_was_renewed_since_it_was_seen_is_not_lost(tmp_path: Path) -> None:
    async def scenario(here: WorkerPool) -> None:
        taken = await _taken(here)
        [seen] = await here.queue.leases()
        assert await here.queue.heartbeat(taken.id, "me")
        assert await here.queue.end(seen, Lost("its worker gave no sign of life")) is None
        assert (await here.queue.get(taken.id)).status == "running"
        assert [attempt.outcome for attempt in await here.queue.attempts(taken.id)] == [None]

    _run(tmp_path, scenario)


def test_failures_are_counted_until_a_person_retries(tmp_path: Path) -> None:
    async def scenario(here: WorkerPool) -> None:
        taken = await _taken(here)
        await here.queue.end(taken, Requeued("the engine died", failures=3))
        taken = await _taken(here)
        assert taken.failures == 3
        await here.queue.end(taken, Failed("given up"))
        assert (await here.queue.retry(taken.id)).failures == 0

    _run(tmp_path, scenario)
