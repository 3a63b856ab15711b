"""EleutherAI's lm-eval in a virtual environment of its own, asking a running server."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import FINAL, FINAL_ID, REPOSITORY, Server

_REQUIREMENTS = REPOSITORY / "requirements" / "lm-eval.txt"
_INSTALL_LIMIT_S = 240.0
_RUN_LIMIT_S = 180.0


def lm_eval_python() -> Path:
    """The environment's interpreter, made once for its requirements; skips the test where it cannot be made."""
    digest = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = REPOSITORY / ".cache" / "lm-eval" / digest
    python = folder / "bin" / "python"
    if (folder / "whole").exists():
        return python
    uv = str(Path(sys.executable).with_name("uv"))
    try:
        _run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], _INSTALL_LIMIT_S)
        _run([uv, "pip", "install", "-q", "--python", str(python), "-r", str(_REQUIREMENTS)], _INSTALL_LIMIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        pytest.skip(f"lm-eval cannot be installed here: {said[-500:]}")
    (folder / "whole").touch()
    return python


def lm_eval(server: Server, folder: Path, task: dict[str, Any], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The harness's samples of one task over these lines, in their order."""
    python = lm_eval_python()
    folder.mkdir()
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}},
        "test_split": "test",
        "metadata": {"version": 1.0},
        **task,
    }
    (folder / f"{task['task']}.yaml").write_text(json.dumps(whole))  # JSON is YAML
    model = {
        "model": FINAL_ID,
        "base_url": f"{server.url}/v1/completions",
        "tokenizer": str(FINAL),
        "tokenizer_backend": "huggingface",
        "num_concurrent": "1",
        "max_retries": "1",
        "max_length": "512",
    }
    command = [
        str(python), "-m", "lm_eval", "--model", "local-completions", "--tasks", task["task"],
        "--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples", "--batch_size", "16",
        "--model_args", ",".join(f"{key}={value}" for key, value in model.items()),
    ]  # fmt: skip
    _run(command, _RUN_LIMIT_S, {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"})
    (samples,) = (folder / "out").rglob("samples_*.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    return sorted(found, key=lambda sample: int(sample["doc_id"]))


def _run(command: list[str], limit_s: float, environment: dict[str, str] | None = None) -> None:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=limit_s, env=kept | (environment or {})
        )
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr[-4000:])
        raise
