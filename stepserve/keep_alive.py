"""`keep_alive` as clients and operators write it: for how long a model that nobody uses stays loaded."""

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_UNIT = r"(?:ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"([-+]?)((?:{_NUMBER}{_UNIT})+|{_NUMBER})")  # as Go writes them: 1h30m
_PART = re.compile(rf"({_NUMBER})({_UNIT}?)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_LONGEST_S = 10 * 365 * 24 * 3600.0  # a clock's arithmetic stays exact enough; longer is for ever


def seconds_of(keep_alive: float | str) -> float:
    """Seconds of a number, or of a duration such as `5m`, `1h30m`, `0` or `-1`; negative is for ever.

    Raises ValueError.
    """
    found = _DURATION.fullmatch(str(keep_alive).strip())
    if found is None or isinstance(keep_alive, bool):
        raise ValueError(f"{str(keep_alive)[:50]!r} is not a duration such as 5m, 0 or -1")
    total_s = sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(found[2]))
    return -1.0 if (found[1] == "-" and total_s) or total_s > _LONGEST_S else total_s


def _seconds(value: object) -> object:
    return seconds_of(value) if isinstance(value, int | float | str) else value


KeepAlive = Annotated[
    float,
    BeforeValidator(_seconds),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, {"type": "string"}],
            "description": "seconds, or a duration such as 5m; 0: not at all; negative: for ever",
        }
    ),
]
