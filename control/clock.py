"""The only clock of control's records: UTC, with its time zone."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def iso(moment: datetime | None) -> str | None:
    """ISO 8601 with time zone, as every answer carries it."""
    return moment.isoformat() if moment else None
