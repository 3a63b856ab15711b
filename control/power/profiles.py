"""Which profile holds, and what it comes to on a card. No effects here."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from control.telemetry.cards import PowerRange
from stepserve.settings import PowerSettings, PowerWindow

Source = Literal["chosen", "schedule", "settings", "none"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A profile that somebody asked for."""

    profile: str
    at: datetime


@dataclass(frozen=True, slots=True)
class InForce:
    """`profile` None: nobody chose one, the cards are left as they are."""

    profile: str | None
    source: Source


def in_force(settings: PowerSettings, choice: Choice | None, now: datetime) -> InForce:
    """The schedule's window that `now` (local time) lies in holds, unless somebody chose after it had begun.

    A choice that the settings do not know any more counts for nothing.
    """
    if choice is not None and choice.profile not in settings.profiles:
        choice = None
    for window in settings.schedule:
        began = _began(window, now)
        if began is not None and (choice is None or choice.at < began):
            return InForce(window.profile, "schedule")
    if choice is not None:
        return InForce(choice.profile, "chosen")
    return InForce(settings.profile, "settings" if settings.profile else "none")


def clamped(watts: float, allowed: PowerRange | None) -> float:
    """The nearest limit that the card takes."""
    return watts if allowed is None else min(max(watts, allowed.min_w), allowed.max_w)


def _began(window: PowerWindow, now: datetime) -> datetime | None:
    """When the window that `now` lies in began; None when it lies in none."""
    for day in (now, now - timedelta(days=1)):
        start, end = _at(day, window.start), _at(day, window.end)
        if end <= start:
            end = _at(day + timedelta(days=1), window.end)
        if start <= now < end:
            return start
    return None


def _at(day: datetime, clock: str) -> datetime:
    hour, minute = clock.split(":")
    return day.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
