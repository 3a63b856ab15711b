"""The tables of traffic that is kept: who consented, and what was asked, answered and thought of it."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from control.database.tables import Base


class TrafficConsentRow(Base):
    """`by` said at `at` that the key's traffic may be kept, or (`keep` false) may not any more. Rows are never changed.

    `key_id` is `anonymous` for requests without a key, and `by` then `settings`.
    """

    __tablename__ = "traffic_consents"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    key_id: Mapped[str]
    keep: Mapped[bool]
    by: Mapped[str]
    at: Mapped[datetime]

    __table_args__ = (Index(None, "key_id", "id"),)


class TrafficRow(Base):
    """A request and its answer, redacted. `owner`: the key that asked. `content` has `prompt`, `answer`, `path` and
    `finish_reason`; `prompt_sha` is the same for the same prompt. `rating` and what follows: of the last feedback.
    """

    __tablename__ = "traffic"

    owner: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(primary_key=True)
    answered_at: Mapped[datetime]
    model: Mapped[str]
    digest: Mapped[str]
    prompt_sha: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[dict[str, Any]]
    rating: Mapped[int | None]
    correction: Mapped[str | None] = mapped_column(JSON(none_as_null=True))
    rated_by: Mapped[str | None]
    rated_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "request_id"),
        Index(None, "owner", "answered_at"),
        Index(None, "answered_at"),
        Index(None, "prompt_sha"),
    )
