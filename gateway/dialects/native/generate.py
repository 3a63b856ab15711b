"""POST /generate: a prompt through the chat template, or as it is where there is none or `raw` asks for that."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gateway.dialects.call import Call, Json
from gateway.dialects.native.deltas import Deltas, Heard
from gateway.dialects.native.queueing import Queueing
from gateway.dialects.native.sampling import Sampling
from gateway.dialects.served import Served
from gateway.dialects.thinking import Parts, split
from gateway.http.error_rendering import Failure
from gateway.missing_template import CODE as NO_TEMPLATE

_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class GenerateRequest(Sampling):
    DEFAULTS: ClassVar[Json] = {"max_tokens": 256, "temperature": 0.7, "top_p": 0.9}

    prompt: str
    num_return_sequences: Annotated[int, Field(ge=1, le=1024)] = 1
    mode: Literal["normal", "think"] = "normal"
    raw: bool = False
    stream: bool = False
    queue: bool = False

    @model_validator(mode="after")
    def _one_way_out(self) -> Self:
        if self.raw and self.mode == "think":
            raise ValueError("raw and mode=think exclude each other: thinking is asked for by the chat template")
        if self.num_return_sequences > 1 and (self.do_sample is False or self.temperature == 0):
            raise ValueError("num_return_sequences must be 1 where answers are greedy: all would be the same")
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
        path = _COMPLETIONS if request.raw else _CHAT
        body = self._body(request, path)

        def without_template(failure: Failure) -> tuple[str, Json] | None:
            if failure.code != NO_TEMPLATE or request.mode == "think":
                return None
            return _COMPLETIONS, self._body(request, _COMPLETIONS)

        if request.stream:
            deltas = Deltas(lambda heard: _conclusion(call, heard), thinking=True)
            await call.stream(path, body, deltas, without_template)
        else:
            await call.whole(path, body, lambda answer: _answer(call, request, answer), without_template)

    def _body(self, request: GenerateRequest, path: str) -> Json:
        name = request.model_name
        body = sampled(self.served, request, name, path)
        if request.num_return_sequences > 1:
            body["n"] = request.num_return_sequences
        if path == _COMPLETIONS:
            return body | {"prompt": request.prompt}
        return body | {
            "messages": [{"role": "user", "content": request.prompt}],
            "chat_template_kwargs": {"enable_thinking": request.mode == "think"},
            "return_prompt_text": True,
        }


def sampled(served: Served, request: Sampling, name: str | None, path: str) -> Json:
    """The model and how it is sampled, for the body of a request on `path`."""
    defaults = request.DEFAULTS
    if "max_tokens" in defaults:
        defaults = defaults | {"max_tokens": served.fitting(name, defaults["max_tokens"])}
    return {"model": name or "active", **served.defaults(name, path, defaults), **request.asked()}


def parts_of(choice: Json, prompt_text: str | None = None, *, thinking: bool) -> Parts:
    """Thinking and answer of one whole choice, whether vLLM's reasoning parser took them apart or not.

    A plain completion is all answer.
    """
    message = choice.get("message") or {}
    text = choice.get("text") or message.get("content") or ""
    if message.get("reasoning"):
        return Parts(message["reasoning"], text)
    if not thinking or "text" in choice:
        return Parts("", text)
    return split(text, opened=(prompt_text or "").rstrip().endswith("<think>"))


def _answer(call: Call, request: GenerateRequest, answer: Json) -> Json:
    parts = [parts_of(choice, answer.get("prompt_text"), thinking=True) for choice in answer["choices"]]
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
