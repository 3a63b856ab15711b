"""README and tutorial do what they say: every command block of them is run, and answers what stands below it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import debian
from tests.documents import COMMANDS, README, TUTORIAL, Block, blocks_of
from tests.e2e.server import FINAL_ID, REPOSITORY, Server

ADDRESS = "localhost:8765"
_MARK = "\x1e"
_LIMIT_S = 280.0

# A block that installs or starts the server is run by whoever tries a fresh clone, as every `make` does.
EXEMPT = {
    "make run\n": "starts the server",
    "make run     # serve on http://localhost:8765\nmake test    # every test, against real vLLM\n": "the same",
}

# Failures that a shell passes over fail here: an HTTP error, and a field that is not in the answer.
_STRICT = """
set -euo pipefail
curl() { command curl --fail-with-body "$@"; }
jq() { command jq -e "$@"; }
"""


@pytest.fixture
def home(server: Server, tmp_path: Path) -> Iterator[Path]:
    """Where `~/llm` is the running server's; leaves the server with the models that it had."""
    for program in ("bash", "curl", "jq"):
        debian.program(program)
    (tmp_path / "llm").symlink_to(server.base_dir)
    before = {model["id"] for model in server.http.get("/models").json()["models"]}
    yield tmp_path
    server.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()
    for model in server.http.get("/models").json()["models"]:
        if model["id"] not in before:
            server.forget(model["id"])


@pytest.mark.parametrize("document", [README, TUTORIAL], ids=lambda path: path.name)
def test_every_command_does_what_the_document_says(server: Server, home: Path, document: Path) -> None:
    blocks = [block for block in blocks_of(document) if block.text not in EXEMPT]
    strange = [str(block) for block in blocks if block.kind != COMMANDS]
    assert not strange, f"neither commands nor their output nor exempt: {strange}"
    said = _run(blocks, server, home)
    differences = [different for block, text in zip(blocks, said, strict=True) if (different := block.difference(text))]
    assert not differences, "\n".join(differences)


def test_what_is_exempt_is_still_there() -> None:
    texts = {block.text for document in (README, TUTORIAL) for block in blocks_of(document)}
    assert set(EXEMPT) <= texts


def _run(blocks: list[Block], server: Server, home: Path) -> list[str]:
    """What each block wrote to standard output, run one after another in one shell in the repository."""
    here = f"127.0.0.1:{server.port}"
    script = _STRICT + "".join(
        f"printf '{_MARK}%s\\n' '{block}' | tee /dev/stderr\n{block.text.replace(ADDRESS, here)}" for block in blocks
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    environment |= {
        "HOME": str(home),
        "INFERENCE_PORT": str(server.port),
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "COLUMNS": "120",
    }
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    parts = [part.partition("\n") for part in ended.stdout.split(_MARK)[1:]]
    assert ended.returncode == 0, f"{parts[-1][0]} failed: {parts[-1][2]}\n{ended.stderr.rpartition(_MARK)[2]}"
    return [text for _, _, text in parts]
