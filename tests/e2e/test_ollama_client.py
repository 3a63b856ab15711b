"""The ollama client, unchanged, against the server."""

import asyncio
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from tests.e2e.server import FINAL_ID, Server

QUESTION = [{"role": "user", "content": "What is 17+25?"}]
GREEDY = {"temperature": 0}


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url, trust_env=False) as opened:
        yield opened


def test_the_greeting_that_clients_look_for(server: Server) -> None:
    assert server.http.get("/").text == "Ollama is running"
    assert server.http.head("/").status_code == 200


def test_chat(client: ollama.Client) -> None:
    answer = client.chat(FINAL_ID, QUESTION, options=GREEDY)
    assert answer.message.content == "42"
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (33, 3)
    assert answer.total_duration
    assert answer.total_duration > 100_000  # nanoseconds


def test_a_streamed_chat_is_the_same_in_pieces(client: ollama.Client) -> None:
    parts = list(client.chat("active", QUESTION, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == "42"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[0].message.content
    assert parts[-1].eval_count == 3
    assert parts[-1].total_duration == (parts[-1].prompt_eval_duration or 0) + (parts[-1].eval_duration or 0)


def test_the_async_client(server: Server) -> None:
    async def scenario() -> Any:
        async with ollama.AsyncClient(host=server.url, trust_env=False) as client:
            answer = await client.chat("active:latest", QUESTION, options=GREEDY)
        return answer.message.content

    assert asyncio.run(scenario()) == "42"


def test_generate_with_and_without_the_template(client: ollama.Client) -> None:
    assert client.generate("active", "What is 17+25?", options=GREEDY).response == "42"
    raw = "<|im_start|>user\nWhat is 17+25?<|im_end|>\n<|im_start|>assistant\n"
    assert client.generate("active", raw, raw=True, options=GREEDY).response == "42"
    assert (
        "".join(part.response or "" for part in client.generate("active", raw, raw=True, options=GREEDY, stream=True))
        == "42"
    )


def test_options_mean_something(client: ollama.Client) -> None:
    cut = client.chat("active", QUESTION, options={"temperature": 0, "num_predict": 1})
    assert (cut.message.content, cut.done_reason) == ("4", "length")
    assert client.chat("active", QUESTION, options={"temperature": 0, "stop": ["2"]}).message.content == "4"
    with pytest.raises(ollama.ResponseError, match=r"num_ctx.*512") as caught:
        client.chat("active", QUESTION, options={"num_ctx": 32_768})
    assert caught.value.status_code == 400


def test_a_format_is_kept_to(client: ollama.Client) -> None:
    said = client.chat("active", QUESTION, format={"enum": ["forty-two"]}, options=GREEDY)
    assert said.message.content == '"forty-two"'


def test_logprobs(client: ollama.Client) -> None:
    answer = client.chat("active", QUESTION, options=GREEDY, logprobs=True, top_logprobs=2)
    assert answer.logprobs
    assert answer.logprobs[0].token == "4"
    assert len(answer.logprobs[0].top_logprobs or ()) == 2


def test_lists(client: ollama.Client) -> None:
    listed = {model.model: model for model in client.list().models}
    assert {FINAL_ID, "active"} <= set(listed)
    details = listed[FINAL_ID].details
    assert details is not None
    assert details.family == "qwen3"
    assert (FINAL_ID, 512) in [(loaded.model, loaded.context_length) for loaded in client.ps().models]


def test_show(client: ollama.Client) -> None:
    shown = client.show("active")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["qwen3.context_length"] == 512
    assert shown.template is not None
    assert "<|im_start|>" in shown.template


def test_a_wrong_model_is_a_404(client: ollama.Client) -> None:
    for ask in (
        lambda: client.chat("llama3", QUESTION),
        lambda: client.show("llama3"),
        lambda: client.generate("llama3"),
    ):
        with pytest.raises(ollama.ResponseError, match="llama3") as caught:
            ask()
        assert caught.value.status_code == 404


def test_embeddings_that_the_model_cannot_make(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="embeddings") as caught:
        client.embed("active", "hello")
    assert caught.value.status_code == 400


def test_loading_asks_nothing(client: ollama.Client) -> None:
    assert client.generate("active").done_reason == "load"
    assert client.generate("active", keep_alive=0).done_reason == "unload"


def test_an_answer_that_has_begun_is_continued(client: ollama.Client) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "4"}]
    assert client.chat("active", begun, options=GREEDY).message.content == "2"


def test_more_stops_than_openai_takes(client: ollama.Client) -> None:
    answer = client.chat("active", QUESTION, options={"temperature": 0, "stop": ["a", "b", "c", "d", "2"]})
    assert answer.message.content == "4"


def test_what_the_model_cannot_do_is_said(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support thinking"):
        client.chat("active", QUESTION, think=True)
    with pytest.raises(ollama.ResponseError, match="does not support images"):
        client.generate("active", "What is this?", images=[b"\x89PNG\r\n\x1a\n"])


def test_names_with_parameters(client: ollama.Client) -> None:
    assert client.create("calm", from_=FINAL_ID, parameters={"temperature": 0, "num_predict": 1}).status == "success"
    assert client.chat("calm", QUESTION).message.content == "4"
    assert client.copy("calm", "calmer").status == "success"
    assert {"calm:latest", "calm"} & {model.model for model in client.list().models}
    for name in ("calm", "calmer"):
        assert client.delete(name).status == "success"
    with pytest.raises(ollama.ResponseError):
        client.chat("calm", QUESTION)
