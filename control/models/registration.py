"""What a client says to register a checkpoint, and which ids there may be."""

import re
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from control.checkpoints.quantisation import QuantizeWish
from stepserve.contract import ACTIVE_ALIAS, EngineOverrides
from stepserve.keep_alive import KeepAlive
from stepserve.named_templates import LONGEST_CHARACTERS
from stepserve.probe import Probe
from stepserve.request_model import RequestModel

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ChatTemplate = Annotated[str, Field(min_length=1, max_length=LONGEST_CHARACTERS)]
RESERVED_IDS = frozenset({ACTIVE_ALIAS})


def check_id(model_id: str) -> str:
    """The id, which is also a folder's name and part of URLs. Raises ValueError."""
    if not ID_PATTERN.fullmatch(model_id) or ".." in model_id:
        raise ValueError(
            "an id is 1 to 128 letters, digits, '.', '_' or '-', begins with a letter or digit and has no '..' in it"
        )
    if model_id in RESERVED_IDS:
        raise ValueError(f"{model_id!r} is reserved: it always means the model that serves now")
    return model_id


def split_tags(value: object) -> object:
    """`"a,b"` as `["a", "b"]`; anything else is left to the type check."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class RegisterRequest(RequestModel):
    """`path` defaults to the models folder's `<id>`; a relative one is taken from the base directory.

    `dry_run`: only say what it would come to, and which files it would remove. `chat_template` is a built-in name, the
    name of a file in templates/, or Jinja text; without it an id that has one keeps it. So does `keep_alive`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    source: Annotated[str, Field(min_length=1, max_length=256)]
    tags: Annotated[list[str], BeforeValidator(split_tags)] = Field(default=[])
    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    step: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    base_model: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    quantize: QuantizeWish = "no"
    chat_template: ChatTemplate | None = None
    engine: EngineOverrides | None = None
    keep_alive: KeepAlive | None = None
    probe: Probe | None = None
    activate: bool = False
    replace: bool = False
    dry_run: bool = False

    @field_validator("id")
    @classmethod
    def _check_id(cls, value: str) -> str:
        return check_id(value)

    @field_validator("path")
    @classmethod
    def _check_path(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("a path has no zero bytes in it")
        return value


class ChangeRequest(RequestModel):
    """What can be changed of a registered model. `keep_alive` null: as the settings say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_alive: KeepAlive | None
