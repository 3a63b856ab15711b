"""EleutherAI's lm-eval in a virtual environment of its own, asking a running server."""

import json
from pathlib import Path
from typing import Any

from tests.e2e.environments import harness_python, run
from tests.e2e.server import FINAL, FINAL_ID, Server

_RUN_LIMIT_S = 180.0


def lm_eval(
    server: Server, folder: Path, task: dict[str, Any], lines: list[dict[str, Any]], *, chat: bool = False
) -> list[dict[str, Any]]:
    """The harness's samples of one task over these lines, in their order. `chat`: each is a message."""
    python = harness_python("lm_eval")
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
        "base_url": f"{server.url}/v1/{'chat/' if chat else ''}completions",
        "num_concurrent": "4" if chat else "1",
        "max_retries": "1",
        "max_length": "512",
    }
    if not chat:
        model |= {"tokenizer": str(FINAL), "tokenizer_backend": "huggingface"}
    command = [
        str(python), "-m", "lm_eval", "--model", "local-chat-completions" if chat else "local-completions",
        "--tasks", task["task"],
        "--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples",
        *(["--batch_size", "1", "--apply_chat_template"] if chat else ["--batch_size", "16"]),
        "--model_args", ",".join(f"{key}={value}" for key, value in model.items()),
    ]  # fmt: skip
    run(command, _RUN_LIMIT_S, {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"})
    (samples,) = (folder / "out").rglob("samples_*.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    return sorted(found, key=lambda sample: int(sample["doc_id"]))
