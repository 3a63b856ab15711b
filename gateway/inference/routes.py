"""The table of our own inference routes, put together."""

from collections.abc import Sequence

from gateway.dialects.native.chat import Chat, ChatRequest
from gateway.dialects.native.generate import Generate, GenerateRequest
from gateway.dialects.native.prompts import Prompts
from gateway.dialects.native.queueing import Queueing
from gateway.dialects.native.solve import CodingRequest, MathRequest, solve_coding, solve_math
from gateway.dialects.ollama.abilities import Abilities
from gateway.dialects.ollama.asking import Asking
from gateway.dialects.ollama.changes import AliasKeeper, Changes, CopyRequest, CreateRequest
from gateway.dialects.ollama.keeping import Keeper, Keeping
from gateway.dialects.ollama.models import Models
from gateway.dialects.ollama.pull import Pull
from gateway.dialects.ollama.requests import (
    EmbedRequest,
    NameRequest,
    OldEmbeddingsRequest,
    OllamaChatRequest,
    OllamaGenerateRequest,
)
from gateway.dialects.router import ProtocolAdapters, Route
from gateway.dialects.served import Served
from gateway.dialects.tokens import PATH as TOKENS_PATH
from gateway.dialects.tokens import Tokens, TokensRequest
from gateway.edge.greeting import Greeting
from gateway.http.asgi import App
from gateway.request.bounds import RequestBounds
from gateway.sidecar.control_link import ControlProxy
from stepserve.settings import Settings


def create_routes(
    settings: Settings,
    inner: App,
    served: Served,
    control: ControlProxy,
    keeper: Keeper,
    aliases: AliasKeeper,
    bounds: RequestBounds,
    installed: Sequence[Route] = (),
) -> ProtocolAdapters:
    """`inner` answers vLLM's routes; `installed` are those of other packages.

    Puts the editable system prompts where they are missing; raises OSError.
    """
    prompts = Prompts(settings.layout.prompts)
    prompts.install()
    abilities = Abilities(served, settings.engine)
    asking = Asking(served, Keeping(served, keeper), abilities)
    models = Models(served, control, abilities, settings.ollama_version)
    changes = Changes(models, aliases, control)
    routes = [
        Route(
            "POST", "/generate", "Continue a prompt, or queue it as a job",
            Generate(served, Queueing(control, served.naming)), request=GenerateRequest,
        ),
        Route("POST", "/chat", "Answer a conversation", Chat(served), request=ChatRequest),
        Route(
            "POST", "/solve/math", "Solve a problem, with the answer",
            solve_math(prompts, served), request=MathRequest,
        ),
        Route(
            "POST", "/solve/coding", "Solve a problem, with the code",
            solve_coding(prompts, served), request=CodingRequest,
        ),
        Route(
            "POST", TOKENS_PATH, "vLLM: token ids in, token ids out",
            Tokens(served, bounds), request=TokensRequest,
        ),
        Route("POST", "/api/chat", "Ollama: answer a conversation", asking.chat, request=OllamaChatRequest),
        Route("POST", "/api/generate", "Ollama: answer a prompt", asking.generate, request=OllamaGenerateRequest),
        Route("POST", "/api/embed", "Ollama: embeddings", asking.embed, request=EmbedRequest),
        Route("POST", "/api/embeddings", "Ollama: one embedding", asking.old_embeddings, request=OldEmbeddingsRequest),
        Route("GET", "/api/tags", "Ollama: registered models", models.tags),
        Route("GET", "/api/ps", "Ollama: loaded models", models.ps),
        Route("POST", "/api/show", "Ollama: one model", models.show, request=NameRequest),
        Route("GET", "/api/version", "Ollama: version", models.version),
        Route("POST", "/api/create", "Ollama: a name with parameters", changes.create, request=CreateRequest),
        Route("POST", "/api/copy", "Ollama: another name", changes.copy, request=CopyRequest),
        Route("DELETE", "/api/delete", "Ollama: remove a name or a model", changes.delete, request=NameRequest),
        Route("POST", "/api/pull", "Ollama: fetch a model", Pull(control), request=NameRequest),
        Route("GET", "/", "Ollama: greeting; a page for browsers", Greeting(settings, served)),
        *installed,
    ]  # fmt: skip
    return ProtocolAdapters(inner, routes, settings.max_request_bytes, bounds)
