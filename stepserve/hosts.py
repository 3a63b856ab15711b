"""`config/hosts.json`: the machines of a training run, and the tiers of other servers that models are asked from."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from stepserve.contract import ACTIVE_ALIAS
from stepserve.located_json import JsonRefused, Place, parse
from stepserve.route_table import is_own_name

HOSTS_NAME = Path("config") / "hosts.json"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]

_PREFIXES = {"inference": "INFERENCE_", "trainer": "TRAINING_"}


class HostsRefused(Exception):
    """A hosts.json that cannot be used; the text names the file, the line and what is wrong there."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Host(_Section):
    """A machine. `models_dir` and `base_dir` are paths on it."""

    host: Text | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    ssh_user: Text | None = None
    models_dir: Text | None = None
    base_dir: Text | None = None


class Upstream(_Section):
    """One OpenAI-compatible server. Without `models` it is asked every 30 s which it has."""

    base_url: str
    api_key: SecretStr | None = None
    api_key_env: Text | None = None
    models: list[Text] = []

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is not a URL: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
            raise ValueError(f"{url!r} is not a URL such as http://192.0.2.2:8765/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("a base URL has no user, password, query or fragment; keys go into api_key_env")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("api_key and api_key_env exclude each other")
        return self

    def key(self, environment: Mapping[str, str] | None = None) -> str | None:
        """The key to send. Raises HostsRefused when the variable that should hold it is not set."""
        if self.api_key_env is None:
            return self.api_key.get_secret_value() if self.api_key else None
        found = (os.environ if environment is None else environment).get(self.api_key_env)
        if not found:
            raise HostsRefused(f"the variable {self.api_key_env}, which holds the key of {self.base_url}, is not set")
        return found


class Tier(_Section):
    """Servers that can stand in for each other. An upstream that is a plain string is its URL.

    `first_byte_timeout_s` bounds the wait for an answer's first byte, `idle_timeout_s` the wait for more of a stream,
    `total_timeout_s` the whole of it.
    """

    upstreams: Annotated[list[Upstream], Field(min_length=1)]
    connect_timeout_s: Seconds = 5.0
    first_byte_timeout_s: Seconds = 300.0
    idle_timeout_s: Seconds = 120.0
    total_timeout_s: Seconds = 3600.0

    @field_validator("upstreams", mode="before")
    @classmethod
    def _urls_alone(cls, given: Any) -> Any:
        if not isinstance(given, list):
            return given
        return [{"base_url": each} if isinstance(each, str) else each for each in given]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        urls = [upstream.base_url for upstream in self.upstreams]
        twice = next((url for url in urls if urls.count(url) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is listed twice")
        return self


class Hosts(_Section):
    """The whole file; `Hosts()` is that of a machine that has none."""

    inference: Host = Host()
    trainer: Host = Host()
    tiers: dict[Name, Tier] = {}

    @field_validator("tiers")
    @classmethod
    def _free_names(cls, tiers: dict[str, Tier]) -> dict[str, Tier]:
        for name in tiers:
            if name == ACTIVE_ALIAS or is_own_name(name):  # they mean something else where a tier could be named
                raise ValueError(f"{name!r} cannot be a tier's name")
        lower = [name.lower() for name in tiers]
        twice = next((name for name in tiers if lower.count(name.lower()) > 1), None)
        if twice is not None:
            raise ValueError(f"two tiers are called {twice!r}")
        return tiers


def find(named: Path | None, base_dir: Path) -> Path | None:
    """The file to read: the one named, else config/hosts.json in the working directory or the base directory.

    Raises HostsRefused when the named one is not there.
    """
    if named is not None:
        path = named.expanduser().absolute()
        if not path.is_file():
            raise HostsRefused(f"there is no file {path} (setting hosts_file)")
        return path
    return next((path for path in (HOSTS_NAME.absolute(), base_dir / HOSTS_NAME) if path.is_file()), None)


def read(named: Path | None, base_dir: Path) -> Hosts:
    """What a server needs: the file that there is, if any, and the keys that it names. Raises HostsRefused."""
    hosts = load(find(named, base_dir))
    for tier in hosts.tiers.values():
        for upstream in tier.upstreams:
            upstream.key()
    return hosts


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Hosts:
    """The file's content. Variables override machines: INFERENCE_HOST, INFERENCE_SSH_USER, TRAINING_BASE_DIR …

    Raises HostsRefused for what cannot be read, is no JSON, has an unknown or a repeated key, or a wrong value.
    """
    document: dict[str, Any] = {}
    located = None
    if path is not None:
        try:
            located = parse(path.read_text(encoding="utf-8"))
        except JsonRefused as error:
            raise HostsRefused(f"{path}, line {error.line}: {error}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise HostsRefused(f"{path} cannot be read: {error}") from error
        if not isinstance(located.value, dict):
            raise HostsRefused(f"{path}, line 1: an object with inference, trainer and tiers belongs here")
        document = located.value
    document = _overridden(document, os.environ if environment is None else environment)
    try:
        return Hosts.model_validate(document)
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: located.line_of(each["loc"]) if located else 0)
        place = first["loc"]
        where = f"{path}, line {located.line_of(place)}: " if located else ""
        raise HostsRefused(f"{where}{_sentence(place, first)}") from error


def _overridden(document: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    merged = dict(document)
    for section, prefix in _PREFIXES.items():
        set_ = {
            name: environment[variable]
            for name in Host.model_fields
            if environment.get(variable := prefix + name.upper())
        }
        own = merged.get(section, {})
        if set_ and isinstance(own, dict):
            merged[section] = {**own, **set_}
    return merged


def _sentence(place: Place, error: Any) -> str:
    name = ".".join(str(part) for part in place if part != "[key]")
    match error["type"]:
        case "extra_forbidden":
            return f"{name}: there is no such key"
        case "missing":
            return f"{name} is missing"
        case _:
            return f"{name}: {str(error['msg']).removeprefix('Value error, ')}"
