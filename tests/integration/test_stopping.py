"""SIGTERM and SIGHUP to a real gateway with streams of another host open: no engine is needed to see how it drains."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.e2e.server import free_port
from tests.eventually import wait_until
from tests.integration.programs import REPOSITORY, environment_of
from tests.threaded_server import threaded

STREAMS = 64
DRAIN_S = 3.0
SPARE_S = 20.0  # a busy machine is still importing vLLM
EVENT = b'data: {"id":"x","object":"text_completion","model":"m","choices":[{"index":0,"text":"a"}]}\n\n'


class _Upstream(BaseHTTPRequestHandler):
    """Streams end when the test says so, those with `max_tokens: 1`; the others never do."""

    may_end = threading.Event()
    over = threading.Event()

    def do_GET(self) -> None:
        self._head("application/json")
        self.wfile.write(b'{"object": "list", "data": [{"id": "m"}]}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._head("text/event-stream")
        self.wfile.write(EVENT)
        self.wfile.flush()
        if body["max_tokens"] == 1:
            self.may_end.wait(240)
            self.wfile.write(b"data: [DONE]\n\n")
        else:
            self.over.wait(240)

    def _head(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Host(ThreadingHTTPServer):
    request_queue_size = 2 * STREAMS


@contextmanager
def upstream() -> Iterator[str]:
    _Upstream.may_end.clear()
    _Upstream.over.clear()
    server = _Host(("127.0.0.1", 0), _Upstream)
    with threaded(server):
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            _Upstream.may_end.set()
            _Upstream.over.set()


@contextmanager
def gateway(base: Path, other: str, drain_s: float = DRAIN_S) -> Iterator[tuple[psutil.Popen, httpx.Client]]:
    (base / "hosts.json").write_text(json.dumps({"tiers": {"fast": {"upstreams": [other]}}}))
    port = free_port()
    settings = {
        "port": port,
        "drain_timeout_s": drain_s,
        "hosts_file": base / "hosts.json",
        "access__mode": "open",
        "engine__patches__forked_engines": "off",
    }
    environment = environment_of(base, settings)
    process = psutil.Popen([sys.executable, "-m", "gateway"], cwd=base, env=environment)
    limits = httpx.Limits(max_connections=2 * STREAMS)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=240, trust_env=False, limits=limits) as http:
        try:
            wait_until("it is alive", lambda: _alive(http), 240)
            yield process, http
        finally:
            if process.is_running():
                process.kill()
                process.wait()


def _alive(http: httpx.Client) -> bool:
    try:
        return http.get("/livez").status_code == 200
    except httpx.TransportError:
        return False


def _read(http: httpx.Client, max_tokens: int, begun: threading.Semaphore) -> str:
    """How a stream ended for its client."""
    told = ""
    body = {"model": "m", "prompt": "7", "stream": True, "max_tokens": max_tokens}
    try:
        with http.stream("POST", "/fast/v1/completions", json=body) as answer:
            for line in answer.iter_lines():
                if '"text"' in line:
                    begun.release()
                elif "drain_timeout_s" in line:
                    told = "told why, "
                elif line == "data: [DONE]":
                    return "whole"
    except httpx.TransportError:
        return f"{told}cut"
    return f"{told}as if complete"


def test_sigterm_while_vllm_is_imported(tmp_path: Path) -> None:
    """The port takes connections by then; nothing is to be finished."""
    port = free_port()
    environment = environment_of(tmp_path, {"port": port, "access__mode": "open"})
    process = psutil.Popen([sys.executable, "-m", "gateway"], cwd=tmp_path, env=environment)

    def takes_connections() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until("it takes connections", takes_connections, 240)
        process.send_signal(signal.SIGHUP)  # waits until settings can be read again
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 0
        assert not list((tmp_path / "logs").glob("api_server.log")), "it came as far as serving"
    finally:
        if process.is_running():
            process.kill()
            process.wait()


def test_sigterm_with_64_streams_open(tmp_path: Path) -> None:
    """Those that can end do; one that cannot ends as an error when the drain does; the exit code is 0."""
    begun = threading.Semaphore(0)
    with upstream() as other, gateway(tmp_path, other) as (process, http), ThreadPoolExecutor(STREAMS) as pool:
        reading = [pool.submit(_read, http, 2 if number == 0 else 1, begun) for number in range(STREAMS)]
        for _ in reading:
            assert begun.acquire(timeout=240)
        told_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        wait_until(
            "it says that it stops", lambda: http.get("/readyz").json() == {"ready": False, "stopping": True}, 240
        )
        assert http.get("/livez").status_code == 200
        refused = http.post("/v1/completions", json={"model": "active", "prompt": "7"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        _Upstream.may_end.set()
        assert process.wait(DRAIN_S + SPARE_S) == 0
        assert time.monotonic() - told_s >= DRAIN_S
        assert Counter(each.result(240) for each in reading) == {"whole": STREAMS - 1, "told why, cut": 1}


def test_sigterm_with_nothing_in_flight_waits_for_nobody(tmp_path: Path) -> None:
    with upstream() as other, gateway(tmp_path, other, drain_s=60) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 0


def test_sighup_reads_hosts_and_settings_again_and_no_stream_ends(tmp_path: Path) -> None:
    begun = threading.Semaphore(0)
    with upstream() as other, gateway(tmp_path, other) as (process, http), ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_read, http, 1, begun)
        assert begun.acquire(timeout=240)
        tiers = {name: {"upstreams": [other]} for name in ("fast", "slow")}
        (tmp_path / "hosts.json").write_text(json.dumps({"tiers": tiers}))
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "stepserve.toml").write_text('[aliases]\nbig = "m"\n')
        assert http.get("/slow/v1/models").status_code == 404
        process.send_signal(signal.SIGHUP)
        wait_until(
            "it knows the alias", lambda: [a["name"] for a in http.get("/aliases").json()["aliases"]] == ["big"], 20
        )
        assert http.get("/slow/v1/models").status_code == 200
        _Upstream.may_end.set()
        assert reading.result(240) == "whole"


def test_kubernetes_ends_a_pod(tmp_path: Path) -> None:
    """Both containers' own commands get SIGTERM at once, and end well within what the pod is granted after preStop."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    overlay = REPOSITORY / "deploy" / "kubernetes" / "overlays" / "cpu"
    built = subprocess.run([kubectl, "kustomize", overlay], capture_output=True, text=True, check=True)
    objects = {one["kind"]: one for one in yaml.safe_load_all(built.stdout)}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    containers = {each["name"]: each for each in pod["containers"]}
    settings = objects["ConfigMap"]["data"] | {"INFERENCE_BASE_DIR": str(tmp_path), "INFERENCE_HOST": "127.0.0.1"}
    settings |= {
        "INFERENCE_PORT": str(free_port()),
        "INFERENCE_INSTALL_DEMO": "false",
        "INFERENCE_ACCESS__MODE": "open",
    }
    settings |= {
        "INFERENCE_ENGINE__PATCHES__FORKED_ENGINES": "off",
        "INFERENCE_HOSTS_FILE": str(tmp_path / "hosts.json"),
    }
    bare = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    environment = bare | {"PYTHONPATH": str(REPOSITORY)} | settings
    with upstream() as other, ThreadPoolExecutor(1) as pool:
        (tmp_path / "hosts.json").write_text(json.dumps({"tiers": {"fast": {"upstreams": [other]}}}))
        processes = [_contained(containers[name]["command"], environment) for name in ("gateway", "control")]
        http = httpx.Client(base_url=f"http://127.0.0.1:{settings['INFERENCE_PORT']}", timeout=240, trust_env=False)
        try:
            wait_until("both answer", lambda: _alive(http) and http.get("/jobs/stats").status_code == 200, 240)
            begun = threading.Semaphore(0)
            reading = pool.submit(_read, http, 1, begun)
            assert begun.acquire(timeout=240)
            told_s = time.monotonic()
            for process in processes:
                process.send_signal(signal.SIGTERM)
            wait_until("the Service leaves it out", lambda: http.get("/readyz").status_code == 503, 240)
            _Upstream.may_end.set()
            assert reading.result(240) == "whole"
            assert [process.wait(240) for process in processes] == [0, 0]
            before_s = float(containers["gateway"]["lifecycle"]["preStop"]["exec"]["command"][1])
            assert time.monotonic() - told_s < pod["terminationGracePeriodSeconds"] - before_s
        finally:
            http.close()
            for process in processes:
                if process.is_running():
                    process.kill()
                    process.wait()


def _contained(command: list[str], environment: dict[str, str]) -> psutil.Popen:
    assert command[:3] == ["tini", "--", "python"]
    return psutil.Popen([sys.executable, *command[3:]], env=environment)
