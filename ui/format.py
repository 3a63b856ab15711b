"""Numbers and times as people read them."""

from datetime import UTC, datetime, tzinfo

from stepserve.client import words

NOTHING = "\N{EN DASH}"


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f} %"


def size(count_bytes: float | None) -> str:
    if count_bytes is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if count_bytes < 1000:
            return f"{count_bytes:.3g} {unit}"
        count_bytes /= 1000
    return f"{count_bytes:.3g} TB"


def duration(seconds: float | None) -> str:
    return NOTHING if seconds is None else words.duration(seconds)


def milliseconds(value: float | None) -> str:
    return duration(None if value is None else value / 1000)


def moment(when: datetime | None, zone: tzinfo = UTC) -> str:
    """With the zone's name, since nobody can tell from the numbers."""
    return NOTHING if when is None else when.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def ago(when: datetime | None, now: datetime) -> str:
    """In whole units. A clock that is a little behind makes nothing lie in the future."""
    if when is None:
        return NOTHING
    seconds = int((now - when).total_seconds())
    if seconds < 2:
        return "just now"
    for unit_s, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds // unit_s} {name} ago"
    return f"{seconds} s ago"


def points(difference: float | None) -> str:
    """A difference of two shares, which is not itself a share of anything."""
    return NOTHING if difference is None else f"{100 * difference:+.1f} points"


def number(value: float | None) -> str:
    """Four digits that mean something."""
    return NOTHING if value is None else f"{value:.4g}"


def chance(p: float | None) -> str:
    """A p-value; below a thousandth nobody reads the digits."""
    return NOTHING if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"
