"""POST /chat: messages in, Ollama's chat object out; a stream of deltas where asked for one."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from gateway.dialects.call import Call, Json
from gateway.dialects.native.deltas import Deltas, Heard
from gateway.dialects.native.generate import sampled
from gateway.dialects.native.sampling import Sampling
from gateway.dialects.ollama.answers import chat_answer, figures
from gateway.dialects.served import Served

_PATH = "/v1/chat/completions"


class ChatRequest(Sampling):
    """`messages` are OpenAI's, and go to the model's chat template."""

    DEFAULTS: ClassVar[Json] = {"max_tokens": 512, "temperature": 0.7}

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Chat:
    served: Served

    async def __call__(self, call: Call, request: ChatRequest) -> None:
        body = sampled(self.served, request, request.model_name, _PATH) | {"messages": request.messages}
        if request.stream:
            await call.stream(_PATH, body, Deltas(lambda heard: _conclusion(call, heard)))
        else:
            await call.whole(
                _PATH, body, lambda answer: chat_answer(answer, request.model_name or answer["model"], call.timing)
            )


def _conclusion(call: Call, heard: Heard) -> Json:
    return {"model": heard.model, **figures(heard.finish_reason, heard.usage, call.timing)}
