"""Clients in environments of their own, unchanged, against the server; docs/clients.md has the table."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import debian
from tests.e2e.environments import python_with, run
from tests.e2e.server import REPOSITORY, Server

pytestmark = pytest.mark.long

PROGRAMS = REPOSITORY / "tests" / "e2e" / "client_programs"
_RUN_LIMIT_S = 120.0
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
    seen = _seen([python_with("inspect"), PROGRAMS / "ask_inspect.py"], **where)
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
