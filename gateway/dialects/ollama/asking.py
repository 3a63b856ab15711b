"""POST /api/chat, /api/generate and /api/embed."""

from dataclasses import dataclass

from gateway.dialects.call import Call, Json
from gateway.dialects.ollama.abilities import Abilities
from gateway.dialects.ollama.answers import Lines, Shape, in_message, in_response, now, whole_answer
from gateway.dialects.ollama.keeping import Keeping, asked_s
from gateway.dialects.ollama.requests import (
    AskRequest,
    EmbedRequest,
    OldEmbeddingsRequest,
    OllamaChatRequest,
    OllamaGenerateRequest,
)
from gateway.dialects.served import Served

_TOKENIZE = "/tokenize"
_CHAT, _COMPLETIONS, _EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class Asking:
    served: Served
    keeping: Keeping
    abilities: Abilities

    async def chat(self, call: Call, request: OllamaChatRequest) -> None:
        if request.messages:
            images = any(message.images for message in request.messages)
            await self.abilities.check(
                request.model, images=images, thinks=bool(request.think), tools=bool(request.tools)
            )
            await self._ask(call, request, _CHAT, request.body(self._context_tokens(request.model)), in_message)
        else:
            await self._load(call, request, {"message": {"role": "assistant", "content": ""}})

    async def generate(self, call: Call, request: OllamaGenerateRequest) -> None:
        if request.prompt or request.images:
            await self.abilities.check(request.model, images=bool(request.images), thinks=bool(request.think))
            path = _COMPLETIONS if request.raw else _CHAT
            await self._ask(call, request, path, request.body(self._context_tokens(request.model)), in_response)
        else:
            await self._load(call, request, {"response": ""})

    async def embed(self, call: Call, request: EmbedRequest) -> None:
        body: Json = {"model": request.model, "input": request.input, "encoding_format": "float"}
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        keep_alive_s = asked_s(request.keep_alive)
        await call.whole(
            _EMBEDDINGS,
            body,
            lambda answer: {
                "model": request.model,
                "embeddings": [item["embedding"] for item in answer["data"]],
                "total_duration": call.timing.total_ns,
                "load_duration": 0,
                "prompt_eval_count": answer["usage"]["prompt_tokens"],
            },
        )
        await self.keeping.after(call, request.model, keep_alive_s)

    async def old_embeddings(self, call: Call, request: OldEmbeddingsRequest) -> None:
        body = {"model": request.model, "input": request.prompt, "encoding_format": "float"}
        keep_alive_s = asked_s(request.keep_alive)
        await call.whole(_EMBEDDINGS, body, lambda answer: {"embedding": answer["data"][0]["embedding"]})
        await self.keeping.after(call, request.model, keep_alive_s)

    async def _ask(self, call: Call, request: AskRequest, path: str, body: Json, shape: Shape) -> None:
        thinks = bool(request.think)
        keep_alive_s = asked_s(request.keep_alive)
        if request.stream is False:
            await call.whole(
                path, body, lambda answer: whole_answer(answer, request.model, call.timing, shape, thinks=thinks)
            )
        else:
            await call.stream(path, body, Lines(request.model, call.timing, shape, thinks=thinks))
        await self.keeping.after(call, request.model, keep_alive_s)

    async def _load(self, call: Call, request: AskRequest, said: Json) -> None:
        """Nothing is asked: so clients load a model, or with `keep_alive: 0` unload it."""
        keep_alive_s = asked_s(request.keep_alive)
        reason = "unload" if keep_alive_s == 0 else "load"
        content = {"model": request.model, "created_at": now(), **said, "done": True, "done_reason": reason}
        if self.served.slot(request.model) is not None:
            await self.keeping.after(call, request.model, keep_alive_s)
            await call.answer(content)
        else:  # whoever reaches a model has it loaded, where requests may do that
            await call.whole(_TOKENIZE, {"model": request.model, "prompt": "-"}, lambda _: content)
            await self.keeping.after(call, request.model, keep_alive_s)

    def _context_tokens(self, name: str) -> int | None:
        slot = self.served.slot(name)
        return slot.max_model_len_tokens if slot else None
