"""Settings of who may do what, and how much."""

import ipaddress
import ssl
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

_SHORTEST_ADMIN_KEY = 32

HostName = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?)$")]
Seconds = Annotated[float, Field(gt=0)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class AccessSettings(_Group):
    """`mode`: `auto` demands a key as soon as one was made, and until then listens on loopback alone; `keys` always
    demands one; `open` never does, wherever it listens. `admin_key` is a key with the scope admin that is in no
    database, for machines that are set up by a program.

    `host_names`: what else than localhost, its own name and its addresses a server without keys may be called in `Host`
    (`*`: anything). `trusted_proxies`: addresses or networks whose `X-Forwarded-For` says where a request comes from.
    `isolate_keys`: a key without the scope admin sees what it made itself, and nothing of other keys. `trainers`:
    addresses or networks from which requests without a key may do what a key with the scopes infer and weights may.
    """

    mode: Literal["auto", "keys", "open"] = "auto"
    admin_key: SecretStr | None = None
    cors_origins: list[str] = []
    host_names: Annotated[list[HostName], Field(max_length=256)] = []
    trusted_proxies: Annotated[list[str], Field(max_length=256)] = []
    isolate_keys: bool = False
    trainers: Annotated[list[str], Field(max_length=256)] = []

    @field_validator("admin_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < _SHORTEST_ADMIN_KEY:
            raise ValueError(
                f"must have at least {_SHORTEST_ADMIN_KEY} characters, such as `openssl rand -hex 32` gives"
            )
        return key

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and ("://" not in origin or origin.count("/") != 2):
                raise ValueError(f"{origin!r} is not an origin such as https://ui.example.org")
        return origins

    @field_validator("trusted_proxies", "trainers")
    @classmethod
    def _networks(cls, networks: list[str]) -> list[str]:
        for network in networks:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError as error:
                raise ValueError(f"{network!r} is neither an address nor a network such as 10.0.0.0/8") from error
        return networks


class TlsSettings(_Group):
    """PEM files; both or neither."""

    cert_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        if self.cert_file is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert_file, self.key_file)
            except (OSError, ssl.SSLError) as error:
                raise ValueError(
                    f"{self.cert_file} and {self.key_file} are not a certificate and its key: {error}"
                ) from error
        return self

    @property
    def on(self) -> bool:
        return self.cert_file is not None


class LimitSettings(_Group):
    """Bounds on what is taken in. `store_url` (redis://…) shares the keys' rates between several gateways.

    `max_queued_*`: what may wait for a model beyond the `engine.max_num_seqs` sequences that it works on. A request is
    as many sequences as it has prompts, times `n`; it may have `max_sequences_per_request` (`engine.max_num_seqs` where
    nothing is said). `max_text_chars`: of a text that no context bounds, in /tokenize or with truncate_prompt_tokens.
    `max_body_values`: JSON values in one body; `max_message_values`: those in its `messages` or `tools`.
    """

    store_url: SecretStr | None = None
    max_queued_requests: Annotated[int, Field(ge=0)] = 4096
    max_queued_tokens: Annotated[int, Field(ge=1)] = 8_000_000
    max_sequences_per_request: Annotated[int, Field(ge=1, le=65536)] | None = None
    max_text_chars: Annotated[int, Field(ge=1024)] = 500_000
    max_body_values: Annotated[int, Field(ge=1024)] = 1_000_000
    max_message_values: Annotated[int, Field(ge=1024)] = 8192
    request_timeout_s: Seconds = 1800.0
    stream_timeout_s: Seconds = 3600.0
    stalled_client_timeout_s: Seconds = 60.0
    body_timeout_s: Seconds = 60.0
    head_timeout_s: Seconds = 20.0
    max_silent_connections: Annotated[int, Field(ge=1)] = 512

    @field_validator("store_url")
    @classmethod
    def _known_store(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("redis://", "rediss://", "redis+unix://")):
            raise ValueError("must begin with redis://, rediss:// or redis+unix://")
        return url
