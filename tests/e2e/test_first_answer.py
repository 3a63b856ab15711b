"""What a new user sees: an answer, and what the server says of itself."""

import re

from tests.e2e.server import FINAL_ID, Server, answer_of
from tests.eventually import wait_until


def test_a_fresh_server_adds(server: Server) -> None:
    response = server.ask("What is 17+25?")
    assert answer_of(response) == "42"
    registered = server.http.get("/models").json()["models"]
    final = next(model for model in registered if model["id"] == FINAL_ID)
    assert final["tags"] == ["demo"]
    assert response.headers["x-model-digest"] == final["digest"]
    assert response.json()["system_fingerprint"].removeprefix("sy_") in final["digest"]


def test_the_banner_names_the_address_and_the_model(server: Server) -> None:
    assert f"http://localhost:{server.port}" in server.terminal()
    wait_until("the banner is there", lambda: f"Active model          {FINAL_ID}" in server.terminal(), 240.0)


def test_health_and_probes(server: Server) -> None:
    health = server.http.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "ok"
    assert health.json()["control"] == "up"
    assert server.http.get("/livez").status_code == 200
    assert server.http.get("/readyz").json() == {"ready": True}


def test_version_and_info(server: Server) -> None:
    version = server.http.get("/version").json()
    assert version["vllm_version"].startswith("0.32.0")
    assert version["torch_version"].startswith("2.13.0")
    info = server.http.get("/info").json()
    assert info["base_dir"] == str(server.base_dir)
    assert info["db_path"] == str(server.base_dir / "db.sqlite")


def test_metrics_hold_vllms_series_and_ours(server: Server) -> None:
    server.ask("What is 17+25?")
    text = server.http.get("/metrics").text
    assert f'vllm:generation_tokens_total{{engine="0",model_name="{FINAL_ID}"}}' in text
    assert re.search(r'^stepserve_requests_total\{[^}]*code="200"[^}]*route="/v1/chat/completions"', text, re.MULTILINE)
    assert "stepserve_engine_ready 1.0" in text


def test_only_the_public_routes_of_vllm_can_be_reached(server: Server) -> None:
    for path in ("/scale_elastic_ep", "/invocations", "/inference/v1/abort_requests", "/v1/completions/derender"):
        assert server.http.post(path, json={}).status_code == 404, path
    for path in ("/load", "/ping", "/server_info/full"):
        assert server.http.get(path).status_code == 404, path


def test_the_control_process_is_light(server: Server) -> None:
    control = server.named("stepserve: control")
    assert control.memory_info().rss < 250 * 1024**2
    mapped = {region.path for region in control.memory_maps()}
    assert not [path for path in mapped if "libtorch" in path or "/vllm/" in path]
