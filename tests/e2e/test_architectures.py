"""What a reload in place carries over, for architectures that differ from the demo's (Qwen3 with tied embeddings,
tests/e2e/test_switching.py); `python -m benchmarks.architectures` has them all.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.server import REPOSITORY

KINDS = ("mistral sliding", "qwen3 moe")


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.e2e.architectures_run", *KINDS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    if found is None:
        pytest.skip("one process cannot hold several engines of a GPU")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_is_what_a_fresh_engine_is(seen: dict[str, Any], kind: str) -> None:
    assert seen[kind]["obstacle"] is None
    assert seen[kind]["in place"], "not a bit is another"
    assert seen[kind]["other"] > 0.5, "the two checkpoints are different models"


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_made_ready_beforehand_is_what_a_fresh_engine_is(seen: dict[str, Any], kind: str) -> None:
    """And until it is taken, the engine says what it said before."""
    why = {"qwen3 moe": "the engine takes adapters"}.get(kind)
    assert seen[kind]["why not ready"] == why
    assert seen[kind]["meanwhile"]
    assert seen[kind]["made ready"]


def test_a_model_with_experts_takes_adapters(seen: dict[str, Any]) -> None:
    """Once every such model died at its first forward pass where adapters were allowed."""
    assert seen["qwen3 moe"]["adapted"] > 0.1
