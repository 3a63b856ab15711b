"""What is changed of vLLM's inside changes no answer: random requests, with all changes and without any.

`python -m tests.e2e.differential_run CHECKPOINT REQUESTS SEED` asks more of them, and of each change alone.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.server import FINAL, REPOSITORY

REQUESTS, SEED = 100, 20

pytestmark = pytest.mark.long

CHANGES = ("all",)


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.e2e.differential_run", str(FINAL), str(REQUESTS), str(SEED), *CHANGES]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    if found is None:
        pytest.skip("what is changed on a GPU is another engine's, which one process cannot hold twice")
    return found


def test_with_and_without_the_changes_the_answers_are_the_same(seen: dict[str, Any]) -> None:
    assert seen.keys() == set(CHANGES)
    for name, found in seen.items():
        assert found["compared"] > REQUESTS * 0.8, f"{name}: of one in eight the client leaves"
        assert found["missing"] == [], name
        assert found["different"] == {}, name
