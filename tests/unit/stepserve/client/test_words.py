"""Times and numbers on a terminal."""

import time
from datetime import UTC, datetime

import pytest

from stepserve.client.words import duration, moment


def test_moments_are_in_this_machines_zone_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    try:
        assert moment(datetime(2026, 1, 31, 6, 40, tzinfo=UTC)) == "2026-01-31 07:40:00 CET"
        assert moment("2026-01-31T06:40:00.123+00:00") == "2026-01-31 07:40:00 CET"
        assert (moment(None), moment("never")) == ("", "never")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, ""), (0.0421, "42 ms"), (3.21, "3.21 s"), (320.4, "5 min 20 s"), (3725, "1 h 2 min"), (93_700, "1 d 2 h")],
)
def test_durations_are_in_their_two_largest_units(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said
