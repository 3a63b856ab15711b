"""A failure is in the words of the route, before an answer has begun and after."""

import asyncio
import json

import pytest

from gateway.errors import GatewayError, InvalidField, MethodNotAllowed, Unserved
from gateway.http.asgi import Message
from gateway.http.error_rendering import OPENAI, reworded
from gateway.http.tracked_send import tracked
from tests.unit.gateway.fakes import FakeClient

OPENAIS = {"message": "no", "type": "server_error", "param": None, "code": "service_unavailable"}
NO_TEMPLATE = json.dumps(
    {
        "error": {
            "message": "As of transformers v4.44, default chat template is no longer allowed, so you must provide a"
            " chat template if the tokenizer does not define one.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        }
    }
).encode()
STREAMED = [(b"content-type", b"text/event-stream; charset=utf-8")]


def failing(path: str, error: GatewayError, *, method: str = "POST", begun: bool = False) -> FakeClient:
    """A client of that path whose answer fails, after its first event where it had begun."""

    async def scenario() -> FakeClient:
        client = FakeClient(b"", path)
        client.scope["method"] = method
        response = tracked(client.send, client.scope)
        if begun:
            await response({"type": "http.response.start", "status": 200, "headers": STREAMED})
            await response({"type": "http.response.body", "body": b"one\n", "more_body": True})
        await response.fail(error)
        await response({"type": "http.response.body", "body": b"and on", "more_body": False})
        return client

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "status", "where"),
    [
        ("/v1/completions", 400, ["error", "message"]),
        ("/v1/messages", 400, ["error", "message"]),
        ("/fast/v1/chat/completions", 400, ["error", "message"]),
        ("/tokenize", 400, ["error", "message"]),
        ("/detokenize", 400, ["error", "message"]),
        ("/api/chat", 400, ["error"]),
        ("/generate", 422, ["detail"]),
        ("/solve/math", 422, ["detail"]),
    ],
)
def test_what_cannot_be_understood(path: str, status: int, where: list[str]) -> None:
    client = failing(path, InvalidField("n", "is too large"))
    assert client.status == status
    said = json.loads(client.body)
    for name in where:
        said = said[name]
    assert said == "n: is too large"


@pytest.mark.parametrize(
    ("method", "path", "event"),
    [
        ("POST", "/v1/completions", {"error": OPENAIS}),
        ("POST", "/v1/messages", {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}),
        ("POST", "/fast/v1/messages", {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}),
        ("POST", "/api/chat", {"error": "no"}),
        ("GET", "/jobs/x/events", {"detail": "no", "code": "service_unavailable"}),
        ("POST", "/generate", {"error": OPENAIS, "done": True}),
    ],
)  # fmt: skip
def test_a_stream_fails_in_its_own_words_and_never_ends_as_if_whole(method: str, path: str, event: object) -> None:
    client = failing(path, Unserved("no", 1.0), method=method, begun=True)
    assert client.status == 200
    last = client.sent[-1]
    assert json.loads(last["body"].decode().strip().splitlines()[-1].removeprefix("data: ")) == event
    assert last["more_body"]  # the web server cuts the connection


def test_half_a_whole_answer_is_cut_off_and_not_added_to() -> None:
    async def scenario() -> FakeClient:
        client = FakeClient(b"", "/v1/completions")
        response = tracked(client.send, client.scope)
        await response({"type": "http.response.start", "status": 200, "headers": []})
        await response({"type": "http.response.body", "body": b'{"half', "more_body": True})
        await response.fail(Unserved("no", 1.0))
        return client

    assert asyncio.run(scenario()).body == b'{"half'


@pytest.mark.parametrize("stalled", [False, True])
def test_a_client_is_told_once_and_not_at_all_while_it_takes_nothing(stalled: bool) -> None:
    """An answer that its slot has failed is not told again why its time is up."""

    async def scenario() -> FakeClient:
        client = FakeClient(b"", "/v1/completions")
        takes = asyncio.Event()

        async def send(message: Message) -> None:
            await client.send(message)
            if stalled and message["type"] == "http.response.body":
                await takes.wait()

        response = tracked(send, client.scope)
        await response({"type": "http.response.start", "status": 200, "headers": STREAMED})
        piece = asyncio.create_task(response({"type": "http.response.body", "body": b"one", "more_body": True}))
        await asyncio.sleep(0)
        response.give_up(Unserved("no", 1.0))
        piece.cancel()
        await asyncio.gather(piece, return_exceptions=True)
        await response.tell()
        response.give_up(Unserved("no again", 1.0))
        await response.tell()
        return client

    client = asyncio.run(scenario())
    assert client.body.count(b"data: ") == (0 if stalled else 1)


def test_a_wrong_method_is_told_which_are_right() -> None:
    client = failing("/v1/completions", MethodNotAllowed("GET", "/v1/completions", ["POST"]))
    assert (client.status, client.headers[b"allow"]) == (405, b"POST")


@pytest.mark.parametrize(
    ("path", "status", "body", "expected"),
    [
        ("/v1/chat/completions", 405, b'{"detail":"Method Not Allowed"}', (405, "Method Not Allowed")),
        ("/v1/completions", 500, b"Internal Server Error", (500, "The request failed.")),
        ("/v1/embeddings", 404, b'{"detail":"Not Found"}', (400, "makes no embeddings")),
        ("/v1/chat/completions", 404, b'{"detail":"Not Found"}', (400, "generates no text")),
    ],
)
def test_what_a_framework_says_is_put_in_the_envelope(
    path: str, status: int, body: bytes, expected: tuple[int, str]
) -> None:
    failure = reworded(path, status, body)
    assert failure.status == expected[0]
    assert expected[1] in failure.message
    assert set(OPENAI.body(failure)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("said", "code", "param", "named"),
    [
        ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
         "no_tool_call_parser", "tools", "INFERENCE_ENGINE__TOOL_CALL_PARSER"),
        ('tool_choice="required" requires --tool-call-parser to be set',
         "no_tool_call_parser", "tools", "INFERENCE_ENGINE__TOOL_CALL_PARSER"),
        ("thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-parser",
         "no_reasoning_parser", "thinking_token_budget", "INFERENCE_ENGINE__REASONING_PARSER"),
        ("Chat template is passed with request, but --trust-request-chat-template is not set.",
         "chat_template_refused", "chat_template", "register the model"),
    ],
)  # fmt: skip
def test_a_flag_of_vllms_is_told_as_a_setting_of_ours(said: str, code: str, param: str, named: str) -> None:
    body = json.dumps({"error": {"message": said, "type": "BadRequestError", "param": None, "code": 400}}).encode()
    failure = reworded("/v1/chat/completions", 400, body)
    assert (failure.status, failure.code, failure.param) == (400, code, param)
    assert named in failure.message
    assert "--" not in failure.message


def test_a_model_without_a_chat_template_is_named_with_the_ways_out() -> None:
    failure = reworded("/v1/chat/completions", 400, NO_TEMPLATE, "gpt2")
    assert (failure.status, failure.code, failure.param) == (400, "no_chat_template", "messages")
    assert failure.message.startswith("`gpt2` has no chat template")
    assert "`chat_template`" in failure.message
    assert "default_chat_template" in failure.message


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/v1/chat/completions", ["error", "message"]),
        ("/v1/messages", ["error", "message"]),
        ("/api/chat", ["error"]),
        ("/chat", ["detail"]),
    ],
)
def test_a_missing_chat_template_is_told_in_every_dialect(path: str, where: list[str]) -> None:
    """As vLLM's route says it, with the identity that the slot puts on the answer."""

    async def scenario() -> FakeClient:
        client = FakeClient(b"", path)
        client.scope["method"] = "POST"
        response = tracked(client.send, client.scope)
        response.rewords = "/v1/chat/completions"
        response.headers[b"x-model-id"] = b"gpt2"
        await response({"type": "http.response.start", "status": 400, "headers": []})
        await response({"type": "http.response.body", "body": NO_TEMPLATE})
        return client

    client = asyncio.run(scenario())
    assert (client.status, client.headers[b"x-model-id"]) == (400, b"gpt2")
    said = json.loads(client.body)
    for name in where:
        said = said[name]
    assert said.startswith("`gpt2` has no chat template")
