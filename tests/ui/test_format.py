"""Numbers and times as people read them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from ui.format import NOTHING, ago, chance, moment, number, points

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def test_a_time_has_its_zone() -> None:
    assert moment(NOON) == "2026-07-01 12:00:00 UTC"
    assert moment(NOON, ZoneInfo("Europe/Berlin")) == "2026-07-01 14:00:00 CEST"
    assert moment(None) == NOTHING


@pytest.mark.parametrize(
    ("passed_s", "said"),
    [(-5, "just now"), (1, "just now"), (59, "59 s ago"), (200, "3 min ago"), (7300, "2 h ago"), (200_000, "2 d ago")],
)
def test_what_is_past_is_told_in_whole_units(passed_s: float, said: str) -> None:
    assert ago(NOON, NOON + timedelta(seconds=passed_s)) == said


def test_differences_are_points_and_digits_mean_something() -> None:
    assert points(0.0634) == "+6.3 points"
    assert points(-0.02) == "-2.0 points"
    assert (number(0.93671), number(2e-9), number(1.0)) == ("0.9367", "2e-09", "1")
    assert (chance(2e-9), chance(0.04321), chance(None)) == ("< 0.001", "0.043", NOTHING)
