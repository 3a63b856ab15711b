"""/generate, /chat and /solve, as scripts with curl use them."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.server import FINAL_ID, Server
from tests.eventually import wait_until

PROMPT = "<|im_start|>user\nWhat is 17+25?<|im_end|>\n<|im_start|>assistant\n"
MESSAGES = [{"role": "user", "content": "What is 17+25?"}]


def post(server: Server, path: str, **body: object) -> Any:
    """Without a content type, as `curl -d` sends it."""
    response = server.http.post(path, content=json.dumps(body))
    assert response.status_code == 200, response.text
    assert response.headers["x-model-id"] == FINAL_ID
    assert response.headers["x-model-digest"].startswith("sha256:")
    return response.json()


def events(response: httpx.Response) -> Iterator[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    for line in response.text.splitlines():
        if line:
            yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_tokens": 8, "temperature": 0},
        {"max_new_tokens": 8, "do_sample": False, "temperature": 0.7, "top_k": 40, "repetition_penalty": 1.0},
        {"model_id": FINAL_ID, "temperature": 0.0, "seed": 1},
    ],
)
def test_generate_in_both_vocabularies(server: Server, parameters: dict[str, Any]) -> None:
    answer = post(server, "/generate", prompt=PROMPT, raw=True, **parameters)
    assert answer["text"] == answer["generated_text"] == "42"
    assert (answer["model"], answer["prompt"], answer["finish_reason"]) == (FINAL_ID, PROMPT, "stop")
    assert (answer["prompt_tokens"], answer["tokens_generated"]) == (33, 3)
    assert answer["generation_time"] > 0


def test_several_sequences(server: Server) -> None:
    answer = post(server, "/generate", prompt=PROMPT, raw=True, num_return_sequences=3, max_tokens=4)
    assert len(answer["texts"]) == 3
    assert answer["text"] == answer["texts"][0]


@pytest.mark.parametrize("mode", ["normal", "think"])
def test_a_prompt_goes_through_the_template(server: Server, mode: str) -> None:
    answer = post(server, "/generate", prompt="What is 17+25?", mode=mode, do_sample=False)
    assert (answer["text"], answer["reasoning_content"], answer["prompt_tokens"]) == ("42", None, 33)


def test_a_streamed_generation(server: Server) -> None:
    response = server.http.post("/generate", json={"prompt": PROMPT, "raw": True, "temperature": 0, "stream": True})
    *pieces, last = events(response)
    assert "".join(piece["delta"]["content"] for piece in pieces) == "42"
    assert all(piece["done"] is False for piece in pieces)
    assert (last["delta"], last["done"], last["tokens_generated"]) == ({}, True, 3)


def test_a_queued_generation_is_a_job(server: Server) -> None:
    asked = {"prompt": "What is 17+25?", "temperature": 0, "queue": True}
    key = {"idempotency-key": "once"}
    response = server.http.post("/generate", json=asked, headers=key)
    assert response.status_code == 202, response.text
    accepted = response.json()
    assert accepted["status"] == "pending"
    assert server.http.post("/generate", json=asked, headers=key).json()["job_id"] == accepted["job_id"]
    job = server.job(accepted["job_id"])
    assert job["status"] == "done", job
    result = job["result"]
    assert isinstance(result, dict)
    assert result["text"] == "42"


def test_chat_and_its_stream(server: Server) -> None:
    answer = post(server, "/chat", model="active", messages=MESSAGES, temperature=0)
    assert answer["message"] == {"role": "assistant", "content": "42"}
    assert {"created_at", "total_duration", "load_duration", "prompt_eval_count", "eval_count", "eval_duration"} <= set(
        answer
    )
    response = server.http.post(
        "/chat", json={"model": "active", "messages": MESSAGES, "temperature": 0, "stream": True}
    )
    *pieces, last = events(response)
    assert "".join(piece["delta"]["content"] for piece in pieces) == "42"
    assert (last["delta"], last["done"]) == ({}, True)


def test_solve_with_prompts_that_can_be_edited(server: Server) -> None:
    solved = post(server, "/solve/math", problem="What is 17+25?", temperature=0)
    assert set(solved) == {"problem", "solution", "answer", "generation_time"}
    assert solved["answer"] == "42", "the demo model never saw a system prompt, and its template leaves it out"
    prompt = server.base_dir / "prompts" / "solve_math.txt"
    packaged = prompt.read_text()
    prompt.write_text("")
    try:
        assert post(server, "/solve/math", problem="What is 17+25?", temperature=0)["answer"] == "42"
    finally:
        prompt.write_text(packaged)
    assert "code" in post(server, "/solve/coding", problem="Print 42.", max_new_tokens=8)


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("/generate", {"prompt": "x", "colour": "red"}, 422, "colour: unknown field"),
        ("/generate", {}, 422, "prompt: is missing"),
        ("/generate", {"prompt": "x", "max_tokens": 1, "max_new_tokens": 2}, 422, "max_new_tokens"),
        ("/generate", {"prompt": "x", "stream": True, "queue": True}, 422, "queue"),
        ("/generate", {"prompt": "x", "temperature": "hot"}, 422, "temperature"),
        ("/generate", {"prompt": "x", "top_k": 2**64}, 422, "top_k"),
        ("/generate", {"prompt": "x", "max_tokens": 100_000}, 400, "512"),
        ("/generate", {"prompt": "x" * 600}, 400, "512"),
        ("/generate", {"prompt": "x", "model_id": "gpt2"}, 404, "Model not available locally"),
        ("/generate", {"prompt": "x", "model_id": "gpt2", "queue": True}, 404, "gpt2"),
        ("/chat", {"model": "gpt2", "messages": MESSAGES}, 404, "/pull"),
        ("/chat", {"messages": []}, 422, "messages"),
        ("/solve/math", {"problem": 3}, 422, "problem"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    server: Server, path: str, body: dict[str, Any], status: int, named: str
) -> None:
    response = server.http.post(path, json=body)
    assert response.status_code == status, response.text
    assert named in response.json()["detail"]


def test_a_client_that_leaves_a_stream_frees_its_place(server: Server) -> None:
    body = {"prompt": "x", "raw": True, "max_tokens": 500, "temperature": 2, "stream": True}
    with server.http.stream("POST", "/generate", json=body) as response:
        next(response.iter_lines())

    def nothing_in_flight() -> bool:
        return all(engine["in_flight"] == 0 for engine in server.http.get("/status").json()["engines"])

    wait_until("the request has left", nothing_in_flight, 240.0)
