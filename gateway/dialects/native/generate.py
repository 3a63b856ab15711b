"""POST /generate: a prompt as it is, or through the chat template when the model is to think first."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gateway.dialects.call import Call, Json
from gateway.dialects.native.deltas import Deltas, Heard
from gateway.dialects.native.queueing import Queueing
from gateway.dialects.native.sampling import Sampling
from gateway.dialects.served import Served
from gateway.dialects.thinking import Parts, split

_THINK = {"chat_template_kwargs": {"enable_thinking": True}, "return_prompt_text": True}


class GenerateRequest(Sampling):
    DEFAULTS: ClassVar[Json] = {"max_tokens": 256, "temperature": 0.7, "top_p": 0.9}

    prompt: str
    num_return_sequences: Annotated[int, Field(ge=1, le=1024)] = 1
    mode: Literal["normal", "think"] = "normal"
    stream: bool = False
    queue: bool = False

    @model_validator(mode="after")
    def _one_way_out(self) -> Self:
        if self.stream and self.queue:
            raise ValueError("stream and queue exclude each other: a queued answer is fetched from its job")
        return self


@dataclass(frozen=True, slots=True)
class Generate:
    served: Served
    queueing: Queueing

    async def __call__(self, call: Call, request: GenerateRequest) -> None:
        if request.queue:
            await self.queueing.accept(call, request.model_name, request.model_dump(exclude_none=True))
            return
        path = "/v1/chat/completions" if request.mode == "think" else "/v1/completions"
        body = self._body(request, path)
        if request.stream:
            deltas = Deltas(lambda heard: _conclusion(call, heard), thinking=request.mode == "think")
            await call.stream(path, body, deltas)
        else:
            await call.whole(path, body, lambda answer: _answer(call, request, answer))

    def _body(self, request: GenerateRequest, path: str) -> Json:
        name = request.model_name
        body = sampled(self.served, request, name, path)
        if request.num_return_sequences > 1:
            body["n"] = request.num_return_sequences
        if request.mode == "think":
            return body | {"messages": [{"role": "user", "content": request.prompt}], **_THINK}
        return body | {"prompt": request.prompt}


def sampled(served: Served, request: Sampling, name: str | None, path: str) -> Json:
    """The model and how it is sampled, for the body of a request on `path`."""
    defaults = request.DEFAULTS
    if "max_tokens" in defaults:
        defaults = defaults | {"max_tokens": served.fitting(name, defaults["max_tokens"])}
    return {"model": name or "active", **served.defaults(name, path, defaults), **request.asked()}


def parts_of(choice: Json, prompt_text: str | None = None, *, thinking: bool) -> Parts:
    """Thinking and answer of one whole choice, whether vLLM's reasoning parser took them apart or not."""
    message = choice.get("message") or {}
    text = choice.get("text") or message.get("content") or ""
    if message.get("reasoning"):
        return Parts(message["reasoning"], text)
    if not thinking:
        return Parts("", text)
    return split(text, opened=(prompt_text or "").rstrip().endswith("<think>"))


def _answer(call: Call, request: GenerateRequest, answer: Json) -> Json:
    thinking = request.mode == "think"
    parts = [parts_of(choice, answer.get("prompt_text"), thinking=thinking) for choice in answer["choices"]]
    usage = answer["usage"]
    content: Json = {
        "id": answer["id"],
        "model": answer["model"],
        "prompt": request.prompt,
        "text": parts[0].content,
        "generated_text": parts[0].content,
        "reasoning_content": parts[0].reasoning or None,
        "finish_reason": answer["choices"][0]["finish_reason"],
        "tokens_generated": usage["completion_tokens"],
        "prompt_tokens": usage["prompt_tokens"],
        "generation_time": round(call.timing.total_ns / 1e9, 6),
    }
    if len(parts) > 1:
        content["texts"] = [each.content for each in parts]
    return content


def _conclusion(call: Call, heard: Heard) -> Json:
    return {
        "model": heard.model,
        "finish_reason": heard.finish_reason,
        "tokens_generated": heard.usage.get("completion_tokens", 0),
        "prompt_tokens": heard.usage.get("prompt_tokens", 0),
        "generation_time": round(call.timing.total_ns / 1e9, 6),
    }
