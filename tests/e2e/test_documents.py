"""The documentation does what it says: every block that is marked `run` is run, and answers what stands below it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import debian
from tests.documents import RUN, Block, marked
from tests.e2e.server import FINAL_ID, REPOSITORY, Server

ADDRESS = "localhost:8765"
PAGES = marked(RUN)
_MARK = "\x1e"
_LIMIT_S = 800.0  # of a page: the tutorial takes two minutes on a usual machine

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


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the repository's files in it, where a command may leave some of its own."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for file in REPOSITORY.iterdir():
        if not file.name.startswith("."):
            (folder / file.name).symlink_to(file)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_does_what_the_page_says(server: Server, home: Path, clone: Path, page: Path) -> None:
    blocks = PAGES[page]
    if any(block.kind == "javascript" for block in blocks):
        debian.program("node", "nodejs")
    said = _run(blocks, server, home, clone)
    differences = [different for block, text in zip(blocks, said, strict=True) if (different := block.difference(text))]
    assert not differences, "\n".join(differences)


def _run(blocks: list[Block], server: Server, home: Path, clone: Path) -> list[str]:
    """What each block wrote to standard output, run one after another in one shell."""
    here = f"127.0.0.1:{server.port}"
    script = _STRICT + "".join(
        f"{block.setup.replace(ADDRESS, here)}printf '{_MARK}%s\\n' '{block}' | tee /dev/stderr\n"
        f"{block.commands.replace(ADDRESS, here)}"
        for block in blocks
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
        cwd=clone,
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
