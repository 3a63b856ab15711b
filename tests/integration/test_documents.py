"""The documentation's blocks: each says whether it is run, reads as its language, and does so without a server."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.documents import COMMANDS, INTERPRETERS, REPOSITORY, RUN_LOCAL, Block, blocks_of, marked, pages

LOCAL = marked(RUN_LOCAL)
BLOCKS = [block for page in pages() for block in blocks_of(page)]
_LIMIT_S = 240.0
_FILE = re.compile(
    r"(?<![\w/~.-])(?:gateway|control|evals|datagen|stepserve|deploy|benchmarks|tests)/[\w/.-]+\.(?:py|conf|toml|json)\b"
)


def test_every_block_of_commands_says_whether_it_is_run() -> None:
    missing = [str(block) for block in BLOCKS if block.kind in {"", COMMANDS} and block.mark is None]
    assert not missing, f"mark them, as tests/documents.py says, and give indented ones a fence: {missing}"


def test_only_commands_and_programs_are_marked() -> None:
    assert [str(block) for block in BLOCKS if block.mark and block.kind not in {COMMANDS, *INTERPRETERS}] == []


def test_the_shell_reads_every_block() -> None:
    script = "".join(f"{block.setup}{block.text}\n" for block in BLOCKS if block.kind == COMMANDS)
    read = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    assert read.returncode == 0, read.stderr


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind in {"python", "json", "toml"}], ids=str)
def test_other_blocks_are_valid(block: Block) -> None:
    if block.kind == "python":
        compile(block.text, str(block), "exec")
    elif block.kind == "json":
        json.loads(block.text)
    else:
        tomllib.loads(block.text)


def test_the_files_of_the_repository_that_pages_name_are_there() -> None:
    named = {(page.name, file) for page in pages() for file in _FILE.findall(page.read_text())}
    missing = sorted(f"{page}: {file}" for page, file in named if not (REPOSITORY / file).exists())
    assert len(named) > 50
    assert missing == []


@pytest.mark.parametrize("page", LOCAL, ids=lambda page: page.stem)
def test_commands_that_need_no_server_do_what_they_say(page: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    environment |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
    for block in LOCAL[page]:
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.setup + block.commands],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        assert ended.returncode == 0, f"{block}: {ended.stderr}"
        assert (different := block.difference(ended.stdout)) is None, different
