"""How long a job rests, by hand-worked values."""

from datetime import UTC, datetime

import pytest

from control.jobs.backoff import LONGEST_REST_S, believable_until, rest_s


@pytest.mark.parametrize(("setbacks", "whole_s"), [(1, 5), (2, 10), (3, 20), (7, 320), (8, 600), (1000, 600)])
def test_rests_double_up_to_the_longest(setbacks: int, whole_s: float) -> None:
    assert rest_s(setbacks, 0.0) == whole_s
    assert rest_s(setbacks, 0.5) == whole_s * 0.75


def test_every_rest_begun_by_now_is_believed() -> None:
    now = datetime(2025, 11, 22, tzinfo=UTC)
    assert (believable_until(now) - now).total_seconds() == LONGEST_REST_S >= rest_s(99, 0.0)
