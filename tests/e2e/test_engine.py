"""What the gateway adds to vLLM's engine on the CPU: steps that fit who is inside, and norms by vLLM's own kernels."""

import json
import subprocess
import sys
from typing import Any

import pytest

from gateway.serving.step_size import BATCH_PROMPT_TOKENS_BESIDE
from tests.e2e.server import FINAL, REPOSITORY

# Of a number as large as 1: a float32 keeps seven digits, a bfloat16 is rounded twice to eight bits.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2 / 2**8}


@pytest.fixture(scope="module")
def engine() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.e2e.engine_run", str(FINAL)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    seen: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    if seen is None:
        pytest.skip("vLLM sizes steps and takes kernels by itself where there is a GPU")
    return seen


def test_jobs_alone_are_computed_in_larger_steps_than_what_people_wait_for(engine: dict[str, Any]) -> None:
    people, jobs = max(engine["steps"]["people"]), max(engine["steps"]["jobs"])
    assert (people, jobs) == (2048, 4096), "vLLM's own defaults on the CPU, of its server and offline"


def test_a_job_adds_little_to_the_step_that_somebody_waits_for(engine: dict[str, Any]) -> None:
    """200 items and one request of a person are inside at once; after it the items have the engine for themselves."""
    first, *others = engine["steps"]["both"]
    assert engine["prompt_tokens"] < first <= engine["prompt_tokens"] + BATCH_PROMPT_TOKENS_BESIDE
    assert max(others) == 4096


def test_many_answers_of_a_job_leave_room_for_who_comes(engine: dict[str, Any]) -> None:
    """Once a token each of what is there already took all of a small step, and who had just come was left out."""
    theirs, all_of_it = engine["steps"]["late"]
    assert theirs == engine["prompt_tokens"]
    assert all_of_it == engine["prompt_tokens"] + engine["answers"]


def test_a_probe_has_a_place_in_an_engine_that_is_full(engine: dict[str, Any]) -> None:
    """Once it waited until one of the others ended."""
    its_tokens, others = engine["steps"]["probed"]
    assert its_tokens == engine["prompt_tokens"]
    assert others == engine["full"]


def test_norms_are_what_pytorch_makes_of_them(engine: dict[str, Any]) -> None:
    assert engine["priorities"] == [["stepserve", "native"]] * 2
    for case, difference in engine["norms"].items():
        assert difference <= TOLERANCES[case.split()[0]], case
    assert engine["norms"]["bfloat16 heads"] > 0, (
        "these are parts of rows, and the kernel rounds otherwise than PyTorch"
    )
