"""The life of a job, as a table."""

import pytest

from control.jobs.states import STATUSES, Status, may_become


@pytest.mark.parametrize("target", STATUSES)
def test_done_is_final(target: Status) -> None:
    assert not may_become("done", target)


@pytest.mark.parametrize("over", ["failed", "cancelled"])
def test_only_a_retry_leads_back(over: Status) -> None:
    assert [target for target in STATUSES if may_become(over, target)] == ["pending"]


def test_nothing_is_done_that_never_ran() -> None:
    assert [status for status in STATUSES if may_become(status, "done")] == ["running"]


def test_a_running_job_can_go_back_to_the_queue() -> None:
    assert may_become("running", "pending")
