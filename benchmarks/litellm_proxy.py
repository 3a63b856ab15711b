"""A LiteLLM proxy before a server of models, from PyPI in an environment of its own: its pins are not vLLM's."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import free_port, running

_KEY = "sk-benchmark"


@contextlib.contextmanager
def litellm_proxy(folder: Path, behind: str, model: str) -> Iterator[tuple[str, str]]:
    """Yields its URL and key. `folder` is the virtual environment, made when it is not there (a minute or two)."""
    program = folder.absolute() / "bin" / "litellm"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", "litellm[proxy]"], check=True)
    upstream = {"model": f"openai/{model}", "api_base": f"{behind}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": model, "litellm_params": upstream}],
        "litellm_settings": {"telemetry": False},
        "general_settings": {"master_key": _KEY},
    }
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as base:
        file = Path(base) / "config.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        command = [
            str(program),
            "--config",
            str(file),
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
            "--num_workers",
            "1",
        ]
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        environment.pop("PYTHONPATH", None)
        with running(command, environment, f"http://127.0.0.1:{port}", "/health/liveliness") as url:
            yield url, _KEY
