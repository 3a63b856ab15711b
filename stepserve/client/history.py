"""What was served and measured, as client.calls has the other routes."""

from typing import Any

from stepserve.client.wire import Call, as_it_is


def history(window_s: int = 3600, samples: int = 300) -> Call[dict[str, Any]]:
    """The last `window_s` seconds in about so many `samples`, the oldest first, and `marks`: pushes and deaths."""
    return Call("GET", "/history", as_it_is, params={"window_s": window_s, "samples": samples})
