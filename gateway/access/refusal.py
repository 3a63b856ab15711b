"""A refusal in the words that a route's clients understand."""

from gateway.asgi import Send, retry_header, send_detail, send_json, send_openai_error
from gateway.errors import GatewayError, Unauthorized
from switchyard.access import tier_in

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


async def refuse(path: str, send: Send, error: GatewayError) -> None:
    """OpenAI's envelope on /v1 and tiers, Anthropic's on /v1/messages, Ollama's on /api, ours elsewhere."""
    headers = retry_header(error)
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    tier = tier_in(path)
    plain = path[len(tier) + 1 :] if tier else path
    if plain == "/v1/messages" or plain.startswith("/v1/messages/"):
        kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
        await send_json(send, error.status, {"type": "error", "error": {"type": kind, "message": str(error)}}, headers)
    elif plain.startswith("/v1/"):
        await send_openai_error(send, error, headers)
    elif path.startswith("/api/"):
        await send_json(send, error.status, {"error": str(error)}, headers)
    else:
        await send_detail(send, error, headers)
