"""Metrics, logs and request ids of a real server, with a real Prometheus."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, answer_of, free_port
from tests.eventually import wait_until
from tests.prometheus import DEPLOY, program

_OF_CARDS = re.compile(r"stepserve_gpu_|stepserve_energy_joules_per|stepserve:|ALERTS")


class Prometheus:
    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=240.0, trust_env=False)

    def query(self, expression: str) -> list[dict[str, Any]]:
        response = self.http.get("/api/v1/query", params={"query": expression})
        assert response.status_code == 200, f"{expression}: {response.text}"
        found: list[dict[str, Any]] = response.json()["data"]["result"]
        return found

    def knows(self, expression: str) -> bool:
        return bool(self.query(expression))

    def is_ready(self) -> bool:
        """It listens before it has opened its storage, and answers 503 in between."""
        try:
            return self.http.get("/-/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Configured by the file in deploy/, but for the target and a scrape every second."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    config = config.replace("localhost:8765", f"127.0.0.1:{server.port}").replace("15s", "1s")
    for name in ("rules.yml", "alerts.yml"):
        (folder / name).write_bytes((DEPLOY / "prometheus" / name).read_bytes())
    (folder / "prometheus.yml").write_text(config)
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "output.txt").open("w") as output, subprocess.Popen(command, stderr=output) as process:
        running = Prometheus(f"http://{address}")
        try:
            wait_until("Prometheus is ready", running.is_ready, 240.0)
            yield running
        finally:
            running.http.close()
            process.terminate()
            process.wait(240)


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "stepserve.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [
        target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$__interval", "1m")
        for target in targets
    ]


def metric_names(text: str) -> set[str]:
    return set(re.findall(r"\b(?:stepserve|vllm|process)[:_][a-z0-9_:]+", text))


def test_a_real_prometheus_scrapes_it(server: Server, prometheus: Prometheus) -> None:
    answer_of(server.ask("What is 17+25?"))
    wait_until(
        "it was scraped", lambda: prometheus.knows("up == 1 and on (instance) stepserve_engine_ready == 1"), 120.0
    )
    for expression in (
        'vllm:num_requests_running{model_name!=""}',  # the names that Kubernetes' inference gateway asks for
        'vllm:num_requests_waiting{model_name!=""}',
        'vllm:kv_cache_usage_perc{model_name!=""}',
        'stepserve_requests_total{route="/v1/chat/completions",code="200",key!=""} >= 1',
        'stepserve_tokens_total{class="interactive",kind="completion"} >= 1',
        "stepserve_control_up == 1",
        "stepserve_database_up == 1",
        "stepserve_memory_total_bytes > 0",
        "process_resident_memory_bytes > 0",
    ):
        assert prometheus.knows(expression), expression
    groups = prometheus.http.get("/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 24
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []


def test_every_panel_asks_for_what_there_is(server: Server, prometheus: Prometheus) -> None:
    wait_until("it was scraped", lambda: prometheus.knows("stepserve_engine_ready == 1"), 240.0)
    kinds = re.findall(r"^# TYPE (\S+) (\S+)$", server.http.get("/metrics").text, re.MULTILINE)
    there = {name + suffix for name, kind in kinds for suffix in ("", "_bucket" if kind == "histogram" else "")}
    texts = [
        *dashboard_expressions(),
        *((DEPLOY / "prometheus" / name).read_text() for name in ("rules.yml", "alerts.yml")),
    ]
    asked = {name for text in texts for name in metric_names(text) if not _OF_CARDS.match(name)}
    assert asked - there == set()
    for expression in dashboard_expressions():
        prometheus.query(expression)


def test_our_metrics_keep_prometheus_rules(server: Server) -> None:
    text = server.http.get("/metrics").text
    ours = "".join(line + "\n" for line in text.splitlines() if "vllm:" not in line)
    ended = subprocess.run(
        [program("promtool"), "check", "metrics"], check=False, input=ours, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    whole = subprocess.run(
        [program("promtool"), "check", "metrics"], check=False, input=text, capture_output=True, text=True, timeout=240
    )
    assert "error" not in whole.stderr.lower(), "vLLM's names are not to promtool's taste, but all can be read"


def log_lines(server: Server, component: str, lines: int = 200) -> list[dict[str, Any]]:
    answer = server.http.get(f"/logs/{component}", params={"lines": lines}).raise_for_status().json()
    return [json.loads(line) for line in answer["lines"]]


def test_a_request_id_from_the_door_to_the_job(server: Server) -> None:
    asked = {"model": "active", "messages": [{"role": "user", "content": "What is 1+1?"}]}
    answer = server.http.post("/v1/chat/completions", json=asked, headers={"X-Request-Id": "e2e-chat-1"})
    assert answer.headers.get_list("x-request-id") == ["e2e-chat-1"]
    assert answer.json()["id"] == "chatcmpl-e2e-chat-1", "the engine knows it by that name"
    wish = {"model_id": "active", "name": "ids", "dataset_ref": "math_eval.jsonl", "max_samples": 16}
    made = server.http.post("/eval/jobs", json=wish, headers={"X-Request-Id": "e2e-eval-1"}).raise_for_status()
    assert server.job(made.json()["job_id"])["request_id"] == "e2e-eval-1"

    def seen() -> bool:
        door = [line for line in log_lines(server, "api_server") if line.get("request_id") == "e2e-chat-1"]
        jobs = [line for line in log_lines(server, "jobs") if line.get("request_id") == "e2e-eval-1"]
        events = {line["event"] for line in jobs if line["job_id"] == made.json()["job_id"]}
        return bool(door) and door[0]["status"] == 200 and events >= {"created", "started", "done"}

    wait_until("both are in the logs", seen, 240.0)
    assert "What is 1+1?" not in (server.base_dir / "logs" / "api_server.log").read_text()


def test_answers_go_on_while_the_disk_under_the_logs_hangs(server: Server) -> None:
    log = server.base_dir / "logs" / "api_server.log"
    os.link(log, log.with_name("api_server.log.aside"))
    pipe = log.with_name("pipe")
    os.mkfifo(pipe)
    pipe.replace(log)  # whoever opens or writes it waits for a reader that does not come
    try:
        times = []
        for number in range(30):
            started = time.monotonic()
            answer_of(server.ask(f"What is {number}+7?"))
            times.append(time.monotonic() - started)
        assert max(times) < 60
        assert server.http.get("/jobs/stats").status_code == 200
        refused = server.http.get("/logs/api_server")
        assert (refused.status_code, refused.json()["detail"]) == (503, "api_server.log is not a plain file")
    finally:
        held = os.open(log, os.O_RDWR | os.O_NONBLOCK)  # lets the writers go on
        log.unlink()
        os.close(held)

    def goes_on() -> bool:
        server.http.get("/info")
        return log.exists() and "/info" in log.read_text()

    wait_until("logs go on when the disk is well", goes_on, 240.0)


def test_what_the_machine_is(server: Server) -> None:
    system = server.http.get("/system").raise_for_status().json()
    assert system["ram_total_gb"] > 1
    assert 0 <= system["cpu_load"] <= 1
    assert any(disk["total_gb"] for disk in system["disk"])
    diagnosis = server.http.get("/diag").raise_for_status().json()
    assert diagnosis["torch"]["version"]
    assert {"name": "process_guard", "active": True} in [
        {key: patch[key] for key in ("name", "active")} for patch in diagnosis["patches"]
    ]
    assert server.http.get("/config").raise_for_status().json()["port"] == server.port
    gpu = server.http.get("/gpu")
    if gpu.status_code == 503:
        assert "NVML" in gpu.json()["detail"]
    else:
        assert gpu.json()["name"] == gpu.json()["gpus"][0]["name"]
    assert Path(server.http.get("/info").json()["base_dir"]) == server.base_dir
