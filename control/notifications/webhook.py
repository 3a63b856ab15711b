"""A webhook as it is asked for and kept: which events it wants, and where they go."""

import base64
import binascii
import secrets
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from control.notifications.events import KNOWN, matches
from control.notifications.trackers.entry import EVENTS as NUMERIC_EVENTS
from stepserve.request_model import RequestModel

Form = Literal["json", "slack"]
_PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)
_NEW_SECRET_BYTES = 32


class WebhookRequest(RequestModel):
    """`url`, `target`, the name of an installed target, or `tracker`, that of an experiment tracker with its `options`;
    a tracker is told of what has numbers alone. `secret` by the Standard Webhooks specification: `whsec_` and
    24 to 64 bytes in base64; without one a new webhook gets one, and an old one keeps its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(max_length=2000)] | None = None
    target: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    tracker: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    options: dict[str, Annotated[str, Field(min_length=1, max_length=2000)]] = Field(default={})
    events: Annotated[list[str], Field(min_length=1, max_length=50)] = Field(default=["*"])
    form: Form = "json"
    secret: str | None = None

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is not a URL: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment or port == 0:
            raise ValueError(f"{url!r} is not a URL such as https://example.com/hook")
        if parts.username or parts.password:
            raise ValueError("a user or password in a URL is not supported: it would be shown to every administrator")
        return url

    @field_validator("events")
    @classmethod
    def _name_events(cls, events: list[str]) -> list[str]:
        for pattern in events:
            if not any(matches([pattern], name) for name in KNOWN if name != "test"):
                raise ValueError(f"{pattern!r} matches no event; there are {', '.join(KNOWN)}")
        return events

    @field_validator("secret")
    @classmethod
    def _is_a_secret(cls, secret: str | None) -> str | None:
        if secret is not None:
            key_of(secret)
        return secret

    @property
    def wanted_events(self) -> list[str]:
        """A tracker that names none is told of those that have numbers."""
        named = self.tracker is None or "events" in self.model_fields_set
        return self.events if named else list(NUMERIC_EVENTS)

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        if [self.url, self.target, self.tracker].count(None) != 2:
            raise ValueError("url or target is needed, or tracker, and one of them alone")
        if self.options and self.tracker is None:
            raise ValueError("options: only a tracker takes some")
        return self


def new_secret() -> str:
    return _PREFIX + base64.b64encode(secrets.token_bytes(_NEW_SECRET_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """The bytes that sign. Raises ValueError."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("is not base64") from error
    if not secret.startswith(_PREFIX) or len(key) not in _SECRET_BYTES:
        raise ValueError(f"must be {_PREFIX} and {_SECRET_BYTES[0]} to {_SECRET_BYTES[-1]} bytes in base64")
    return key
