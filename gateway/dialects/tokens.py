"""POST /inference/v1/generate: token ids in, token ids out, as vLLM's route of that name and its RL clients have it.

It is asked of /v1/completions, so that bounds, limits, keys and versions hold as they do there. What that route cannot
do (pictures that /render prepared, KV and encoder transfers) is refused by name.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import ConfigDict, Field, model_validator

from gateway.dialects.call import Call, Json
from gateway.dialects.events import DONE, event
from gateway.dialects.served import Served
from gateway.errors import InvalidField
from gateway.request.body import RequestBody
from gateway.request.bounds import RequestBounds
from gateway.request.context import RequestContext
from stepserve.request_model import RequestModel

PATH = "/inference/v1/generate"
_COMPLETIONS = "/v1/completions"

# Of vLLM's SamplingParams: those that /v1/completions has under the same name.
_TAKEN = frozenset(
    {
        "n", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature", "top_p", "top_k", "min_p",
        "seed", "stop", "stop_token_ids", "ignore_eos", "max_tokens", "min_tokens", "logprobs", "prompt_logprobs",
        "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output", "structured_outputs",
        "logit_bias", "allowed_token_ids", "bad_words",
    }
)  # fmt: skip
# Those that say how the engine hands its answer on, which is the gateway's to decide. /render sends them along.
_OURS = frozenset({"detokenize", "output_kind", "skip_clone", "output_text_buffer_length"})
# As SamplingParams has them. A model's generation_config.json does not count on vLLM's route.
_DEFAULTS: Json = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
_LOWEST_LOGPROB = -9999.0
_BEFORE_ID = "token_id:"

_Named = Callable[[str, float | None], Json]
_Tokens = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]


class StreamOptions(RequestModel):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class TokensRequest(RequestModel):
    """vLLM's GenerateRequest, without what needs another process beside the engine."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    token_ids: _Tokens
    sampling_params: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    request_id: str | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    output_mode: Literal["tokens", "text"] = "tokens"
    return_token_ids: bool = False
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    priority: int = 0
    features: Any = None
    content_parts: Any = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    reasoning_ended: bool | None = None

    @model_validator(mode="after")
    def _served(self) -> Self:
        for name in ("features", "content_parts"):
            if getattr(self, name):
                raise ValueError(f"{name} is not served here: send pictures and sounds to /v1/chat/completions")
        for name in ("kv_transfer_params", "ec_transfer_params"):
            if getattr(self, name):
                raise ValueError(f"{name} is not served here: prompts are computed where answers are")
        for name, value in self.sampling_params.items():
            if name not in _TAKEN | _OURS and not name.startswith("_") and value not in (None, False, 0, [], {}):
                raise ValueError(f"sampling_params.{name} is not served here; taken are {', '.join(sorted(_TAKEN))}")
        if self.reasoning_ended is False and self.sampling_params.get("structured_outputs"):
            raise ValueError(
                "reasoning_ended=false: sampling_params.structured_outputs would hold for the thinking too"
            )
        return self

    @property
    def top_logprobs(self) -> int:
        """How many alternatives of a token are told, itself among them."""
        asked = self.sampling_params.get("logprobs")
        return max(asked, 1) if isinstance(asked, int) else 1

    def asked(self, served: Served) -> Json:
        """The body for /v1/completions. Raises InvalidField."""
        given = {name: self.sampling_params[name] for name in _TAKEN if self.sampling_params.get(name) is not None}
        body: Json = {
            "model": self.model or "active",
            "prompt": self.token_ids,
            **served.defaults(self.model, _COMPLETIONS, _DEFAULTS),
            **given,
            "return_token_ids": True,
            "return_tokens_as_token_ids": self.output_mode == "tokens",
        }
        if "max_tokens" not in body:
            body["max_tokens"] = self._room(served)
        optional = {"request_id": self.request_id, "cache_salt": self.cache_salt, "priority": self.priority or None}
        return body | {name: value for name, value in optional.items() if value is not None}

    def _room(self, served: Served) -> int:
        """All that the context has room for, as on vLLM's route; one token where there is none, which is refused."""
        slot = served.slot(self.model)
        if slot is None or slot.max_model_len_tokens is None:
            raise InvalidField(
                "sampling_params.max_tokens", "must be given: the model is not loaded here, and its context not known"
            )
        return max(1, slot.max_model_len_tokens - len(self.token_ids))


@dataclass(frozen=True, slots=True)
class Tokens:
    served: Served
    bounds: RequestBounds

    async def __call__(self, call: Call, request: TokensRequest) -> None:
        """Raises InvalidField where a nested field is over a bound of /v1/completions."""
        body = request.asked(self.served)
        context = RequestContext.of(call.scope)
        try:
            context.estimate = await self.bounds.estimate(RequestBody(msgspec.json.encode(body)), _COMPLETIONS)
        except InvalidField as error:
            raise _in_its_place(error) from None
        if request.stream:
            await call.stream(_COMPLETIONS, body, _Chunks(request))
        else:
            await call.whole(_COMPLETIONS, body, lambda answer: _answer(request, answer))


def _in_its_place(error: InvalidField) -> InvalidField:
    field = error.param or ""
    place = "token_ids" if field == "prompt" else f"sampling_params.{field}" if field in _TAKEN else field
    return InvalidField(place, str(error).removeprefix(f"{field}: "))


def _answer(request: TokensRequest, answer: Json) -> Json:
    choices = answer["choices"]
    return {
        "request_id": request.request_id or answer["id"],
        "model": answer["model"],
        "created": answer.get("created") or int(time.time()),
        "output_mode": request.output_mode,
        "choices": [_choice(request, choice) for choice in choices],
        "usage": answer["usage"],
        "prompt_logprobs": choices[0].get("prompt_logprobs"),
        "prompt_token_ids": choices[0].get("prompt_token_ids") if request.return_token_ids else None,
        "mm_placeholders": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
    }


def _choice(request: TokensRequest, choice: Json) -> Json:
    """Of a whole answer or of a chunk."""
    made: Json = {
        "index": choice["index"],
        "token_ids": choice.get("token_ids") or [],
        "finish_reason": choice["finish_reason"],
        "stop_reason": choice.get("stop_reason"),
        "logprobs": None,
        "routed_experts": None,
        "sampling_mask": None,
        "weight_versions": None,
    }
    if request.output_mode == "text":
        made["text"] = choice["text"]
    if (said := choice.get("logprobs")) is not None:
        named = _as_text if request.output_mode == "text" else _as_id
        tops = said["top_logprobs"] or [None] * len(said["tokens"])
        told = zip(said["tokens"], said["token_logprobs"], tops, strict=True)
        made["logprobs"] = {
            "content": [
                named(token, logprob) | {"top_logprobs": _top(named, top, request.top_logprobs)}
                for token, logprob, top in told
            ]
        }
    return made


def _top(named: _Named, top: Json | None, most: int) -> list[Json]:
    return [named(token, logprob) for token, logprob in [*(top or {}).items()][:most]]


def _as_id(token: str, logprob: float | None) -> Json:
    """`rank` is not known on /v1/completions."""
    return {"token_id": int(token.removeprefix(_BEFORE_ID)), "logprob": _finite(logprob), "rank": None}


def _as_text(token: str, logprob: float | None) -> Json:
    return {"token": token, "logprob": _finite(logprob), "bytes": list(token.encode())}


def _finite(logprob: float | None) -> float:
    return _LOWEST_LOGPROB if logprob is None else logprob


class _Chunks:
    """`data: {"request_id": …, "choices": [{"index": 0, "token_ids": […], …}]}`, at last `data: [DONE]`."""

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, request: TokensRequest) -> None:
        self._request = request
        self._prompt_is_due = request.return_token_ids

    def piece(self, chunk: Json) -> bytes:
        request, choices = self._request, chunk.get("choices") or []
        options = request.stream_options
        made: Json = {
            "request_id": request.request_id or chunk["id"],
            "output_mode": request.output_mode,
            "choices": [_choice(request, choice) for choice in choices],
            "usage": None,
            "prompt_token_ids": None,
        }
        if options.include_usage and (not choices or options.continuous_usage_stats):
            made["usage"] = chunk.get("usage")
        if not choices and made["usage"] is None:
            return b""
        if self._prompt_is_due and choices:
            made["prompt_token_ids"] = choices[0].get("prompt_token_ids")
            self._prompt_is_due = False
        return event(msgspec.json.encode(made))

    def end(self) -> bytes:
        return event(DONE)
