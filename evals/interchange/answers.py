"""What another harness's log says of its questions, in one form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class Unreadable(Exception):
    """The log is not what it was said to be; the message says why."""


@dataclass(frozen=True, slots=True)
class ForeignAnswer:
    """`value`: the score by the run's metric; None where there is none, and `error` says why."""

    id: str
    input: str | list[dict[str, Any]]
    target: str
    prediction: str
    value: float | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignRun:
    """`harness`: inspect or lm_eval."""

    harness: str
    task: str
    metric: str
    answers: Sequence[ForeignAnswer]


def as_text(value: Any) -> str:
    """Of what may be a text, a list of texts (the first one) or of parts of a message (all of them)."""
    if isinstance(value, list):
        parts = [part.get("text", "") if isinstance(part, dict) else part for part in value]
        return (
            "\n".join(map(str, parts))
            if any(isinstance(part, dict) for part in value)
            else as_text(parts[0] if parts else "")
        )
    return "" if value is None else str(value)
