"""What a person asks for (`POST /pull`), and which id a repository gets."""

import re
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from control.checkpoints.quantisation import QuantizeWish
from control.models.registration import ChatTemplate, check_id, split_tags
from stepserve.contract import EngineOverrides, id_of_repository
from stepserve.request_model import RequestModel

REPOSITORY_PATTERN = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class PullRequest(RequestModel):
    """`model` is a repository, `name` or `owner/name`; `init` makes it the active model when it is there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    quantize: QuantizeWish = "auto"
    init: bool = False
    id: str = ""
    revision: Annotated[str, Field(min_length=1, max_length=255)] = "main"
    base_model: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    chat_template: ChatTemplate | None = None
    engine: EngineOverrides | None = None
    tags: Annotated[list[str], BeforeValidator(split_tags)] = Field(default=[])
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: str) -> str:
        if not REPOSITORY_PATTERN.fullmatch(value) or ".." in value or "--" in value:
            raise ValueError("a repository on a hub is `name` or `owner/name`, of letters, digits, '.', '_' and '-'")
        return value

    @field_validator("id")
    @classmethod
    def _check_id(cls, value: str) -> str:
        return check_id(value) if value else value

    @field_validator("revision")
    @classmethod
    def _check_revision(cls, value: str) -> str:
        if not value.isprintable() or ".." in value:
            raise ValueError("a revision is a branch, a tag or a commit")
        return value

    @model_validator(mode="after")
    def _check_derived_id(self) -> "PullRequest":
        check_id(self.model_id)
        return self

    @property
    def model_id(self) -> str:
        """The id under which it will be registered: `owner--name` where none was given."""
        return self.id or id_of_repository(self.model)
