"""The table of our own inference routes, put together."""

from functools import partial

from gateway.dialects.call import Call, Json
from gateway.dialects.native.chat import Chat, ChatRequest
from gateway.dialects.native.generate import Generate, GenerateRequest
from gateway.dialects.native.prompts import Prompts
from gateway.dialects.native.queueing import Queueing
from gateway.dialects.native.solve import CodingRequest, MathRequest, solve_coding, solve_math
from gateway.dialects.ollama.asking import Asking
from gateway.dialects.ollama.models import Models
from gateway.dialects.ollama.pull import Pull
from gateway.dialects.ollama.requests import (
    EmbedRequest,
    NameRequest,
    OldEmbeddingsRequest,
    OllamaChatRequest,
    OllamaGenerateRequest,
)
from gateway.dialects.router import Dialects, Route
from gateway.dialects.served import Served
from gateway.http.asgi import App
from gateway.request.bounds import RequestBounds
from gateway.sidecar.control_link import ControlLink
from stepserve.settings import Settings


def create_routes(
    settings: Settings, inner: App, served: Served, control: ControlLink, bounds: RequestBounds
) -> Dialects:
    """`inner` answers vLLM's routes. Puts the editable system prompts where they are missing; raises OSError."""
    prompts = Prompts(settings.layout.prompts)
    prompts.install()
    asking = Asking(served)
    models = Models(served, control, settings.engine)
    native = partial(Route, envelope=detail)
    ollama = partial(Route, envelope=error_text, invalid_status=400)
    routes = [
        native(
            "POST", "/generate", "Continue a prompt, or queue it as a job",
            Generate(served, Queueing(control, served.naming)), request=GenerateRequest,
        ),
        native("POST", "/chat", "Answer a conversation", Chat(served), request=ChatRequest),
        native(
            "POST", "/solve/math", "Solve a problem, with the answer",
            solve_math(prompts, served), request=MathRequest,
        ),
        native(
            "POST", "/solve/coding", "Solve a problem, with the code",
            solve_coding(prompts, served), request=CodingRequest,
        ),
        ollama("POST", "/api/chat", "Ollama: answer a conversation", asking.chat, request=OllamaChatRequest),
        ollama("POST", "/api/generate", "Ollama: answer a prompt", asking.generate, request=OllamaGenerateRequest),
        ollama("POST", "/api/embed", "Ollama: embeddings", asking.embed, request=EmbedRequest),
        ollama("POST", "/api/embeddings", "Ollama: one embedding", asking.old_embeddings, request=OldEmbeddingsRequest),
        ollama("GET", "/api/tags", "Ollama: registered models", models.tags),
        ollama("GET", "/api/ps", "Ollama: loaded models", models.ps),
        ollama("POST", "/api/show", "Ollama: one model", models.show, request=NameRequest),
        ollama("GET", "/api/version", "Ollama: version", models.version),
        ollama("POST", "/api/pull", "Ollama: fetch a model", Pull(control), request=NameRequest),
        ollama("GET", "/", "Ollama: greeting", _greet),
    ]  # fmt: skip
    return Dialects(inner, routes, settings.max_request_bytes, bounds)


def detail(_status: int, message: str, code: str | None) -> Json:
    """The envelope of our own routes."""
    if code == "model_not_found":
        message = f"Model not available locally: {message} POST /pull fetches a model."
    return {"detail": message, "code": code} if code else {"detail": message}


def error_text(_status: int, message: str, _code: str | None) -> Json:
    """Ollama's envelope."""
    return {"error": message}


async def _greet(call: Call, _: None) -> None:
    text = b"Ollama is running"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
    await call.send({"type": "http.response.start", "status": 200, "headers": headers})
    await call.send({"type": "http.response.body", "body": b"" if call.scope["method"] == "HEAD" else text})
