"""Numbers and times as people read them."""

from datetime import UTC, datetime

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
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def milliseconds(value: float | None) -> str:
    return NOTHING if value is None else duration(value / 1000) if value >= 1000 else f"{value:.0f} ms"


def moment(when: datetime | None) -> str:
    """UTC, since the pages do not know where the reader is."""
    return NOTHING if when is None else when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
