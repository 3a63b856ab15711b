from datetime import datetime, timedelta, timezone

import pytest

from control.power.profiles import Choice, InForce, clamped, in_force
from control.telemetry.cards import PowerRange
from stepserve.settings import PowerSettings

HERE = timezone(timedelta(hours=2))
NIGHT = [{"start": "22:00", "end": "07:00", "profile": "quiet"}]


def at(day: int, clock: str) -> datetime:
    return datetime.fromisoformat(f"2025-11-{day:02d}T{clock}:00").replace(tzinfo=HERE)


def settings(**values: object) -> PowerSettings:
    return PowerSettings.model_validate(values)


@pytest.mark.parametrize(
    ("now", "holds"),
    [
        (at(1, "21:59"), InForce(None, "none")),
        (at(1, "22:00"), InForce("quiet", "schedule")),
        (at(2, "03:00"), InForce("quiet", "schedule")),
        (at(2, "06:59"), InForce("quiet", "schedule")),
        (at(2, "07:00"), InForce(None, "none")),
    ],
)
def test_a_window_over_midnight(now: datetime, holds: InForce) -> None:
    assert in_force(settings(schedule=NIGHT), None, now) == holds


def test_a_choice_made_in_a_window_holds_until_the_next_one_begins() -> None:
    night = settings(schedule=NIGHT)
    choice = Choice("max", at(2, "01:00"))
    assert in_force(night, choice, at(2, "02:00")) == InForce("max", "chosen")
    assert in_force(night, choice, at(2, "12:00")) == InForce("max", "chosen")
    assert in_force(night, choice, at(2, "23:00")) == InForce("quiet", "schedule")
    assert in_force(night, choice, at(3, "08:00")) == InForce("max", "chosen")


def test_the_setting_holds_until_somebody_chooses() -> None:
    wish = settings(profile="normal")
    assert in_force(wish, None, at(1, "12:00")) == InForce("normal", "settings")
    assert in_force(wish, Choice("quiet", at(1, "11:00")), at(1, "12:00")) == InForce("quiet", "chosen")


def test_a_choice_that_the_settings_forgot_counts_for_nothing() -> None:
    assert in_force(settings(profile="normal"), Choice("mine", at(1, "11:00")), at(1, "12:00")).profile == "normal"


def test_limits_are_brought_into_what_the_card_allows() -> None:
    allowed = PowerRange(min_w=200, max_w=300, default_w=300)
    assert [clamped(watts, allowed) for watts in (100, 250, 350)] == [200, 250, 300]
    assert clamped(350, None) == 350
