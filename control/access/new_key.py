"""What may be asked for a new key."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import AwareDatetime, ConfigDict, Field, model_validator

from stepserve.access import SCOPES, Scope
from stepserve.request_model import RequestModel

Limit = Annotated[int, Field(ge=1, le=1_000_000_000)]


class NewKey(RequestModel):
    """`expires_at`, or `expires_in_days` from now. A limit that is not given is none. `keep_traffic`: the key's holder
    consents that its requests and answers may be kept (setting traffic).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
    scopes: Annotated[list[Scope], Field(min_length=1)] = Field(default=["infer"])
    expires_at: AwareDatetime | None = None
    expires_in_days: Annotated[float, Field(gt=0, le=36_500)] | None = None
    requests_per_min: Limit | None = None
    tokens_per_min: Limit | None = None
    max_concurrent: Limit | None = None
    keep_traffic: bool = False

    @model_validator(mode="after")
    def _one_expiry(self) -> Self:
        if self.expires_at is not None and self.expires_in_days is not None:
            raise ValueError("expires_at and expires_in_days exclude each other")
        return self

    @property
    def sorted_scopes(self) -> list[str]:
        """Each once, in the order of SCOPES."""
        return [scope for scope in SCOPES if scope in self.scopes]

    def check(self, now: datetime) -> None:
        """Raises ValueError for a key that would be born expired."""
        if self.expires_at is not None and self.expires_at <= now:
            raise ValueError("expires_at: it is in the past")
