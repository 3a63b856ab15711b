"""Clients in environments of their own, unchanged, against the server; docs/clients.md has the table."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import debian
from tests.e2e.client_programs.aider_settings import EDITED, write_settings
from tests.e2e.environments import harness_python, python_with, run
from tests.e2e.server import FINAL, FINAL_ID, REPOSITORY, Server

pytestmark = pytest.mark.long

PROGRAMS = REPOSITORY / "tests" / "e2e" / "client_programs"
_RUN_LIMIT_S = 240.0
_INSTALL_LIMIT_S = 240.0
# No proxy and no telemetry of theirs.
QUIET = {"NO_PROXY": "*", "DO_NOT_TRACK": "1", "OTEL_SDK_DISABLED": "true"}


def _seen(command: list[str | Path], **environment: str) -> dict[str, Any]:
    ended = run([str(each) for each in command], _RUN_LIMIT_S, QUIET | environment)
    said: dict[str, Any] = json.loads(ended.splitlines()[-1])
    return said


def test_agents(server: Server) -> None:
    assert _seen([python_with("agents"), PROGRAMS / "ask_agents.py", server.url]) == {
        "pydantic_ai": {
            "whole": "42", "turns": 4, "pieces": "42", "kind": "sum", "responses": "42", "refused": 404,
        },
        "instructor": {"kind": "sum"},
    }  # fmt: skip


def test_inspect(server: Server, tmp_path: Path) -> None:
    where = {"STEPSERVE_BASE_URL": f"{server.url}/v1", "STEPSERVE_API_KEY": "none", "INSPECT_LOG_DIR": str(tmp_path)}
    seen = _seen([harness_python("inspect"), PROGRAMS / "ask_inspect.py"], **where)
    assert seen == {"status": "success", "accuracy": 1.0}


def test_litellm(server: Server) -> None:
    seen = _seen([python_with("litellm"), PROGRAMS / "ask_litellm.py", server.url], LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert seen == {
        "whole": "42", "tokens": 3, "pieces": "42", "ollama": "42", "anthropic": "42", "refused": 404,
    }  # fmt: skip


def test_llama_index(server: Server) -> None:
    assert _seen([python_with("llama-index"), PROGRAMS / "ask_llama_index.py", server.url]) == {
        "whole": "42", "pieces": "42", "text": "42", "refused": "model_not_found",
    }  # fmt: skip


@pytest.fixture(scope="module")
def node() -> Path:
    """The program, beside packages that are installed once; skips the test where they cannot be."""
    program = debian.program("node", "nodejs")
    home = REPOSITORY / ".cache" / "node-clients"
    wanted = (PROGRAMS / "node" / "package.json").read_text()
    if not (home / "whole").exists() or (home / "whole").read_text() != wanted:
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text(wanted)
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed")
        try:
            run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home)], _INSTALL_LIMIT_S)
        except subprocess.SubprocessError as error:
            pytest.skip(f"npm cannot install here: {getattr(error, 'stderr', error)}")
        (home / "whole").write_text(wanted)
    shutil.copy(PROGRAMS / "node" / "talk.mjs", home / "talk.mjs")  # packages are looked for beside a module
    return Path(program)


def test_node(server: Server, node: Path) -> None:
    assert _seen([node, REPOSITORY / ".cache" / "node-clients" / "talk.mjs", server.url]) == {
        "openai": {
            "whole": "42", "pieces": "42", "responses": "42", "goneOn": True, "refused": [404, "model_not_found"],
        },
        "ai": {"text": "42", "tokens": 3, "streamed": "42"},
    }  # fmt: skip


CODER = "coder"
_CODER_TOKENS = 16_384  # aider's prompt for edits alone is longer than the 512 of the demo model


@pytest.fixture(scope="module")
def coder(server: Server) -> Iterator[str]:
    """The demo model with room for a longer conversation, in which its answers make no sense."""
    server.copy_checkpoint(FINAL, CODER)
    file = server.models_dir / CODER / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": _CODER_TOKENS}))
    server.http.post("/models/register", json={"id": CODER, "source": "test"}).raise_for_status()
    yield CODER
    server.forget(CODER)


@pytest.mark.parametrize("way", ["--stream", "--no-stream"])
def test_aider_edits_a_file(server: Server, coder: str, tmp_path: Path, way: str) -> None:
    edited = tmp_path / "hello.py"
    edited.write_text("print('old')\n")
    model = f"openai/{coder}"
    said = run(
        [
            str(python_with("aider").with_name("aider")), f"--model={model}", f"--weak-model={model}",
            f"--openai-api-base={server.url}/v1", "--openai-api-key=none",
            *write_settings(tmp_path, model, _CODER_TOKENS),
            "--message=Make it greet.", "--no-git", "--yes-always", "--no-pretty", "--no-check-update",
            "--analytics-disable", "--no-show-model-warnings", "--no-show-release-notes", "--no-detect-urls",
            "--disable-playwright", way, str(edited),
        ],
        _RUN_LIMIT_S,
        QUIET | {"HOME": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        tmp_path,
    )  # fmt: skip
    assert edited.read_text().strip() == EDITED
    assert re.search(r"Tokens: [\d.]+k? sent, [1-9]\d* received", said)
    assert "Applied edit to hello.py" in said


@pytest.mark.parametrize(("backend", "path"), [("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions")])
def test_vllm_bench_serve(server: Server, tmp_path: Path, backend: str, path: str) -> None:
    run(
        [
            sys.executable, str(PROGRAMS / "bench_serve.py"), f"--backend={backend}", f"--endpoint={path}",
            f"--base-url={server.url}", f"--model={FINAL_ID}", f"--tokenizer={FINAL}", "--dataset-name=random",
            "--random-input-len=16", "--random-output-len=8", "--ignore-eos", "--num-prompts=20",
            "--save-result", f"--result-dir={tmp_path}", "--result-filename=result.json",
        ],
        _RUN_LIMIT_S,
        QUIET | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"], result["total_output_tokens"]) == (20, 0, 160)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
def test_guidellm(server: Server, tmp_path: Path, path: str) -> None:
    run(
        [
            str(python_with("guidellm", beside_ours=True).with_name("guidellm")), "run",
            "--backend", f"kind=openai_http,target={server.url},model={FINAL_ID},request_format={path}",
            "--tokenizer", f"kind=huggingface_auto,model={FINAL}",
            "--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=8",
            "--profile", "kind=concurrent,streams=4", "--constraint", "kind=max_requests,count=20",
            "--output", f"kind=json,path={tmp_path / 'result.json'}", "--disable-console",
        ],
        _RUN_LIMIT_S,
        QUIET | {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
    )  # fmt: skip
    (benchmark,) = json.loads((tmp_path / "result.json").read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (20, 0)
