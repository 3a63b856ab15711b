"""Numbers that are not finite: an error for whoever asked, and nothing for whoever comes next."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.server import FINAL, REPOSITORY


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.e2e.finite_run", str(FINAL)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    if found is None:
        pytest.skip("what stands in unused rows of the cache is multiplied on the CPU alone")
    return found


def test_an_adapter_with_one_nan_is_refused_and_spoils_nothing(seen: dict[str, Any]) -> None:
    """Once the base answered `!!!!!!!!` with 200 for minutes, and sound adapters were refused."""
    adapters = seen["adapters"]
    assert "not a finite number" in adapters["refused"]
    assert adapters["before"] == "42"
    assert set(adapters["after"]) == {"42"}
    assert adapters["sound"] == [True, "42"]


def test_nan_is_never_an_answer(seen: dict[str, Any]) -> None:
    nan = seen["nan"]
    assert nan["statuses"] == [500, 500, 500], "plain, four answers at once with log-probabilities, of a prompt"
    assert "not finite" in nan["message"]
    assert nan["events"][-1] == "data: [DONE]"
    assert "not finite" in nan["events"][-2]
    assert not any("!" in event for event in nan["events"])
    assert "not finite" in nan["item"]["error"]
    assert nan["item"]["text"] == ""
    assert nan["left inside"] == 0


def test_refused_answers_are_counted_and_proofs_are_not(seen: dict[str, Any]) -> None:
    nan = seen["nan"]
    assert nan["proof"]["passed"] is False
    assert nan["proof"]["reason"] == "a log-probability is not a finite number"
    assert nan["refused"] >= 5


def test_blocks_that_nan_was_in_are_clean_for_whoever_gets_them(seen: dict[str, Any]) -> None:
    nan = seen["nan"]
    assert set(nan["then"]) == {"42"}
    assert nan["refused then"] == nan["refused"]
