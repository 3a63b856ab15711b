"""One request may not stall the others: each of these once held the gateway up for seconds, or ended its engine."""

import json
import threading
import time
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, answer_of
from tests.e2e.test_hostile_clients import another_client

MB = 1_000_000


def said(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


PART = {"type": "text", "text": "x"}
CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
# path, body, and what a refusal names
ABUSES: list[tuple[str, dict[str, Any], str]] = [
    (COMPLETIONS, {"prompt": ["1+1="] * 100, "n": 16_384, "max_tokens": 1, "temperature": 1}, "n: 100 prompts"),
    (COMPLETIONS, {"prompt": ["1+1="] * 257, "max_tokens": 1}, "prompt: 257 prompts"),
    (CHAT, {"messages": said("x"), "n": 257, "temperature": 1}, "n: 1 prompts"),
    (CHAT, {"messages": said("x"), "n": "16384", "temperature": 1}, "n: 1 prompts"),
    ("/generate", {"prompt": "x", "num_return_sequences": 1024}, "num_return_sequences: 1 prompts"),
    ("/v1/embeddings", {"input": ["x"] * 5_000}, "input: holds 5000"),
    ("/tokenize", {"prompt": "ab " * 10 * MB}, "prompt"),
    ("/tokenize", {"messages": said("ab " * 200_000)}, "messages"),
    (COMPLETIONS, {"prompt": "ab " * 10 * MB, "truncate_prompt_tokens": 10, "max_tokens": 1}, "prompt"),
    (CHAT, {"messages": said("ab " * MB), "truncate_prompt_tokens": 10, "max_tokens": 1}, "messages"),
    ("/detokenize", {"tokens": [70] * 5 * MB}, "tokens"),
    ("/detokenize", {"tokens": [70] * 70_000}, "tokens"),
    (COMPLETIONS, {"prompt": "x", "bad_words": ["ab " * 700_000] * 8}, "bad_words"),
    (COMPLETIONS, {"prompt": "x", "stop": ["z" * 4 * MB]}, "stop"),
    (COMPLETIONS, {"prompt": "x", "allowed_token_ids": [70] * 3 * MB}, "allowed_token_ids"),
    (COMPLETIONS, {"prompt": "x", "logit_bias": {str(number): 1 for number in range(100_000)}}, "logit_bias"),
    (CHAT, {"messages": said([PART] * 200_000)}, "messages"),
    (CHAT, {"messages": said("x") * 200_000}, "messages"),
    (MESSAGES, {"messages": said("x") * 200_000, "max_tokens": 1}, "messages"),
    (MESSAGES, {"messages": said("x"), "max_tokens": 1, "system": [PART] * 200_000}, "system"),
    (MESSAGES, {"messages": said("x"), "max_tokens": 1, "stop_sequences": ["x" * MB]}, "stop_sequences"),
    (RESPONSES, {"input": said("x") * 200_000}, "input"),
    (RESPONSES, {"input": [1] * 200_000}, "input"),
    (COMPLETIONS, {"prompt": [1.5] * 1_000_000}, "prompt"),
    (CHAT, {"messages": said([1] * 10_000)}, "messages"),
    ("/api/chat", {"messages": said("x") * 200_000, "stream": False}, "messages"),
    ("/api/generate", {"prompt": "ab " * MB, "raw": True, "stream": False}, "prompt"),
    ("/chat", {"messages": said("x") * 200_000}, "messages"),
    ("/solve/math", {"problem": "ab " * MB}, "messages"),
    (CHAT, {"model": "m" * MB, "messages": said("x")}, "model"),
    ("/api/chat", {"model": "m" * MB, "messages": said("x")}, "model"),
    ("/api/show", {"model": "m" * MB}, "model"),
    (CHAT, {"messages": said("x"), "user": "u" * 5 * MB}, "user"),
    (CHAT, {"messages": said("x"), "nobody": "u" * 5 * MB, "chat_template_kwargs": {"a": [0] * 50_000}}, "chat_te"),
]


def message_in(response: httpx.Response) -> str:
    """Of the envelope that belongs to the route."""
    path, said = response.request.url.path, response.json()
    if path.startswith("/api/"):
        assert set(said) == {"error"}
        message = said["error"]
    elif path in ("/generate", "/chat", "/solve/math"):
        assert set(said) <= {"detail", "code"}
        message = said["detail"]
    else:
        assert set(said) - {"type"} == {"error"}
        message = said["error"]["message"]
    assert isinstance(message, str)
    return message


def engines(server: Server) -> list[int]:
    gateway = server.named("stepserve: gateway")
    return sorted(process.pid for process in gateway.children(recursive=True))


def test_each_is_refused_while_another_client_is_served(server: Server) -> None:
    before = engines(server)
    wrong = []
    with another_client(server):
        for path, body, named in ABUSES:
            content = json.dumps({"model": "active", **body}).encode()
            response = server.http.post(path, content=content, headers={"content-type": "application/json"})
            message = message_in(response)
            if response.status_code not in (400, 413, 422) or named not in message or len(message) > 1000:
                wrong.append((path, named, response.status_code, message[:300]))
    assert not wrong
    assert engines(server) == before, "no engine was started anew"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": ["1+1="] * 256, "max_tokens": 1}),
        (COMPLETIONS, {"prompt": "1+1=", "n": 256, "max_tokens": 1, "temperature": 1}),
        ("/tokenize", {"prompt": "ab " * 160_000}),
        (COMPLETIONS, {"prompt": "ab " * 160_000, "truncate_prompt_tokens": 10, "max_tokens": 1}),
        ("/detokenize", {"tokens": [70] * 65_536}),
    ],
    ids=["prompts", "n", "tokenize", "truncate", "detokenize"],
)
def test_what_is_large_and_allowed_is_answered(server: Server, path: str, body: dict[str, Any]) -> None:
    with another_client(server):
        assert server.http.post(path, json={"model": "active", **body}).status_code == 200


@pytest.mark.patches("long_texts_in_turn")
def test_a_short_text_does_not_wait_for_long_ones(server: Server) -> None:
    """Eight of them, which take a thread half a second or more each, are before it."""
    body = {"model": "active", "prompt": "ab " * 160_000}
    ended = 0

    def ask() -> None:
        nonlocal ended
        assert server.http.post("/tokenize", json=body).status_code == 200
        ended += 1

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    while not ended:
        time.sleep(0.01)
    answer_of(server.ask("What is 17+25?"))
    assert ended < len(threads), "it was answered while the others still waited"
    for thread in threads:
        thread.join()
    assert ended == len(threads)


def test_how_late_the_loops_were_is_in_the_metrics(server: Server) -> None:
    lines = server.http.get("/metrics").text.splitlines()
    for name in ("stepserve_event_loop_lag_seconds", "stepserve_control_event_loop_lag_seconds"):
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
