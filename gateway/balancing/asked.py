"""What of a request decides where it goes: its size, its session, how its prompt begins, the version it demands."""

from dataclasses import dataclass

from gateway.balancing.choice import hashed
from gateway.errors import InvalidField
from gateway.http.asgi import Scope
from gateway.request.body import RequestBody
from gateway.request.estimate import RequestEstimate
from gateway.serving.weights.versions import Demand

SESSION_HEADER = b"x-session-id"
MAX_SESSION_CHARS = 256
PREFIX_BYTES = 1024
"""How much of a prompt's JSON has to be the same so that requests go to the same member: about 256 tokens of English,
so that less would save a member less than a few milliseconds of prefill.
"""
_PROMPTS = ("messages", "prompt")
_SPREAD = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/embeddings"})


@dataclass(frozen=True, slots=True)
class Asked:
    """`tokens` are an estimate, prompt and longest answer. `session`, `prefix`: hashes; None: it has none.

    `only_here`: what answers it is kept in one engine's memory (the Responses API), it is no inference, or its key is
    this gateway's alone.
    """

    model: str
    tokens: int
    session: int | None = None
    prefix: int | None = None
    demand: Demand | None = None
    only_here: bool = False


def asked_of(scope: Scope, body: RequestBody, estimate: RequestEstimate, model: str, demand: Demand | None) -> Asked:
    """Raises InvalidField for a session that is too long."""
    session = next((value for name, value in scope["headers"] if name == SESSION_HEADER), b"")
    if len(session) > MAX_SESSION_CHARS:
        raise InvalidField(SESSION_HEADER.decode(), f"{len(session)} characters; at most {MAX_SESSION_CHARS} are taken")
    return Asked(
        model=model,
        tokens=max(1, estimate.tokens),
        session=hashed(session) if session else None,
        prefix=None if session else prefix_of(body),
        demand=demand,
        only_here=scope["path"] not in _SPREAD,
    )


def prefix_of(body: RequestBody) -> int | None:
    """None where the prompt is too short for a cache of its prefix to be worth much."""
    for name in _PROMPTS:
        raw = body.members.get(name)
        if raw is not None:
            text = memoryview(raw)
            return hashed(bytes(text[:PREFIX_BYTES])) if len(text) >= PREFIX_BYTES else None
    return None
