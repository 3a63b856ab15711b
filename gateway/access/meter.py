"""Counts what one request really used, where the tokens are made."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Meter:
    """`model` is the one that answered; None while none has. `begun`: an engine has taken the request."""

    model: str | None = None
    begun: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


METER: ContextVar[Meter | None] = ContextVar("METER", default=None)
