"""The servers that benchmarks compare, each started as a user would."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from stepserve.contract import ModelRef
from stepserve.settings import EngineSettings

CHECKPOINT = Path(__file__).resolve().parents[1] / "demo" / "checkpoints" / "step-1500"
MODEL_ID = "demo-step-1500"
_BIN = Path(sys.executable).parent
_START_TIMEOUT_S = 900.0


@contextlib.contextmanager
def stepserve(
    base_dir: Path | None = None,
    *,
    tree: Path | None = None,
    temporary: Path | None = None,
    port: int | None = None,
    **settings: object,
) -> Iterator[str]:
    """A server on a fresh base directory, or on the given one; yields its URL. `tree`: another checkout's, run with the
    packages that are installed here. `temporary`: where its processes put temporary files. `port`: where it
    listens; None: on a free one.
    """
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as base:
        port = port or free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("INFERENCE_")}
        environment |= {
            "INFERENCE_BASE_DIR": str(base_dir or base),
            "INFERENCE_PORT": str(port),
            "INFERENCE_UI": "false",
        }
        environment |= {f"INFERENCE_{name.upper()}": str(value) for name, value in settings.items()}
        if temporary is not None:
            environment["TMPDIR"] = str(temporary)
        if tree is not None:
            environment["PYTHONPATH"] = str(tree)
        with running([str(_BIN / "stepserve"), "up"], environment, f"http://127.0.0.1:{port}", "/readyz") as url:
            yield url


def limited_key(url: str) -> str:
    """A key for inference with every kind of limit, none of which binds; from now on the server demands keys."""
    plenty = dict.fromkeys(("requests_per_min", "tokens_per_min", "max_concurrent"), 1_000_000_000)
    admin = httpx.post(f"{url}/keys", json={"name": "admin", "scopes": ["admin"]}, trust_env=False).json()["key"]
    headers = {"authorization": f"Bearer {admin}"}
    made = httpx.post(f"{url}/keys", json={"name": "load", **plenty}, headers=headers, trust_env=False)
    key: str = made.raise_for_status().json()["key"]
    return key


@contextlib.contextmanager
def bare_vllm(checkpoint: Path = CHECKPOINT, *, port: int | None = None) -> Iterator[str]:
    """What `vllm serve` runs, with a slot's flags. Both servers write a line for each request.

    Started by its module: the `vllm` command of vLLM's CPU wheel looks for a distribution of another name.
    """
    from gateway.engine.config import serve_flags  # brings vLLM with it

    port = port or free_port()
    model = ModelRef(id=MODEL_ID, path=str(checkpoint), digest="")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *serve_flags(model, EngineSettings())]
    command += ["--port", str(port), "--host", "127.0.0.1"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": str(EngineSettings().cpu_kv_cache_gib)}
    with running(command, environment, f"http://127.0.0.1:{port}", "/health") as url:
        yield url


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], url: str, ready_path: str) -> Iterator[str]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while not _is_ready(url + ready_path):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise RuntimeError(f"{command[0]} did not start:\n{output.read().decode(errors='replace')[-4000:]}")
                time.sleep(0.2)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
