"""What a push may say in its URL."""

from dataclasses import dataclass, replace
from typing import cast, get_args
from urllib.parse import parse_qsl

from gateway.errors import InvalidField
from stepserve.contract import InFlightPolicy

_LONGEST_LABEL = 128
_MOST_SECONDS = 3600.0
_NAMES = ("version", "persist", "in_flight", "timeout_s", "base")


@dataclass(frozen=True, slots=True)
class PushOptions:
    """`label`: the trainer's own name of the version. `persist`: it becomes a checkpoint on disk too. `timeout_s`: how
    long the requests inside may take to end. `base`: the body is a delta for the weights with this digest.
    """

    label: str | None = None
    persist: bool = False
    in_flight: InFlightPolicy = "finish"
    timeout_s: float = 300.0
    base: str | None = None

    def with_requests(self, in_flight: InFlightPolicy) -> "PushOptions":
        """The same, with that done about the requests inside."""
        return replace(self, in_flight=in_flight)

    @classmethod
    def of(cls, query: bytes) -> "PushOptions":
        """Raises InvalidField."""
        said: dict[str, str] = {}
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            if name not in _NAMES:
                raise _Wrong(name, f"is not a parameter of this route; known are {', '.join(_NAMES)}")
            said[name] = value
        label = said.get("version")
        if label is not None:
            check_label("version", label)
        in_flight = said.get("in_flight", "finish")
        if in_flight not in get_args(InFlightPolicy):
            raise _Wrong("in_flight", f"must be one of {', '.join(get_args(InFlightPolicy))}, not {in_flight[:50]!r}")
        if said.get("persist", "false") not in ("true", "false"):
            raise _Wrong("persist", "must be true or false")
        base = said.get("base")
        if base is not None:
            check_label("base", base)
        return cls(label, said.get("persist") == "true", cast("InFlightPolicy", in_flight), _seconds(said), base)


def check_label(field: str, label: str) -> None:
    """Raises InvalidField."""
    if not (0 < len(label) <= _LONGEST_LABEL and label.isprintable()):
        raise _Wrong(field, f"must be 1 to {_LONGEST_LABEL} printable characters")


class _Wrong(InvalidField):
    status = 422


def _seconds(said: dict[str, str]) -> float:
    try:
        seconds = float(said.get("timeout_s", "300"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_SECONDS:
        raise _Wrong("timeout_s", f"must be a number of seconds up to {_MOST_SECONDS:g}")
    return seconds
