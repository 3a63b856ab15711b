"""Answers that nobody reads along: the engine sends them once, and nothing about them tells."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.server import FINAL_ID, Server

LONG = {"model": "active", "prompt": "17+25=", "max_tokens": 40, "ignore_eos": True}


def _whole(server: Server, **options: Any) -> dict[str, Any]:
    body: dict[str, Any] = server.http.post("/v1/completions", json=LONG | options).raise_for_status().json()
    return body


def _streamed(server: Server, **options: Any) -> list[dict[str, Any]]:
    """The choices of every chunk."""
    answer = server.http.post("/v1/completions", json=LONG | options | {"stream": True}).raise_for_status()
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n")]
    chunks = [json.loads(line) for line in lines if line.startswith("{")]
    return [choice for chunk in chunks for choice in chunk["choices"]]


def _series(server: Server) -> dict[str, float]:
    """vLLM's series of the model, without histograms' buckets."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(server.http.get("/metrics").text)
        for sample in family.samples
        if sample.name.startswith("vllm:")
        and sample.labels.get("model_name") == FINAL_ID
        and not sample.name.endswith("_bucket")
        and not {"finished_reason", "source"} & sample.labels.keys()
    }


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.5, "seed": 5}, {"max_tokens": 1}])
def test_it_is_what_a_stream_says(server: Server, options: dict[str, Any]) -> None:
    asked = {"temperature": 0.0, "logprobs": 3} | options
    [answer] = _whole(server, **asked)["choices"]
    choices = _streamed(server, **asked)
    assert "".join(choice["text"] for choice in choices) == answer["text"]
    said = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    assert [token for each in said for token in each["tokens"]] == answer["logprobs"]["tokens"]
    logprobs = [logprob for each in said for logprob in each["token_logprobs"]]
    assert logprobs == pytest.approx(answer["logprobs"]["token_logprobs"], abs=1e-3)
    assert [set(top) for each in said for top in each["top_logprobs"]] == [
        set(top) for top in answer["logprobs"]["top_logprobs"]
    ]
    assert choices[-1]["finish_reason"] == answer["finish_reason"] == "length"


def test_several_answers_a_prompt_and_its_own_logprobs_come_along(server: Server) -> None:
    body = _whole(server, n=3, temperature=1.0, seed=3, logprobs=1, echo=True)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    for choice in body["choices"]:
        assert choice["text"].startswith("17+25=")
        prompt_tokens = body["usage"]["prompt_tokens"]
        assert len(choice["logprobs"]["tokens"]) == prompt_tokens + 40
        assert choice["logprobs"]["token_logprobs"][0] is None
        assert None not in choice["logprobs"]["token_logprobs"][1:]


def test_a_stop_string_still_ends_it(server: Server) -> None:
    text = _whole(server, temperature=0.0)["choices"][0]["text"]
    stop = text[3:5]
    [stopped] = _whole(server, temperature=0.0, stop=[stop])["choices"]
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == text[: text.index(stop)]


def test_clients_that_want_different_numbers_of_logprobs_do_not_hurt_each_other(server: Server) -> None:
    """A step's rows of log-probabilities are as wide as its widest request wants them: here each answer sees several
    widths, since those that want the most end first. Each client reads its own.
    """
    tokens = {None: 100, 1: 100, 2: 90, 3: 80, 5: 50}

    def ask(width: int | None) -> dict[str, Any]:
        wanted = {} if width is None else {"logprobs": width}
        [choice] = _whole(server, max_tokens=tokens[width], temperature=0.0, **wanted)["choices"]
        answer: dict[str, Any] = choice
        return answer

    alone = {width: ask(width) for width in tokens}
    widths = [None, 1, 2, 3, 5, 5] * 3
    with ThreadPoolExecutor(len(widths)) as clients:
        together = list(clients.map(ask, widths))
    for width, answer in zip(widths, together, strict=True):
        if width is None:
            assert answer["logprobs"] is None
            continue
        said = answer["logprobs"]
        assert len(said["tokens"]) == len(said["top_logprobs"]) == tokens[width]
        assert {len(top) for top in said["top_logprobs"]} <= {width, width + 1}
        assert said["token_logprobs"][0] == pytest.approx(alone[width]["logprobs"]["token_logprobs"][0], abs=0.1)


def _grown(server: Server, tokens: int) -> dict[str, float]:
    """By how much the series grew with one answer of so many tokens, and what the watchdog asked for meanwhile."""
    before = _series(server)
    _whole(server, max_tokens=tokens)
    grown = {name: value - before.get(name, 0.0) for name, value in _series(server).items()}
    watched = grown["vllm:time_to_first_token_seconds_count"] - 1
    assert watched in (0, 1), "the watchdog asks for a token now and then"
    assert grown["vllm:generation_tokens_total"] == tokens + watched
    assert grown["vllm:inter_token_latency_seconds_count"] == tokens - 1
    return grown


@pytest.mark.patches("whole_answers")
def test_vllms_times_are_those_of_every_token(server: Server) -> None:
    """Of one message: by the front end's clock its parts are the whole, by the engine's they are the tokens' times."""
    grown = _grown(server, tokens=60)
    first_s = grown["vllm:time_to_first_token_seconds_sum"]
    between_s = grown["vllm:inter_token_latency_seconds_sum"]
    decode_s = grown["vllm:request_decode_time_seconds_sum"]
    assert first_s > 0
    assert first_s + between_s == pytest.approx(grown["vllm:e2e_request_latency_seconds_sum"], rel=1e-6)
    assert decode_s == pytest.approx(between_s, rel=1e-6)
    assert decode_s > grown["vllm:request_inference_time_seconds_sum"] / 4, "as if the first token had come last"


@pytest.mark.patches("whole_answers")
def test_a_long_answer_leaves_the_engine_in_parts(server: Server) -> None:
    grown = _grown(server, tokens=200)
    decode_s = grown["vllm:request_decode_time_seconds_sum"]
    assert decode_s == pytest.approx(grown["vllm:inter_token_latency_seconds_sum"], rel=1e-6)
    assert 4 <= grown["vllm:iteration_tokens_total_count"] < 20, "200 if the engine sends each token by itself"
