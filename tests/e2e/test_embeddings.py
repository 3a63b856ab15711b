"""Embeddings by a model that makes them: compared with transformers, under whatever client, and no text from it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import ollama
import openai
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.e2e.server import EARLY, FINAL, FINAL_ID, Server
from tests.eventually import wait_until

TEXTS = ["What is 17+25?", "hello world", "hello word"]
MODULES = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")


def with_pooling(source: Path, target: Path) -> None:
    """A checkpoint as one of sentence-transformers: the mean over the tokens, at length 1."""
    shutil.copytree(source, target)
    modules = [{"type": f"sentence_transformers.models.{name}", "path": path} for name, path in MODULES]
    (target / "modules.json").write_text(json.dumps(modules))
    (target / "1_Pooling").mkdir()
    (target / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))


def by_transformers(folder: Path, text: str) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    with torch.inference_mode():
        mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
    return mean / mean.norm()


@pytest.fixture(scope="module")
def embedding(server: Server) -> Iterator[Server]:
    """The shared server with two embedding models registered; leaves it as it was."""
    for name, source in (("vectors", FINAL), ("early-vectors", EARLY)):
        with_pooling(source, server.models_dir / name)
        server.http.post("/models/register", json={"id": name, "source": "t"}).raise_for_status()
    yield server
    server.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()
    for name in ("vectors", "early-vectors"):
        server.http.post(f"/models/{name}/unload").raise_for_status()
        server.forget(name)


@pytest.fixture
def client(embedding: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{embedding.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def cosine(found: list[float], folder: Path, text: str) -> float:
    """To what transformers makes of the text."""
    return float(torch.tensor(found) @ by_transformers(folder, text))


def test_vectors_are_those_of_transformers(client: openai.OpenAI, embedding: Server) -> None:
    answer = client.embeddings.create(model="vectors", input=TEXTS)  # loaded beside the active one for this
    assert answer.model == "vectors"
    assert answer.usage.prompt_tokens > len(TEXTS)
    for item, text in zip(answer.data, TEXTS, strict=True):
        assert cosine(item.embedding, FINAL, text) > 0.999
    with ollama.Client(host=embedding.url, trust_env=False) as sdk:
        assert sdk.show("vectors").capabilities == ["embedding"]
        (vector,) = sdk.embed("vectors", TEXTS[0]).embeddings
        assert list(vector) == pytest.approx(answer.data[0].embedding, abs=1e-3)


def test_a_batch_of_embeddings(client: openai.OpenAI) -> None:
    lines = [
        {
            "custom_id": text,
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "vectors", "input": text, "encoding_format": "float"},
        }
        for text in TEXTS
    ]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    wait_until("the batch is over", lambda: client.batches.retrieve(made.id).status == "completed", 240.0)
    output = client.batches.retrieve(made.id).output_file_id
    assert output is not None
    for answer in map(json.loads, client.files.content(output).text.splitlines()):
        found = answer["response"]["body"]["data"][0]["embedding"]
        assert cosine(found, FINAL, answer["custom_id"]) > 0.999


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}),
        ("/generate", {"prompt": "x"}),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}]}),
    ],
)
def test_it_generates_no_text(embedding: Server, path: str, body: dict[str, object]) -> None:
    answer = embedding.http.post(path, json={"model": "vectors", **body})
    assert answer.status_code == 400
    assert "generates no text" in answer.text


def test_a_job_that_needs_text_says_so(embedding: Server) -> None:
    asked = {"model_id": "vectors", "name": "x", "dataset_ref": "math_eval.jsonl", "max_samples": 5}
    job = embedding.job(embedding.http.post("/eval/jobs", json=asked).json()["job_id"])
    assert (job["status"], job["error"]) == ("failed", "`vectors` makes embeddings and generates no text")


def test_a_switch_in_place_changes_the_vectors(client: openai.OpenAI, embedding: Server) -> None:
    embedding.http.post("/models/set_active", json={"id": "vectors"}).raise_for_status()
    switched = embedding.http.post("/models/set_active", json={"id": "early-vectors"}).raise_for_status().json()
    assert (switched["method"], switched["proof"]["kind"]) == ("in_place", "weak")
    (item,) = client.embeddings.create(model="active", input="hello world").data
    assert cosine(item.embedding, EARLY, "hello world") > 0.999
    assert cosine(item.embedding, FINAL, "hello world") < 0.9
