"""Token ids in, token ids out: what is asked of /v1/completions, and what becomes of its answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.gateway.fakes import FakeClient
from tests.unit.gateway.test_dialects import Inner, ask

PATH = "/inference/v1/generate"
CHOICE: dict[str, Any] = {
    "index": 0,
    "text": "42",
    "token_ids": [7, 8],
    "prompt_token_ids": [1, 2],
    "finish_reason": "length",
    "stop_reason": None,
    "logprobs": {
        "tokens": ["token_id:7", "token_id:8"],
        "token_logprobs": [-0.5, None],
        "top_logprobs": [{"token_id:7": -0.5, "token_id:9": -1.5, "token_id:3": -2.5}, None],
    },
}
ANSWER: dict[str, Any] = {
    "id": "cmpl-1",
    "model": "a",
    "created": 5,
    "choices": [CHOICE],
    "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
}


def refusal(client: FakeClient) -> Any:
    return json.loads(client.body)["error"]


def test_what_is_asked_is_what_vllms_sampling_params_say(tmp_path: Path) -> None:
    inner = Inner(ANSWER)
    ask(tmp_path, inner, PATH, token_ids=[1, 2], sampling_params={"seed": 3, "logprobs": 2, "max_tokens": 2, "n": 1})
    [(path, body)] = inner.asked
    assert path == "/v1/completions"
    assert body == {
        "model": "active", "prompt": [1, 2], "max_tokens": 2, "seed": 3, "logprobs": 2, "n": 1,
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
        "return_token_ids": True, "return_tokens_as_token_ids": True,
    }  # fmt: skip


def test_a_bound_is_needed_where_the_context_is_not_known(tmp_path: Path) -> None:
    inner = Inner(ANSWER)
    client = ask(tmp_path, inner, PATH, token_ids=[1])
    assert (client.status, inner.asked) == (400, [])
    assert refusal(client)["param"] == "sampling_params.max_tokens"


def test_the_answer_tells_tokens_by_their_ids(tmp_path: Path) -> None:
    client = ask(
        tmp_path, Inner(ANSWER), PATH, token_ids=[1, 2], return_token_ids=True,
        sampling_params={"logprobs": 2, "max_tokens": 2},
    )  # fmt: skip
    answer = json.loads(client.body)
    assert client.headers[b"x-model-id"] == b"a"
    assert (answer["request_id"], answer["prompt_token_ids"], answer["usage"]) == ("cmpl-1", [1, 2], ANSWER["usage"])
    [choice] = answer["choices"]
    assert (choice["token_ids"], choice["finish_reason"], choice["index"]) == ([7, 8], "length", 0)
    assert choice["logprobs"]["content"] == [
        {
            "token_id": 7, "logprob": -0.5, "rank": None,
            "top_logprobs": [
                {"token_id": 7, "logprob": -0.5, "rank": None}, {"token_id": 9, "logprob": -1.5, "rank": None},
            ],
        },
        {"token_id": 8, "logprob": -9999.0, "rank": None, "top_logprobs": []},
    ]  # fmt: skip


def test_text_is_told_where_it_is_asked_for(tmp_path: Path) -> None:
    said = {"tokens": ["é"], "token_logprobs": [-0.5], "top_logprobs": None}
    inner = Inner(ANSWER | {"choices": [CHOICE | {"logprobs": said, "text": "é"}]})
    client = ask(
        tmp_path, inner, PATH, token_ids=[1], output_mode="text", sampling_params={"logprobs": 0, "max_tokens": 2}
    )
    [choice] = json.loads(client.body)["choices"]
    assert choice["text"] == "é"
    assert choice["logprobs"] == {
        "content": [{"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9], "top_logprobs": []}]
    }
    assert inner.asked[0][1]["return_tokens_as_token_ids"] is False


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_of_token_ids(tmp_path: Path, usage: bool) -> None:
    pieces = [
        {"id": "c", "choices": [CHOICE | {"token_ids": [7], "finish_reason": None, "logprobs": None}]},
        {"id": "c", "choices": [CHOICE | {"token_ids": [8], "logprobs": None}]},
        {"id": "c", "choices": [], "usage": ANSWER["usage"]},
    ]
    events = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in pieces]
    client = ask(
        tmp_path, Inner([*events, b"data: [DONE]\n\n"]), PATH, token_ids=[1, 2], stream=True, return_token_ids=True,
        stream_options={"include_usage": usage}, sampling_params={"max_tokens": 2},
    )  # fmt: skip
    *data, last = [line.removeprefix("data: ") for line in client.body.decode().splitlines() if line]
    chunks = [json.loads(each) for each in data]
    assert last == "[DONE]"
    assert [choice["token_ids"] for chunk in chunks for choice in chunk["choices"]] == [[7], [8]]
    assert [chunk["prompt_token_ids"] for chunk in chunks][:2] == [[1, 2], None]
    assert [chunk["usage"] for chunk in chunks if chunk["usage"]] == ([ANSWER["usage"]] if usage else [])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "token_ids"),
        ({"token_ids": []}, "token_ids"),
        ({"token_ids": [-1]}, "token_ids"),
        ({"token_ids": ["1"]}, "token_ids"),
        ({"token_ids": [1], "features": {"mm_hashes": {}}}, "features is not served here"),
        ({"token_ids": [1], "content_parts": [{"type": "image_url", "url": "http://a/b"}]}, "content_parts"),
        ({"token_ids": [1], "kv_transfer_params": {"do_remote_decode": True}}, "kv_transfer_params"),
        ({"token_ids": [1], "sampling_params": {"extra_args": {"a": 1}}}, "sampling_params.extra_args"),
        ({"token_ids": [1], "sampling_params": {"trace_decode_token_ids": [1]}}, "trace_decode_token_ids"),
        (
            {"token_ids": [1], "reasoning_ended": False, "sampling_params": {"structured_outputs": {"json": {}}}},
            "structured_outputs",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.split()[0],
)
def test_what_is_not_served_is_named_and_nothing_is_asked(tmp_path: Path, body: Any, named: str) -> None:
    inner = Inner(ANSWER)
    client = ask(tmp_path, inner, PATH, **body)
    assert (client.status, inner.asked) == (400, [])
    assert named in refusal(client)["message"]


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        ({"n": 65}, "n"),
        ({"stop": ["x" * 20_000]}, "sampling_params.stop"),
        ({"stop": ["x"] * 20_000}, "sampling_params"),
        ({"bad_words": ["some text " * 20] * 300}, "sampling_params.bad_words"),
    ],
)
def test_nested_fields_have_the_bounds_of_completions(tmp_path: Path, sampling: Any, named: str) -> None:
    inner = Inner(ANSWER)
    client = ask(tmp_path, inner, PATH, token_ids=[1], sampling_params={"max_tokens": 2} | sampling)
    assert (client.status, inner.asked) == (400, [])
    assert refusal(client)["param"] == named


def test_what_render_sends_along_is_taken(tmp_path: Path) -> None:
    """/v1/chat/completions/render answers with every field there is, most of them empty."""
    inner = Inner(ANSWER)
    rendered = {
        "request_id": "chatcmpl-1", "token_ids": [1, 2], "token_offsets": None, "features": None, "content_parts": None,
        "sampling_params": {
            "temperature": 0.0, "stop": [], "stop_token_ids": [], "logit_bias": None, "output_kind": 2,
            "detokenize": True, "skip_clone": True, "output_text_buffer_length": 0, "_all_stop_token_ids": [3],
            "extra_args": None, "structured_outputs": None, "max_tokens": 4,
        },
        "reasoning_ended": None, "reasoning_parser_kwargs": None, "kv_transfer_params": None, "priority": 0,
    }  # fmt: skip
    client = ask(tmp_path, inner, PATH, **rendered)
    assert client.status == 200, client.body
    assert json.loads(client.body)["request_id"] == "chatcmpl-1"
    asked = inner.asked[0][1]
    assert (asked["prompt"], asked["temperature"], asked["max_tokens"]) == ([1, 2], 0.0, 4)
