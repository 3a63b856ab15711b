"""LoRA adapters on the real engine: under their own id, without a reload, and never on another version's cache."""

import shutil
from collections.abc import Iterator

import pytest

from tests.e2e.adapters import write_adapter
from tests.e2e.server import FINAL_ID, Server, answer_of

QUESTION = "What is 17+25?"


@pytest.fixture(scope="module")
def adapter_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose engine takes adapters."""
    base = tmp_path_factory.mktemp("adapter_server")
    with Server(base, engine__max_loras=2) as running:
        running.wait_ready()
        yield running


def register(server: Server, **body: object) -> dict[str, object]:
    answer = server.http.post(
        "/models/register", json={"id": "tuned", "source": "test", "base_model": FINAL_ID, **body}
    )
    assert answer.status_code == 200, answer.text
    registered: dict[str, object] = answer.json()
    return registered


def test_versions_under_one_id(adapter_server: Server) -> None:
    write_adapter(adapter_server.models_dir / "tuned", strength=0.0)
    first = register(adapter_server)
    idle = adapter_server.ask(QUESTION, model="tuned")
    assert answer_of(idle) == "42"
    assert (idle.json()["model"], idle.headers["x-model-id"]) == ("tuned", "tuned")
    assert idle.headers["x-model-digest"] == first["digest"]
    assert idle.json()["system_fingerprint"].removeprefix("sy_") in str(first["digest"])

    shutil.rmtree(adapter_server.models_dir / "tuned")
    write_adapter(adapter_server.models_dir / "tuned", strength=1.0)
    second = register(adapter_server, replace=True)
    changed = adapter_server.ask(QUESTION, model="tuned")
    assert changed.headers["x-model-digest"] == second["digest"] != first["digest"]
    assert answer_of(changed) != "42", "the same question, whose cache the first version had filled"
    assert answer_of(adapter_server.ask(QUESTION, model=FINAL_ID)) == "42"
    assert {card["id"] for card in adapter_server.http.get("/v1/models").json()["data"]} >= {
        "tuned",
        FINAL_ID,
        "active",
    }


def test_an_adapter_is_the_active_model_without_a_pause(adapter_server: Server) -> None:
    write_adapter(adapter_server.models_dir / "calm", strength=0.0, seed=1)
    register(adapter_server, id="calm")
    switched = adapter_server.http.post("/models/set_active", json={"id": "calm"}).raise_for_status().json()
    assert (switched["method"], switched["paused_ms"], switched["previous"]) == ("adapter", 0, FINAL_ID)
    answer = adapter_server.ask(QUESTION, model="active")
    assert (answer_of(answer), answer.headers["x-model-id"]) == ("42", "calm")
    with adapter_server.http.stream(
        "POST",
        "/v1/completions",
        json={"prompt": "17+25=", "max_tokens": 4, "stream": True},
    ) as stream:
        assert stream.headers["x-model-id"] == "calm", "a request that names no model is the active one's"
        stream.read()
    back = adapter_server.http.post("/models/rollback").raise_for_status().json()
    assert (back["id"], back["method"]) == (FINAL_ID, "adapter")


def test_what_cannot_be_served_is_refused(adapter_server: Server) -> None:
    write_adapter(adapter_server.models_dir / "steep", strength=0.0, rank=64)
    answer = adapter_server.http.post("/models/register", json={"id": "steep", "source": "t", "base_model": FINAL_ID})
    assert answer.status_code == 422
    assert "rank is 64, the engine's limit is 16" in answer.json()["detail"]
