import asyncio
import json
from typing import Any

import pytest

from evals.formats import parse_sample
from evals.programs import code_of, program_of
from evals.record import SampleRecord, record_of
from evals.sandbox import why_no_sandbox
from evals.scoring import Scoring, pass_at_k
from stepserve.contract import BatchOutput, Completion

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\ndef total(xs: List[int]) -> int:\n    """Sum."""\n',
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3",
    "entry_point": "total",
    "canonical_solution": "    return sum(xs)\n",
}
RIGHT = "    return sum(xs)\n"
WHOLE = "Here:\n```python\ndef total(xs: List[int]) -> int:\n    return sum(xs)\n```\nIt adds."


def _record(line: dict[str, Any], *answers: str) -> SampleRecord:
    sample = parse_sample(json.dumps(line).encode(), line=1, index=0)
    completions = [Completion(text=text, finish_reason="stop", completion_tokens=1) for text in answers]
    output = BatchOutput(text=answers[0], finish_reason="stop", completions=completions if len(answers) > 1 else [])
    return record_of(sample, output, "sha256:aa")


def _scored(record: SampleRecord, *metrics: str) -> SampleRecord:
    async def run() -> SampleRecord:
        async with Scoring(metrics) as scoring:
            return (await scoring.score([record]))[0]

    return asyncio.run(run())


def test_the_block_that_defines_the_function_is_the_code() -> None:
    answer = (
        "```python\nx = 'a long block that is not it, though it is longer than the other'\n```\n```\ndef f():\n  1\n```"
    )
    assert code_of(answer, "f") == "def f():\n  1"
    assert code_of("```python\nopen end") == "open end"
    assert code_of("no block") == "no block"


def test_a_rest_of_the_stub_and_a_whole_function_both_make_a_program() -> None:
    task = _record(HUMANEVAL, RIGHT).code
    assert task is not None
    for answer in (RIGHT, WHOLE):
        namespace: dict[str, Any] = {}
        program = program_of(answer, task)
        exec(program.prelude, namespace)
        exec(program.code, namespace)
        assert namespace["total"]([1]) == 1


# Chen et al. (2021): 1 - C(n - c, k) / C(n, k)
@pytest.mark.parametrize(
    ("n", "c", "k", "chance"), [(5, 0, 1, 0.0), (5, 5, 5, 1.0), (5, 2, 1, 0.4), (5, 2, 3, 0.9), (10, 1, 10, 1.0)]
)
def test_pass_at_k_is_the_unbiased_estimator(n: int, c: int, k: int, chance: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(chance)


@pytest.mark.skipif(why_no_sandbox() is not None, reason=str(why_no_sandbox()))
def test_programs_are_run_against_their_tests() -> None:
    right = _scored(_record(HUMANEVAL, WHOLE), "pass@1")
    assert (right.correct, right.score) == (True, 1.0)
    wrong = _scored(_record(HUMANEVAL, "    return 0\n"), "pass@1")
    assert (wrong.correct, wrong.scores["pass@1"].detail) == (False, "AssertionError: ")
    several = _scored(_record(HUMANEVAL, RIGHT, "    return 0\n", "    return 1\n"), "pass@1", "pass@2")
    assert several.scores["pass@1"].value == pytest.approx(1 / 3)
    assert several.scores["pass@2"].value == pytest.approx(2 / 3)
    assert several.scores["pass@2"].values == [1.0, 0.0, 0.0]
    mbpp = {"task_id": 1, "text": "Add.", "code": "def add(a, b): return a + b", "test_list": ["assert add(1, 2) == 3"]}
    assert _scored(_record(mbpp, "```python\ndef add(a, b):\n    return a + b\n```"), "pass@1").correct is True
