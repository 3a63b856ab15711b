"""Checkpoints without a chat template on the real engine: how chats are refused, and answered with one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import DEMO, FINAL, FINAL_ID, Server, answer_of

QUESTION = "What is 17+25?"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def untemplated(server: Server) -> Iterator[Server]:
    """The server with two of the demo's checkpoints whose ChatML template was taken away: files, not yet registered."""
    names = {"late": FINAL, "middle": DEMO / "step-0500"}
    for name, source in names.items():
        _without_template(source, server.models_dir / name)
    yield server
    server.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()
    for name in names:
        server.forget(name)


def _without_template(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    (target / "chat_template.jinja").unlink()
    config = json.loads((target / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (target / "tokenizer_config.json").write_text(json.dumps(config))


def _register(server: Server, model_id: str, **body: object) -> dict[str, object]:
    answer = server.http.post("/models/register", json={"id": model_id, "source": "test", **body})
    assert answer.status_code == 200, answer.text
    registered: dict[str, object] = answer.json()
    return registered


def test_a_template_given_at_registration_serves_every_chat_route_over_switches(untemplated: Server) -> None:
    assert _register(untemplated, "late")["warnings"]
    untemplated.http.post("/models/set_active", json={"id": "late"}).raise_for_status()
    for path, body in (
        ("/v1/chat/completions", {"model": "late"}),
        ("/v1/messages", {"model": "late", "max_tokens": 8}),
        ("/chat", {"model": "late"}),
        ("/api/chat", {"model": "late", "stream": False}),
    ):
        refused = untemplated.http.post(path, json=body | {"messages": MESSAGES})
        assert refused.status_code == 400, f"{path}: {refused.text}"
        assert "`late` has no chat template" in refused.text, path
        assert "default_chat_template" in refused.text, path
    prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    continued = (
        untemplated.http.post("/generate", json={"prompt": prompt, "do_sample": False}).raise_for_status().json()
    )
    assert (continued["text"], continued["prompt"]) == ("42", prompt)

    given = _register(untemplated, "late", chat_template="chatml", replace=True)
    assert given["warnings"] == []
    activation = given["activation"]
    assert isinstance(activation, dict)
    assert activation["method"] in ("blue_green", "restart"), "an engine that renders no template cannot take one"
    late = untemplated.ask(QUESTION, model="late")
    assert (answer_of(late), late.headers["x-model-digest"]) == ("42", given["digest"])
    assert (
        untemplated.http.post("/chat", json={"messages": MESSAGES, "model": "late"}).json()["message"]["content"]
        == "42"
    )
    told = untemplated.http.post("/v1/messages", json={"model": "late", "max_tokens": 8, "messages": MESSAGES}).json()
    assert told["content"][0]["text"] == "42"
    ollama = untemplated.http.post("/api/chat", json={"model": "late", "messages": MESSAGES, "stream": False}).json()
    assert ollama["message"]["content"] == "42"

    _register(untemplated, "middle", chat_template="chatml")
    switched = untemplated.http.post("/models/set_active", json={"id": "middle"}).raise_for_status().json()
    assert switched["method"] == "in_place"
    middle = untemplated.ask(QUESTION)
    assert (answer_of(middle) != "", middle.headers["x-model-id"]) == (True, "middle")
    back = untemplated.http.post("/models/rollback").raise_for_status().json()
    assert (back["id"], back["method"]) == ("late", "in_place")
    assert answer_of(untemplated.ask(QUESTION)) == "42"

    (untemplated.base_dir / "datasets" / "sums.jsonl").write_text('{"question": "What is 17+25?", "answer": "42"}\n')
    job = untemplated.http.post(
        "/eval/jobs", json={"model_id": "late", "name": "n", "dataset_ref": "sums.jsonl", "max_tokens": 8}
    ).raise_for_status()
    ended = untemplated.job(job.json()["job_id"])
    assert ended["status"] == "done", ended["error"]
    result = ended["result"]
    assert isinstance(result, dict)
    assert result["accuracy"] == 1.0
