"""Times and numbers as people read them on a terminal."""

from datetime import datetime


def moment(when: datetime | str | None) -> str:
    """To the second, in this machine's time zone with its name: `2026-01-31 07:40:00 CET`. A text is ISO 8601; what is
    not stays as it is.
    """
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError:
            return str(when)
    return "" if when is None else when.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def duration(seconds: float | None) -> str:
    """In the two largest units: `42 ms`, `3.2 s`, `5 min 20 s`, `1 d 2 h`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
