"""What gateway and control tell each other of traffic that is kept, and the settings of both."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from stepserve.contract import Message

CONTROL_TRAFFIC_PATH = "/internal/traffic/keep"
CONTROL_FEEDBACK_PATH = "/internal/traffic/feedback"
TRAFFIC_PATH = "/traffic"
FEEDBACK_PATH = "/feedback"

PERSONAL = {
    "email": r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+",
    "api_key": r"\b(?:sk|pk|sy|hf|gh[opsu]|xox[abps]|glpat)[-_][A-Za-z0-9_-]{16,}",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "card": r"\b\d(?:[ -]?\d){12,18}\b",
    "phone": r"\+\d(?:[ ().-]{0,2}\d){7,14}\b",  # with a country's code
}
"""Patterns that the setting `redact` may name."""


class TrafficSettings(BaseModel):
    """Requests and answers that are kept to learn from. Nothing is kept unless this is `on` and its key consents.

    `without_keys`: requests without a key are kept too, where none is demanded. `share`: of the requests that may be
    kept. `max_exchange_bytes`: of a request and its answer together, or of a correction; larger ones are not kept.
    `max_age_days`: null is for ever. `max_bytes`: of all keys together; the oldest go first. `redact`: names of
    PERSONAL or patterns (as those of `filters`) whose matches are replaced before anything is written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: bool = False
    without_keys: bool = False
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_exchange_bytes: Annotated[int, Field(ge=1024, le=8 * 1024 * 1024)] = 256 * 1024
    max_age_days: Annotated[float, Field(gt=0)] | None = 30.0
    max_bytes: Annotated[int, Field(ge=0)] = 1024**3
    redact: list[Annotated[str, Field(min_length=1)]] = list(PERSONAL)
    replacement: str = "[redacted]"


Rating = Literal[-1, 1]


class Turn(Message):
    role: str
    content: str


class KeptExchange(Message):
    """A request and its answer, redacted. `owner`: the key that asked. `prompt`: turns, or text that is continued.

    `model` and `digest`: who answered. The same id later takes the place of an earlier one.
    """

    owner: str
    request_id: str
    answered_at: datetime
    path: str
    model: str
    digest: str
    prompt: list[Turn] | str
    answer: str
    finish_reason: str


class KeepTraffic(Message):
    exchanges: list[KeptExchange]


class FeedbackOrder(Message):
    """What somebody says of an answer, redacted. `key_id`: whose request it was, where an administrator says it."""

    request_id: str
    rating: Rating
    correction: str | None = None
    key_id: str | None = None
