"""What was said to which models, and how: as a link, and as commands that ask the same again. Pure."""

import base64
import binascii
import json
import shlex
import zlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MOST_MODELS = 4
LONGEST_LINK = 6000
"""Characters; longer addresses are cut by some programs."""
_MOST_BYTES = 1_000_000


class Turn(BaseModel):
    """`calls`: tools that the model wanted called. `likely`: tokens with their log-probabilities. `note`: times."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: str = ""
    thought: str = ""
    calls: list[dict[str, str]] = []
    likely: list[tuple[str, float]] = []
    note: str = ""

    def message(self) -> dict[str, Any]:
        """As a model is told it later: without its thoughts."""
        said = self.content
        if self.calls and not said:
            said = json.dumps(self.calls, ensure_ascii=False)
        return {"role": self.role, "content": said}


class Conversation(BaseModel):
    """`histories`: one a model, so that each goes on from its own answers. `schema_text` and `tools_text` are JSON as
    the visitor wrote it.
    """

    model_config = ConfigDict(extra="forbid")

    models: list[str] = Field(min_length=1, max_length=MOST_MODELS)
    system: str = ""
    sampling: dict[str, int | float] = {}
    schema_text: str = ""
    tools_text: str = ""
    logprobs: bool = False
    histories: list[list[Turn]] = Field(default=[], max_length=MOST_MODELS)

    def options(self) -> dict[str, Any]:
        """All of a request but model and messages. Raises ValueError for what is not JSON, naming the field."""
        more: dict[str, Any] = dict(self.sampling)
        if self.schema_text.strip():
            schema = _json("The schema is", self.schema_text, dict)
            more["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        if self.tools_text.strip():
            more["tools"] = _json("The tools are", self.tools_text, list)
        if self.logprobs:
            more["logprobs"] = True
        return more

    def messages(self, column: int) -> list[dict[str, Any]]:
        """What a model has been told, and has said."""
        before = [{"role": "system", "content": self.system}] if self.system.strip() else []
        return [*before, *(turn.message() for turn in (self.histories[column] if column < len(self.histories) else ()))]

    def link(self) -> str | None:
        """For the address; None where it would be too long."""
        shown = self.model_copy(update={"histories": [_without_tokens(history) for history in self.histories]})
        packed = zlib.compress(shown.model_dump_json(exclude_defaults=True).encode(), 9)
        text = base64.urlsafe_b64encode(packed).decode().rstrip("=")
        return text if len(text) <= LONGEST_LINK else None

    @classmethod
    def of_link(cls, text: str) -> "Conversation | None":
        """None for what is no link of a conversation."""
        try:
            packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            opener = zlib.decompressobj()
            return cls.model_validate_json(opener.decompress(packed, _MOST_BYTES))
        except (ValueError, binascii.Error, zlib.error, ValidationError):
            return None


def as_curl(url: str, body: dict[str, Any]) -> str:
    written = json.dumps(body, indent=2, ensure_ascii=False)
    return (
        f"curl {shlex.quote(f'{url}/v1/chat/completions')} \\\n"
        '  -H "Authorization: Bearer $INFERENCE_API_KEY" -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(written)}"
    )


def as_python(url: str, body: dict[str, Any]) -> str:
    """With the openai package."""
    arguments = "".join(f"    {name}={value!r},\n" for name, value in body.items())
    return (
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url={f"{url}/v1"!r}, api_key=os.environ.get("INFERENCE_API_KEY", "none"))\n'
        f"answer = client.chat.completions.create(\n{arguments})\n"
        "print(answer.choices[0].message)\n"
    )


def asked_again(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the last answer, which is what is asked for."""
    return list(messages[:-1]) if messages and messages[-1]["role"] == "assistant" else list(messages)


def _without_tokens(history: Sequence[Turn]) -> list[Turn]:
    return [turn.model_copy(update={"likely": []}) for turn in history]


def _json(what: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} not valid JSON: {error}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{what} not a JSON {'object' if kind is dict else 'list'}")  # noqa: TRY004 - shown as text
    return value
