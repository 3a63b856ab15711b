"""What is changed of vLLM's inside changes no answer: random requests, with each change and without any.

`python -m tests.e2e.differential_run CHECKPOINT REQUESTS SEED` asks more of them.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.server import FINAL, REPOSITORY

REQUESTS, SEED = 150, 20


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.e2e.differential_run", str(FINAL), str(REQUESTS), str(SEED)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    if found is None:
        pytest.skip("what is changed on a GPU is another engine's, which one process cannot hold twice")
    return found


def test_every_change_alone_and_all_together_give_the_same_answers(seen: dict[str, Any]) -> None:
    assert {"all", "whole_answers", "step_sizes", "cpu_norms", "grammar_budget"} <= seen.keys()
    for name, found in seen.items():
        assert found["compared"] > REQUESTS, f"{name}: many are asked for several answers"
        assert found["missing"] == [], name
        assert found["different"] == {}, name
