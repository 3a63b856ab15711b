"""Keys and limits on the real server: real tokens counted, abandoned requests ended, batch work behind people."""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.server import EARLY, FINAL_ID, Server, answer_of
from tests.eventually import wait_until


@pytest.fixture(scope="module")
def server_with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server of its own that demands keys, and an administrator's key."""
    base = tmp_path_factory.mktemp("server_with_keys")
    (base / "config").mkdir()
    (base / "config" / "stepserve.toml").write_text("[limits]\nrequest_timeout_s = 6.0\n")
    (base / "sockets").mkdir()
    for folder in (base, base / "sockets"):
        folder.chmod(0o777)  # as an earlier release or a careless hand left it
    with Server(base, limits__max_sequences_per_request=1024) as running:
        running.wait_ready()
        yield running, keys(running, "create", "root", "--scope", "admin", "--local")


def keys(server: Server, *arguments: str) -> str:
    """What `stepserve keys …` prints."""
    done = subprocess.run(
        [Path(sys.executable).with_name("stepserve"), "keys", *arguments],
        env=os.environ | {"INFERENCE_BASE_DIR": str(server.base_dir), "INFERENCE_PORT": str(server.port)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def chat(server: Server, key: str | None, **body: object) -> httpx.Response:
    asked = {"model": FINAL_ID, "messages": [{"role": "user", "content": "What is 17+25?"}], "temperature": 0, **body}
    return server.http.post("/v1/chat/completions", json=asked, headers=bearer(key) if key else {})


def test_keys_from_the_command_line_to_the_bill(server_with_keys: tuple[Server, str]) -> None:
    server, _ = server_with_keys
    assert chat(server, None).status_code == 401
    key = keys(server, "create", "trainer", "--local")
    answer = chat(server, key)
    assert answer_of(answer) == "42"
    used = answer.json()["usage"]
    with server.http.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": FINAL_ID, "messages": [{"role": "user", "content": "What is 17+25?"}], "stream": True},
        headers=bearer(key),
    ) as stream:
        assert stream.status_code == 200
        stream.read()
    key_id = key.split("_")[1]

    def billed() -> bool:
        shown = json.loads(keys(server, "show", key_id, "--local", "--json"))
        return bool(shown["usage"]["requests"] == 2)

    wait_until("the usage is in the database", billed, 240.0)
    shown = json.loads(keys(server, "show", key_id, "--local", "--json"))["usage"]
    assert shown["prompt_tokens"] == 2 * used["prompt_tokens"]
    assert shown["completion_tokens"] == 2 * used["completion_tokens"]
    assert "trainer" in keys(server, "list", "--local")
    keys(server, "revoke", key_id, "--local")
    assert chat(server, key).status_code == 401


def test_what_a_job_uses_is_on_the_bill_of_who_made_it(server_with_keys: tuple[Server, str]) -> None:
    server, _ = server_with_keys
    key = keys(server, "create", "evaluator", "--local", "--scope", "jobs", "--scope", "infer")
    asked = {"model_id": "active", "name": "billed", "dataset_ref": "math_eval.jsonl", "max_samples": 50}
    made = server.http.post("/eval/jobs", json=asked, headers=bearer(key)).raise_for_status().json()
    queued = server.http.post("/generate", json={"prompt": "1, 2, 3,", "queue": True}, headers=bearer(key))
    key_id = key.split("_")[1]

    def billed() -> bool:
        shown = json.loads(keys(server, "show", key_id, "--local", "--json"))
        return bool(shown["usage"]["requests"] == 51)

    wait_until("the jobs' usage is in the database", billed, 240.0)
    shown = json.loads(keys(server, "show", key_id, "--local", "--json"))["usage"]
    assert shown["prompt_tokens"] > 50 * 30
    assert shown["completion_tokens"] >= 51
    for job_id in (made["job_id"], queued.json()["job_id"]):
        assert server.http.get(f"/jobs/{job_id}", headers=bearer(key)).json()["created_by"] == key_id


def test_the_openai_sdk_with_a_key(server_with_keys: tuple[Server, str]) -> None:
    import openai  # noqa: PLC0415 - slow to import

    server, _ = server_with_keys
    key = keys(server, "create", "sdk", "--local", "--requests-per-min", "1")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
    asked = [{"role": "user", "content": "What is 17+25?"}]
    client.chat.completions.create(model=FINAL_ID, messages=asked)  # type: ignore[arg-type]
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=FINAL_ID, messages=asked)  # type: ignore[arg-type]
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0).models.list()


def test_v1_goes_on_with_its_keys_while_control_is_down(server_with_keys: tuple[Server, str]) -> None:
    server, admin = server_with_keys
    control = server.named("stepserve: control")
    control.suspend()
    try:
        assert answer_of(chat(server, admin)) == "42"
        assert chat(server, admin[:-1] + "!").status_code == 401
    finally:
        control.resume()


def in_the_engine(server: Server, admin: str) -> float:
    """Requests that vLLM runs or holds."""
    metrics = server.http.get("/metrics", headers=bearer(admin)).text
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in metrics.splitlines()
        if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{"))
    )


ENDLESS = {"model": FINAL_ID, "prompt": "7", "max_tokens": 450, "ignore_eos": True, "n": 1024}


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_is_ended_in_the_engine(server_with_keys: tuple[Server, str], streamed: bool) -> None:
    server, admin = server_with_keys
    with httpx.Client(base_url=server.url, timeout=240, headers=bearer(admin), trust_env=False) as leaving:
        if streamed:
            with leaving.stream("POST", "/v1/completions", json=ENDLESS | {"stream": True}) as stream:
                next(stream.iter_raw())
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaving.post("/v1/completions", json=ENDLESS, timeout=httpx.Timeout(10, read=1.5))
    left = time.monotonic()
    wait_until("the engine has nothing to do", lambda: in_the_engine(server, admin) == 0, 240.0)
    assert time.monotonic() - left < 8.0  # it would work for much longer


def test_a_request_that_takes_too_long_is_ended_in_the_engine(server_with_keys: tuple[Server, str]) -> None:
    server, admin = server_with_keys
    late = server.http.post("/v1/completions", json=ENDLESS, headers=bearer(admin))
    assert late.status_code == 504
    assert "request_timeout_s" in late.json()["error"]["message"]
    left = time.monotonic()
    wait_until("the engine has nothing to do", lambda: in_the_engine(server, admin) == 0, 240.0)
    assert time.monotonic() - left < 8.0  # it would work for much longer


def test_nothing_of_the_server_is_open_to_other_users_of_the_machine(server_with_keys: tuple[Server, str]) -> None:
    server, _ = server_with_keys
    base = server.base_dir
    others = (base / "config", base / "models", base / "terminal.txt")  # the last is the test's own
    mine = [path for path in base.rglob("*") if not any(path.is_relative_to(folder) for folder in others)]
    seen = {path: path.stat().st_mode for path in (base, *mine) if path.exists()}
    assert {path.name for path in seen if stat.S_ISSOCK(seen[path])} >= {"gateway.sock", "control.sock"}
    assert {str(path): oct(mode) for path, mode in seen.items() if mode & 0o077} == {}
    assert seen[base / "sockets" / "control.sock"] & 0o777 == 0o600
    assert "closed to other users" in (base / "logs" / "api_server.log").read_text()


def test_admin_actions_are_in_the_audit_log(server_with_keys: tuple[Server, str]) -> None:
    server, admin = server_with_keys
    server.copy_checkpoint(EARLY, "early")
    forged = {"x-forwarded-for": "203.0.113.9", "x-real-ip": "203.0.113.9", "forwarded": "for=203.0.113.9"}
    asked = {"id": "early", "source": "t"}
    made = server.http.post("/models/register", json=asked, headers=forged | bearer(admin))
    assert made.status_code == 200
    refused = server.http.post(
        "/models/set_active", json={"id": "early"}, headers=bearer(keys(server, "create", "x", "--local"))
    )
    assert refused.status_code == 403
    entry = server.http.get("/audit", params={"limit": 1, "actor": admin.split("_")[1]}, headers=bearer(admin)).json()[
        "entries"
    ][0]
    assert (entry["path"], entry["target"], entry["status"]) == ("/models/register", "early", 200)
    assert entry["client"] == "127.0.0.1"
