"""Names of jobs."""

import re
from datetime import UTC, datetime

from control.jobs.submission import new_job_id

MOMENT = datetime(2025, 11, 22, 5, 30, 0, tzinfo=UTC)


def test_job_ids_tell_type_and_time() -> None:
    assert re.fullmatch(r"eval_20251122_053000_[a-z0-9]{4}", new_job_id("eval", MOMENT))


def test_job_ids_of_one_second_differ() -> None:
    assert len({new_job_id("eval", MOMENT) for _ in range(50)}) > 45
