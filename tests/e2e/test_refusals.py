"""Bad input through the public port: a clear 4xx, and nothing has changed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.e2e.server import FINAL, FINAL_ID, Server


def _register(server: Server, **body: object) -> tuple[int, str]:
    response = server.http.post("/models/register", json={"source": "test", **body})
    return response.status_code, response.json().get("detail", "")


def test_register_a_missing_folder(server: Server) -> None:
    code, detail = _register(server, id="nowhere")
    assert code == 422
    assert "nowhere" in detail


def test_register_a_torn_file(server: Server) -> None:
    server.copy_checkpoint(FINAL, "torn")
    weights = server.models_dir / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    code, detail = _register(server, id="torn")
    assert code == 422
    assert "model.safetensors" in detail


@pytest.mark.parametrize("part", ["layers.1.self_attn.k_proj.weight", "layers.2.mlp.up_proj.weight"])
def test_register_a_checkpoint_without_a_part_of_a_fused_matrix(server: Server, part: str) -> None:
    """vLLM loads it without a word and answers nonsense."""
    folder = server.models_dir / f"without-{part.split('.')[-2]}"
    server.copy_checkpoint(FINAL, folder.name)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: each for name, each in tensors.items() if name != f"model.{part}"}, folder / "model.safetensors")
    assert _register(server, id=folder.name) == (
        422, f"the weights in {folder} are not complete: no tensor model.{part}"
    )  # fmt: skip


def test_register_a_checkpoint_without_its_head(server: Server) -> None:
    server.copy_checkpoint(FINAL, "headless")
    config = server.models_dir / "headless" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_bytes()) | {"tie_word_embeddings": False}))
    code, detail = _register(server, id="headless")
    assert code == 422
    assert "no head: config.json says tie_word_embeddings: false" in detail


def test_register_weights_that_are_not_numbers(server: Server) -> None:
    server.copy_checkpoint(FINAL, "nan")
    file = server.models_dir / "nan" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, file)
    code, detail = _register(server, id="nan")
    assert code == 422
    assert "model.safetensors: model.norm.weight holds numbers that are not finite" in detail


@pytest.mark.parametrize("model_id", ["../escape", "a/../b", "/etc", "", ".hidden", "active"])
def test_register_an_id_that_is_no_name(server: Server, model_id: str) -> None:
    code, detail = _register(server, id=model_id)
    assert code == 422
    assert "id" in detail


def test_register_an_unknown_field(server: Server) -> None:
    code, detail = _register(server, id="demo", colour="red")
    assert code == 422
    assert "colour" in detail


def test_a_body_too_long_for_control(server: Server) -> None:
    response = server.http.post("/models/register", content=b" " * (33 * 1024 * 1024))
    assert response.status_code == 413
    assert "max_request_bytes" in response.json()["detail"]


@pytest.mark.parametrize("reference", ["../db.sqlite", "/etc/passwd", "../../etc/passwd", "missing.jsonl"])
def test_an_eval_of_a_dataset_outside_its_folder(server: Server, reference: str) -> None:
    response = server.http.post("/eval/jobs", json={"model_id": FINAL_ID, "name": "x", "dataset_ref": reference})
    assert response.status_code in (404, 422)
    assert "dataset" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_body_that_is_sent_as_a_form(server: Server, path: str) -> None:
    """As curl does without a header; it gets the answer that it would get of vLLM."""
    body = b'{"model": "active", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}'
    response = server.http.post(path, content=body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert response.status_code == 400
    assert "application/json" in response.json()["error"]["message"]
    content_type = "Application/JSON; charset=utf-8"
    assert server.http.post(path, content=body, headers={"content-type": content_type}).status_code == 200


@pytest.mark.parametrize(
    ("path", "wrong", "named"),
    [
        ("/v1/chat/completions", {"messages": "x"}, "messages"),
        ("/v1/chat/completions", {"messages": [], "temperature": "hot"}, "temperature"),
        ("/v1/completions", {"prompt": "x", "max_tokens": [1]}, "max_tokens"),
        ("/v1/completions", {"prompt": {"a": 1}}, "prompt"),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_named(
    server: Server, path: str, wrong: dict[str, object], named: str
) -> None:
    response = server.http.post(path, json={"model": "active", **wrong})
    assert response.status_code == 400
    assert named in response.text


def test_nothing_was_changed(server: Server) -> None:
    assert [model["id"] for model in server.http.get("/models").json()["models"]].count(FINAL_ID) == 1
    assert server.http.get("/models/active").json()["id"] == FINAL_ID
    assert server.http.post("/models/set_active", json={"id": "nope"}).status_code == 404
    assert server.http.get("/jobs/nope").status_code == 404
    assert server.http.get("/jobs", params={"limit": 0}).status_code == 422
    assert server.http.get("/nope").status_code == 404


def test_a_second_server_on_the_same_directory_is_refused(server: Server) -> None:
    second = subprocess.run(
        [Path(sys.executable).with_name("stepserve"), "up", "--base-dir", server.base_dir, "--port", "1024"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert second.returncode == 2
    assert f"process {server.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_in_use_is_refused(server: Server, tmp_path: Path) -> None:
    second = subprocess.run(
        [Path(sys.executable).with_name("stepserve"), "up", "--base-dir", tmp_path, "--port", str(server.port)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert second.returncode == 2
    assert str(server.port) in second.stderr
    assert "Traceback" not in second.stderr
