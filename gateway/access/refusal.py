"""A refusal in the words that a route's clients understand."""

from gateway.errors import GatewayError, InvalidRequest, Unauthorized
from gateway.http.asgi import Send, retry_header, send_detail, send_json, send_openai_error
from gateway.http.envelopes import in_envelope
from stepserve.access import tier_in

_OF_VLLM = ("/tokenize", "/detokenize")


async def refuse(path: str, send: Send, error: GatewayError) -> None:
    """OpenAI's envelope on /v1, tiers and /tokenize, Anthropic's on /v1/messages, Ollama's on /api, ours elsewhere."""
    headers = retry_header(error)
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    tier = tier_in(path)
    plain = path[len(tier) + 1 :] if tier else path
    if plain.startswith("/v1/") or plain in _OF_VLLM:
        await send_openai_error(in_envelope(plain, send), error, headers)
    elif path.startswith("/api/"):
        await send_json(send, error.status, {"error": str(error)}, headers)
    elif isinstance(error, InvalidRequest):  # as those routes answer to what they cannot understand
        await send_json(send, 422, {"detail": str(error), "code": error.code}, headers)
    else:
        await send_detail(send, error, headers)
