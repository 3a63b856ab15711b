"""A route that will be removed, as the headers that say so."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import format_datetime


@dataclass(frozen=True, slots=True)
class Deprecation:
    """`since`: from that day on the route is deprecated. `sunset`: on that day, at midnight UTC, it may be removed.

    `successor`: the path to use instead. `headers` are `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link`.
    Raises ValueError for a sunset that does not come after `since`.
    """

    since: date
    sunset: date
    successor: str

    def __post_init__(self) -> None:
        if self.sunset <= self.since:
            raise ValueError(f"sunset {self.sunset} must be later than {self.since}, the day of the deprecation")

    @property
    def headers(self) -> dict[bytes, bytes]:
        return {
            b"deprecation": f"@{int(_midnight(self.since).timestamp())}".encode(),
            b"sunset": format_datetime(_midnight(self.sunset), usegmt=True).encode(),
            b"link": f'<{self.successor}>; rel="successor-version"'.encode(),
        }


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
