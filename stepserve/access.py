"""Keys and scopes as gateway and control both know them. What each route demands is in stepserve.route_table."""

import hashlib
import re
import secrets
from typing import Annotated, Literal, get_args

from pydantic import Field

from stepserve.contract import Message
from stepserve.request_id import KEY_ID_HEADER

Scope = Literal["infer", "jobs", "weights", "admin", "metrics", "fleet"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

# `open`: anybody may. `any`: whoever has a valid key.
Demand = Scope | Literal["open", "any"]

CONTROL_SYNC_PATH = "/internal/keys/sync"
CONTROL_RECOVER_PATH = "/internal/keys/recover"
GATEWAY_KEYS_PATH = "/keys"
GATEWAY_RECOVERED_KEYS_PATH = "/keys/recovered"

# Whom the gateway says it acts for; it takes these off whatever a client sends.
PRIVATE_HEADER_PREFIX = b"x-stepserve-"
KEY_HEADER = KEY_ID_HEADER.encode()
SCOPES_HEADER = b"x-stepserve-scopes"
CLIENT_HEADER = b"x-stepserve-client"
ANONYMOUS = "anonymous"
OWNER = "owner"  # asked over control's own socket, which only the server's user can open
SETTINGS_KEY = "settings"  # the key of the setting admin_key

_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TOKEN = re.compile(r"sy_([0-9a-hjkmnp-tv-z]{10})_([A-Za-z0-9_-]{43})")


def new_token() -> tuple[str, str]:
    """A key's public id, and the whole key with 256 random bits."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(10))
    return key_id, f"sy_{key_id}_{secrets.token_urlsafe(32)}"


def id_of(token: str) -> str | None:
    """The public id in a key; None for what was never a key of ours."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else None


def digest_of(token: str) -> str:
    """What is stored of a key. A plain hash is enough: nobody guesses 256 random bits."""
    return hashlib.sha256(token.encode()).hexdigest()


class KeyRecord(Message):
    """A key without its secret. `expires_at` is in seconds since 1970; a limit of None is none. `keep_traffic`: its
    owner consents that what it asks and is answered may be kept.
    """

    id: str
    name: str
    digest: str
    scopes: list[Scope]
    expires_at: float | None = None
    revoked: bool = False
    requests_per_min: Annotated[int, Field(ge=1)] | None = None
    tokens_per_min: Annotated[int, Field(ge=1)] | None = None
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    keep_traffic: bool = False


class KeySet(Message):
    """All keys at one moment. `revision` grows with each change within one `epoch`, which is one database's."""

    epoch: str
    revision: int
    keys: list[KeyRecord]


class KeyMemory(KeySet):
    """A gateway's copy of the keys on disk. `demanded`: keys were demanded here once, which no database undoes."""

    demanded: bool = False


# What a row takes: a member of a fleet may send anything.
Name = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Usage(Message):
    """What a key used of a model on a day (UTC, 2026-01-31), counted since `source` started."""

    key_id: Name
    model: Name
    day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    requests: Count
    prompt_tokens: Count
    completion_tokens: Count


class SyncRequest(Message):
    """A gateway asks for keys that are newer than its own, and tells what changed in its usage."""

    source: Name
    epoch: Name | None = None
    revision: Annotated[int, Field(ge=-1, lt=2**63)] = -1
    usage: list[Usage] = Field(default_factory=list)


class SyncAnswer(Message):
    """`keys` is None when the gateway has them already."""

    keys: KeySet | None = None


def allowed(scopes: frozenset[Scope], demanded: Demand) -> bool:
    """Whether a valid key with these scopes may; `admin` may everything."""
    return demanded in {"open", "any"} or "admin" in scopes or demanded in scopes
