"""vLLM's routes for RL clients that keep the tokens themselves: /render and /inference/v1/generate."""

import json
from typing import Any

import pytest

from tests.e2e.server import FINAL_ID, Server

CHAT: dict[str, Any] = {
    "model": "active", "messages": [{"role": "user", "content": "What is 17+25?"}], "temperature": 0, "max_tokens": 16,
    "logprobs": True, "top_logprobs": 2, "return_token_ids": True,
}  # fmt: skip


def generate(server: Server, **body: Any) -> Any:
    answer = server.http.post("/inference/v1/generate", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-model-id"] == FINAL_ID
    return answer.json()


def test_what_is_rendered_and_then_generated_is_what_chat_answers(server: Server) -> None:
    whole = server.http.post("/v1/chat/completions", json=CHAT).raise_for_status().json()
    rendered = server.http.post("/v1/chat/completions/render", json=CHAT)
    assert rendered.status_code == 200, rendered.text
    assert rendered.json()["token_ids"] == whole["prompt_token_ids"]

    answer = generate(server, **rendered.json() | {"return_token_ids": True})
    [choice], [said] = answer["choices"], whole["choices"]
    assert answer["prompt_token_ids"] == whole["prompt_token_ids"]
    assert (choice["token_ids"], choice["finish_reason"]) == (said["token_ids"], said["finish_reason"])
    told = [each["logprob"] for each in choice["logprobs"]["content"]]
    assert told == pytest.approx([each["logprob"] for each in said["logprobs"]["content"]], abs=1e-4)
    assert [each["token_id"] for each in choice["logprobs"]["content"]] == choice["token_ids"]
    assert answer["usage"] == {**answer["usage"], "prompt_tokens": whole["usage"]["prompt_tokens"]}


def test_a_stream_gives_the_tokens_of_the_whole_answer(server: Server) -> None:
    [rendered] = server.http.post(
        "/v1/completions/render", json={"model": "active", "prompt": "17+25="}
    ).raise_for_status().json()  # fmt: skip
    asked: dict[str, Any] = {
        "token_ids": rendered["token_ids"], "sampling_params": {"temperature": 0, "max_tokens": 6}, "model": FINAL_ID,
    }  # fmt: skip
    whole = generate(server, **asked)
    with server.http.stream("POST", "/inference/v1/generate", json=asked | {"stream": True}) as stream:
        data = [line.removeprefix("data: ") for line in stream.iter_lines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(each) for each in data[:-1]]
    streamed = [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]]
    assert streamed == whole["choices"][0]["token_ids"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_without_a_bound_it_goes_on_to_the_end_of_the_context(server: Server) -> None:
    answer = generate(server, token_ids=[5], sampling_params={"ignore_eos": True, "seed": 1})
    limit = server.http.get("/v1/models").raise_for_status().json()["data"][0]["max_model_len"]
    assert answer["usage"]["total_tokens"] == limit


def test_a_token_that_the_model_does_not_have(server: Server) -> None:
    answer = server.http.post("/inference/v1/generate", json={"token_ids": [10_000_000]})
    assert answer.status_code == 400, answer.text
    assert server.ask("What is 17+25?").status_code == 200
