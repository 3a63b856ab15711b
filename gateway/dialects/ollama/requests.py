"""Ollama's requests, and what they are on `/v1`.

Unknown fields are ignored, as Ollama ignores them: its clients send what only some of its versions know.
"""

import base64
import binascii
import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from gateway.dialects.call import Json
from gateway.errors import InvalidRequest
from stepserve.request_model import RequestModel

Think = bool | Literal["low", "medium", "high"]
_IMAGE_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"GIF8": "gif"}
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}


def _without_tag(name: object) -> object:
    """Clients add `:latest` to names without a tag; no name here has a colon."""
    return name.removesuffix(":latest") if isinstance(name, str) else name


ModelName = Annotated[str, BeforeValidator(_without_tag)]


class Lenient(RequestModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Options(Lenient):
    """Those that mean something here. What Ollama takes when it loads a model (num_gpu, num_thread …) does not."""

    num_predict: Annotated[int, Field(ge=-2)] | None = None
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None

    def sampling(self, context_tokens: int | None) -> Json:
        """Raises InvalidRequest when `num_ctx` is more than the engine has."""
        if self.num_ctx is not None and context_tokens is not None and self.num_ctx > context_tokens:
            raise InvalidRequest(
                f"options.num_ctx: {self.num_ctx} is more than the engine's {context_tokens} tokens"
                " (setting INFERENCE_ENGINE__MAX_MODEL_LEN)"
            )
        given = {theirs: getattr(self, ours) for ours, theirs in _SAMPLING.items() if getattr(self, ours) is not None}
        if self.num_predict is not None and self.num_predict > 0:
            given["max_tokens"] = min(self.num_predict, context_tokens or self.num_predict)
        if self.stop:
            given["stop"] = self.stop
        return given


class AskRequest(Lenient):
    """What chat and generate have in common."""

    model: ModelName
    options: Options | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    stream: bool | None = None
    think: Think | None = None
    keep_alive: float | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None

    def shared(self, context_tokens: int | None) -> Json:
        body: Json = {"model": self.model, **(self.options or Options()).sampling(context_tokens)}
        if isinstance(self.format, dict):
            schema = {"name": "response", "schema": self.format}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.format == "json":
            body["response_format"] = {"type": "json_object"}
        if self.think is not None:
            body["chat_template_kwargs"] = {"enable_thinking": self.think is not False}
            if isinstance(self.think, str):
                body["reasoning_effort"] = self.think
        if self.think:
            body["return_prompt_text"] = True
        if self.logprobs:
            body["logprobs"] = True
            body["top_logprobs"] = self.top_logprobs or 0
        return body


class Function(Lenient):
    name: str
    arguments: dict[str, Any] = Field(default={})


class ToolCall(Lenient):
    function: Function


class OllamaMessage(Lenient):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChatRequest(AskRequest):
    messages: list[OllamaMessage] = Field(default=[])
    tools: list[dict[str, Any]] | None = None

    def body(self, context_tokens: int | None) -> Json:
        last = self.messages[-1]
        is_begun = last.role == "assistant" and not last.tool_calls  # its answer, of which there may be nothing yet
        is_empty = is_begun and not last.content and not last.thinking and len(self.messages) > 1
        messages = openai_messages(self.messages[:-1] if is_empty else self.messages)
        body = self.shared(context_tokens) | {"messages": messages}
        if is_begun and last.content:
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return body | {"tools": self.tools} if self.tools else body


class OllamaGenerateRequest(AskRequest):
    prompt: str = ""
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: list[str] | None = None
    context: list[int] | None = None

    def body(self, context_tokens: int | None) -> Json:
        """Raises InvalidRequest for what cannot be done here."""
        if self.template:
            raise InvalidRequest("template: Go templates are not supported; the model's own chat template is used")
        if self.suffix:
            raise InvalidRequest("suffix: filling in the middle is not supported")
        shared = self.shared(context_tokens)
        if self.raw:
            for unfit in ("chat_template_kwargs", "return_prompt_text", "reasoning_effort", "top_logprobs"):
                shared.pop(unfit, None)
            if self.logprobs:
                shared["logprobs"] = self.top_logprobs or 0
            return shared | {"prompt": self.prompt}
        system = [{"role": "system", "content": self.system}] if self.system else []
        asked = OllamaMessage(role="user", content=self.prompt, images=self.images)
        return shared | {"messages": [*system, *openai_messages([asked])]}


class EmbedRequest(Lenient):
    model: ModelName
    input: str | list[str] = Field(default=[])
    truncate: bool | None = None
    keep_alive: float | str | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None


class OldEmbeddingsRequest(Lenient):
    model: ModelName
    prompt: str = ""
    keep_alive: float | str | None = None


class NameRequest(Lenient):
    """`name` is what `model` was called in older versions."""

    model: ModelName | None = None
    name: ModelName | None = None
    stream: bool | None = None
    insecure: bool | None = None

    def named(self) -> str:
        """Raises InvalidRequest."""
        name = self.model or self.name
        if not name:
            raise InvalidRequest("model: is missing")
        return name


def openai_messages(messages: list[OllamaMessage]) -> list[Json]:
    """Tool calls get ids by their position, the tools' answers the ids of the calls before, by name or in turn."""
    converted: list[Json] = []
    open_calls: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        one: Json = {"role": message.role, "content": _content(message)}
        if message.thinking:
            one["reasoning"] = message.thinking
        if message.tool_calls:
            open_calls = [(f"call_{number}_{i}", call.function.name) for i, call in enumerate(message.tool_calls)]
            one["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(call.function.arguments)},
                }
                for (call_id, name), call in zip(open_calls, message.tool_calls, strict=True)
            ]
        if message.role == "tool":
            one["tool_call_id"] = message.tool_call_id or _answered(open_calls, message.tool_name)
            if message.tool_name:
                one["name"] = message.tool_name
        converted.append(one)
    return converted


def _answered(open_calls: list[tuple[str, str]], name: str | None) -> str:
    for call in open_calls:
        if name is None or call[1] == name:
            open_calls.remove(call)
            return call[0]
    return "call_0"


def _content(message: OllamaMessage) -> str | list[Json]:
    text = message.content or ""
    if not message.images:
        return text
    pictures = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
    return [{"type": "text", "text": text}, *pictures]


def _data_url(image: str) -> str:
    try:
        head = base64.b64decode(image[:16], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("images: each must be base64") from error
    kind = next((kind for magic, kind in _IMAGE_TYPES.items() if head.startswith(magic)), "png")
    return f"data:image/{kind};base64,{image}"
