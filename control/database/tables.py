"""The tables. `jobs.status` is also written by people with `sqlite3`, so its name and values are a contract."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column
from sqlalchemy.types import TypeDecorator

NO_DIGEST = ""  # the `model_digest` of a job that runs on no model's content

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


UNREADABLE_TIME = datetime(1970, 1, 1, tzinfo=UTC)
UNREADABLE = "unreadable"  # the one key of an object in place of what is none; its value is what stands there


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets the zone, so it is taken off on the way in and put back on the way out.

    SQLite also keeps what is no moment, where somebody wrote it by hand: that is read as UNREADABLE_TIME, so that one
    odd row does not hide, or hold up, all others.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        return _or_else(super().result_processor(dialect, coltype), lambda _: UNREADABLE_TIME)


class JsonObject(TypeDecorator[dict[str, Any]]):
    """A JSON object. What somebody else wrote there is read as an object that says so (`UNREADABLE`)."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, Any] | None:  # noqa: ARG002 - SQLAlchemy's
        return value if value is None or isinstance(value, dict) else _unreadable(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], dict[str, Any] | None] | None:
        return _or_else(super().result_processor(dialect, coltype), _unreadable)


def _unreadable(value: Any) -> dict[str, Any]:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return {UNREADABLE: text[:200]}


def _or_else(read: Callable[[Any], Any] | None, odd: Callable[[Any], Any]) -> Callable[[Any], Any] | None:
    if read is None:
        return None

    def tolerant(value: Any) -> Any:
        try:
            return read(value)
        except (ValueError, TypeError, RecursionError):
            return odd(value)

    return tolerant


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        datetime: UtcDateTime(),
        dict[str, Any]: JsonObject(),
        list[str]: JSON(),
    }


class Singleton:
    """A table of one row at most."""

    singleton: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[CheckConstraint]:
        return (CheckConstraint("singleton = 1", name="singleton"),)


class ModelRow(Base):
    """A registered checkpoint: what its files were when they were registered. `path` is absolute.

    `quantization` is how the files are quantised, `quantize` what they are turned into when they are loaded.
    `base_model` is the model that an adapter adapts. `chat_template` is the Jinja text that it was registered with;
    `has_template`: whether the files bring one of their own (None: it is not known, or the model makes no text); of an
    adapter, whether they bring another one than its base has. `keep_alive_s`: for how long it stays loaded when nobody
    uses it (negative: for ever; None: as the settings say). `policies_due`: no policy has looked at this content yet.
    """

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str]
    source: Mapped[str]
    tags: Mapped[list[str]]
    step: Mapped[int | None]
    digest: Mapped[str]
    architecture: Mapped[str]
    dtype: Mapped[str | None]
    quantization: Mapped[str | None]
    quantize: Mapped[str | None]
    base_model: Mapped[str | None]
    engine: Mapped[dict[str, Any] | None]
    chat_template: Mapped[str | None]
    has_template: Mapped[bool | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    context_length_tokens: Mapped[int | None]
    created_at: Mapped[datetime]
    keep_alive_s: Mapped[float | None]
    policies_due: Mapped[bool | None] = mapped_column(default=True)

    __table_args__ = (Index(None, "created_at"), Index(None, "policies_due"))


class ActivationRow(Base):
    """One switch, asked for by `cause`; kept when its model is deleted. status: running, done, failed.

    `version`: of weights that were pushed to a fleet, then `digest` is theirs; 0: the registered files. `version_label`
    is the trainer's name of it.
    """

    __tablename__ = "activations"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model_id: Mapped[str]
    digest: Mapped[str]
    previous: Mapped[str | None]
    cause: Mapped[str]
    requested_method: Mapped[str]
    method: Mapped[str | None]
    status: Mapped[str]
    error: Mapped[str | None]
    rolled_back_to: Mapped[str | None]
    paused_ms: Mapped[float | None]
    total_ms: Mapped[float | None]
    reference_wait_ms: Mapped[float | None]
    in_flight: Mapped[int | None]
    proof: Mapped[dict[str, Any] | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    unannounced: Mapped[bool | None] = mapped_column(default=True)
    version: Mapped[int] = mapped_column(default=0, server_default="0")
    version_label: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("status IN ('running', 'done', 'failed')", name="status"),
        Index(None, "status", "id"),
        Index(None, "unannounced", "status"),
    )


class ActiveModelRow(Singleton, Base):
    """The model that ought to be served. `version`, `version_label`, `version_digest`: of the pushed weights that a
    fleet serves in place of its files; 0, None, None: none.
    """

    __tablename__ = "active_model"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    since: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=0, server_default="0")
    version_label: Mapped[str | None]
    version_digest: Mapped[str | None]


class PlacedFolderRow(Base):
    """A folder right below models/ that the server put there, from `origin`: upload, pull, copy, demo.

    `files` has the path in it, size in bytes and modification time in nanoseconds of each file that it placed. `going`:
    its model is forgotten and its files are being removed.
    """

    __tablename__ = "placed_folders"

    name: Mapped[str] = mapped_column(primary_key=True)
    origin: Mapped[str]
    files: Mapped[list[list[Any]]] = mapped_column(JSON)
    going: Mapped[bool] = mapped_column(server_default=false())
    placed_at: Mapped[datetime]


class JobRow(Base):
    """One job. It runs for `lease_owner` as long as that one keeps changing `lease_expires_at`.

    A pending job is left alone until `not_before`; `failures` counts its attempts in a row that made no progress and
    could be retried. `fingerprint` is that of its type, model digest and settings. `created_by`: the key that is
    charged for it. `unannounced`: nobody has been notified of its end yet.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[str]
    model_id: Mapped[str]
    model_digest: Mapped[str]
    status: Mapped[str]
    config: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    attempt: Mapped[int]
    priority: Mapped[int] = mapped_column(server_default="0")
    when_inactive: Mapped[str] = mapped_column(server_default="wait")
    not_before: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column("setbacks", server_default="0")
    fingerprint: Mapped[str | None]
    progress_done: Mapped[int]
    progress_total: Mapped[int | None]
    progress_rate_per_s: Mapped[float | None]
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[str | None]
    request_id: Mapped[str | None]
    created_by: Mapped[str | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    unannounced: Mapped[bool | None] = mapped_column(default=True)

    __table_args__ = (
        CheckConstraint("status IN ('pending', 'running', 'done', 'failed', 'cancelled')", name="status"),
        UniqueConstraint("idempotency_key"),
        Index(None, "created_at", "id", "model_id"),
        Index(None, "type", "created_at"),
        Index(None, "type", "status", "created_at"),
        Index(None, "status", "created_at"),
        Index(None, "status", "finished_at"),
        Index(None, "created_by", "created_at"),
        Index(None, "model_digest", "type", "created_at"),
        Index(None, "status", "model_id", "priority", "created_at"),
        Index(None, "fingerprint"),
        Index(None, "unannounced", "status"),
    )


class JobAttemptRow(Base):
    """One attempt at a job. outcome: done, failed, cancelled, released (given back), lost (its worker died)."""

    __tablename__ = "job_attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    error: Mapped[str | None]


class EngineBorrowRow(Singleton, Base):
    """The engine is borrowed by `job_id` and goes back to `return_to` when that job is over."""

    __tablename__ = "engine_loan"

    job_id: Mapped[str]
    model_id: Mapped[str]
    return_to: Mapped[str | None]
    since: Mapped[datetime]


class ShardRow(Base):
    """One shard of training examples; its number of the day is never given twice, so rows stay when files go.

    state: allotted (a name and no more), staged (its files lie whole in the run's outbox), published. `path` is
    relative to the base directory. A published shard is free while it is not acknowledged and no claim on it runs.
    """

    __tablename__ = "shards"

    name: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str]
    day: Mapped[str]
    number: Mapped[int]
    job_id: Mapped[str]
    ordinal: Mapped[int]
    state: Mapped[str]
    rows: Mapped[int | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None]
    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    claim_id: Mapped[str | None]
    claimed_by: Mapped[str | None]
    claimed_until: Mapped[datetime | None]
    claims: Mapped[int] = mapped_column(server_default="0")
    refusal: Mapped[str | None]
    acknowledged_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("state IN ('allotted', 'staged', 'published')", name="state"),
        UniqueConstraint("day", "number"),
        UniqueConstraint("job_id", "ordinal"),
        Index(None, "state", "acknowledged_at", "day", "number"),
    )


class PowerChoiceRow(Singleton, Base):
    """The power profile that was chosen last."""

    __tablename__ = "power_choice"

    profile: Mapped[str]
    chosen_at: Mapped[datetime]


class ApiKeyRow(Base):
    """A key without its secret: `digest` is the SHA-256 of the whole key, in hexadecimal. Rows are never deleted."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    digest: Mapped[str]
    scopes: Mapped[list[str]]
    requests_per_min: Mapped[int | None]
    tokens_per_min: Mapped[int | None]
    max_concurrent: Mapped[int | None]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    keep_traffic: Mapped[bool] = mapped_column(server_default=false())


class AccessStateRow(Singleton, Base):
    """`revision` counts the changes of keys since this database had its first (`epoch`)."""

    __tablename__ = "access_state"

    epoch: Mapped[str]
    revision: Mapped[int]


class WebhookRow(Base):
    """Who is told of events: `url`, `target`, the name of an installed target, or `tracker`, that of an experiment
    tracker with its `options`. `events`: patterns of names.
    """

    __tablename__ = "webhooks"

    name: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str | None]
    target: Mapped[str | None]
    tracker: Mapped[str | None]
    options: Mapped[dict[str, Any] | None]
    events: Mapped[list[str]]
    form: Mapped[str]
    secret: Mapped[str]
    created_at: Mapped[datetime]


class DeliveryRow(Base):
    """One event for one webhook. `attempts`: those that ended. A pending one is due at `next_at`."""

    __tablename__ = "deliveries"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    webhook: Mapped[str]
    event: Mapped[str]
    event_id: Mapped[str]
    content: Mapped[dict[str, Any]]
    text: Mapped[str]
    state: Mapped[str]
    attempts: Mapped[int]
    error: Mapped[str | None]
    next_at: Mapped[datetime]
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state"),
        Index(None, "webhook", "event_id"),
        Index(None, "state", "next_at"),
    )


class PolicyRow(Base):
    """What happens by itself to models that it matches: `content` is a PolicyRequest. `created_by`: who pays for it."""

    __tablename__ = "policies"

    name: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]


class PolicyRunRow(Base):
    """A policy, as it was then, for one content of a model: once and no more.

    `steps` has `step`, `job_id` and `error` of each. An open run has steps that are still to be made; it is looked at
    again at `due_at`. `created_by`: that of its jobs.
    """

    __tablename__ = "policy_runs"

    id: Mapped[str] = mapped_column(primary_key=True)
    policy: Mapped[str]
    model_id: Mapped[str]
    model_digest: Mapped[str]
    content: Mapped[dict[str, Any]]
    created_by: Mapped[str]
    state: Mapped[str]
    steps: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    due_at: Mapped[datetime]
    created_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("state IN ('open', 'over')", name="state"),
        UniqueConstraint("policy", "model_id", "model_digest"),
        Index(None, "state", "due_at"),
        Index(None, "policy", "created_at"),
    )


class KeyUsageRow(Base):
    """What one run of a gateway (`source`) has counted so far for a key, a model and a day (UTC, 2026-01-31)."""

    __tablename__ = "key_usage"

    source: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index(None, "key_id", "day"),)


class AuditRow(Base):
    """One request that changed something an administrator alone may change. `status`: the HTTP code it ended with."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    client: Mapped[str | None]
    method: Mapped[str]
    path: Mapped[str]
    target: Mapped[str | None]
    status: Mapped[int | None]
    ended_at: Mapped[datetime | None]


class StoredResponseRow(Base):
    """An answer of /v1/responses that can be gone on from. `owner`: the key that asked for it.

    `input`: what was new in the request. What came before it is `previous_id`'s, or the items of the conversation up to
    the position `upto`.
    """

    __tablename__ = "stored_responses"

    owner: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    previous_id: Mapped[str | None]
    conversation_id: Mapped[str | None]
    upto: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    input: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    response: Mapped[dict[str, Any]]

    __table_args__ = (Index(None, "owner", "used_at"), Index(None, "used_at"))


class ConversationRow(Base):
    """`details` is what clients call its metadata."""

    __tablename__ = "conversations"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    details: Mapped[dict[str, Any]]

    __table_args__ = (Index(None, "owner", "used_at"), Index(None, "used_at"))


class ConversationItemRow(Base):
    __tablename__ = "conversation_items"

    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"))
    id: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    item: Mapped[dict[str, Any]]

    __table_args__ = (UniqueConstraint("conversation_id", "id"), {"sqlite_autoincrement": True})
