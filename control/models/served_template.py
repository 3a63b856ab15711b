"""The chat template that a model is served with: its registration's, its checkpoint's own, or the settings' default."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from control.checkpoints.chat_templates import check_given
from control.checkpoints.checkpoint import Checkpoint
from control.database.tables import ModelRow
from control.errors import Invalid
from control.models.registration import RegisterRequest
from stepserve.contract import Signature
from stepserve.digest import text_sha
from stepserve.named_templates import BUILT_IN, template_text

FIELD = "chat_template"
LAST_RESORT = "plain"  # of a model that was pulled: the built-in template that asks for no special tokens
Origin = Literal["registered", "checkpoint", "default"]


@dataclass(frozen=True, slots=True)
class ServedTemplates:
    """`folder` has the user's own templates; `default` is the text for checkpoints that bring none."""

    folder: Path
    default: str | None

    def text(self, wanted: str) -> str:
        """What the name stands for, tried out. Blocks. Raises Invalid naming the field."""
        try:
            text = template_text(wanted, self.folder)
        except ValueError as error:
            raise Invalid(f"{FIELD}: {error}") from error
        check_given(FIELD, text)
        return text

    def in_place_of_its_own(self, registered: str | None, has_template: bool | None) -> str | None:
        """What the engine is given; None: what the checkpoint brings, if it brings one."""
        return registered or (self.default if has_template is False else None)

    def origin(self, row: ModelRow, rows: Mapping[str, ModelRow]) -> Origin | None:
        """None: there is none, or it is not known. `rows`: models by their ids; an adapter has its base's template."""
        if row.chat_template is not None:
            return "registered"
        if row.base_model is not None:
            base = rows.get(row.base_model)
            return self.origin(base, rows) if base is not None else None
        if row.has_template:
            return "checkpoint"
        return "default" if row.has_template is False and self.default is not None else None

    def warnings(self, row: ModelRow, rows: Mapping[str, ModelRow]) -> list[str]:
        """What a person should know before clients ask this model."""
        whole = rows.get(row.base_model, row) if row.base_model is not None else row
        warnings = []
        if whole.has_template is False and self.origin(row, rows) is None:
            warnings.append(
                f"{row.id} has no chat template, so chat routes refuse it (/generate and /v1/completions do not):"
                f" register it with {FIELD} ({', '.join(BUILT_IN)}, a file in {self.folder}, or Jinja text), or set"
                " default_chat_template"
            )
        if row.base_model is not None and row.has_template and row.chat_template is None:
            warnings.append(
                f"{row.id} brings a chat template that is not its base's and is not used: an adapter has the template"
                f" of {row.base_model}. If it was trained with its own, register it with that as {FIELD} and"
                " replace: true"
            )
        return warnings


def with_its_template(request: RegisterRequest, present: ModelRow) -> RegisterRequest:
    """A request that names no chat template means the one that the model has."""
    if request.chat_template is not None or present.chat_template is None:
        return request
    return request.model_copy(update={"chat_template": present.chat_template})


def keeping_template(request: RegisterRequest, present: ModelRow, content: object) -> RegisterRequest:
    """For other content in the model's place: it has the model's template, unless it brings one or is given one."""
    brings_one = isinstance(content, Checkpoint) and content.has_template is not False
    return request if brings_one else with_its_template(request, present)


def other_than(present: ModelRow, request: RegisterRequest) -> str:
    """In what the model differs from what is asked for, as far as the request says it."""
    template = request.chat_template is not None and request.chat_template != present.chat_template
    return "another chat_template" if template else "other content"


def templated_signature(signature: Signature, template: str | None) -> Signature:
    """An engine that renders another template cannot take the model in place."""
    if template is None:
        return signature
    tokenizer = f"{signature.tokenizer_sha} {FIELD}={text_sha(template)}"
    return signature.model_copy(update={"tokenizer_sha": hashlib.sha256(tokenizer.encode()).hexdigest()})
