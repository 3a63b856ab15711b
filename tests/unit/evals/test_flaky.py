"""Flaky questions are found in runs of any size: what is kept of a question does not grow with its answers."""

import asyncio
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evals.record import SampleRecord
from evals.reports import EvalReports
from evals.samples_log import SAMPLES_FILE, open_samples
from stepserve.jobs.eval_ports import DoneEval, SampleQuery

LONG = "x" * 20_000


def run_of(folder: Path, answers: dict[str, str], right: frozenset[str] = frozenset()) -> DoneEval:
    records = [
        SampleRecord(
            id=name, index=number, input="?", target="t", prediction=answer, extracted=None, correct=name in right,
            score=float(name in right), finish_reason="stop", prompt_tokens=1, completion_tokens=1, latency_s=0.1,
            loss=None, reference_logprob=None, reference_tokens=0, model_digest="d", error=None,
        )
        for number, (name, answer) in enumerate(answers.items())
    ]  # fmt: skip
    folder.mkdir()
    with open_samples(folder / SAMPLES_FILE) as log:
        log.append(records)
    return DoneEval(
        job_id=folder.name, model_id="a", model_digest="d", config={}, result={}, run_dir=folder,
        finished_at=datetime.now(UTC),
    )  # fmt: skip


def flaky(done: DoneEval, *others: DoneEval) -> dict[str, Any]:
    return asyncio.run(EvalReports().flaky(done, others))


def test_what_differs_is_found_among_many_runs(tmp_path: Path) -> None:
    first = run_of(tmp_path / "a", {"1": "x", "2": "y", "3": "z", "4": "only here"})
    second = run_of(tmp_path / "b", {"1": "x", "2": "other", "3": "z"})
    third = run_of(tmp_path / "c", {"1": "x", "2": "y", "3": "right"}, right=frozenset({"3"}))
    gone = run_of(tmp_path / "d", {"1": "else"})
    (gone.run_dir / SAMPLES_FILE).unlink()
    found = flaky(first, second, gone, third)
    assert (found["compared_with"], found["flaky"]) == (["b", "c"], 2)
    assert [(one["id"], one["differs"]) for one in found["questions"]] == [("2", "answer"), ("3", "verdict")]
    assert found["questions"][0]["answers"] == {"a": "y", "b": "other", "c": "y"}
    assert found["questions"][1]["scores"] == {"a": 0.0, "b": 0.0, "c": 1.0}


def test_runs_of_long_answers_are_not_held_in_memory(tmp_path: Path) -> None:
    names = [str(number) for number in range(300)]
    first = run_of(tmp_path / "a", dict.fromkeys(names, LONG))
    second = run_of(tmp_path / "b", {**dict.fromkeys(names, LONG), "7": "short"})
    tracemalloc.start()
    found = flaky(first, second)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [one["id"] for one in found["questions"]] == ["7"]
    assert peak_bytes < 100 * len(LONG)


@pytest.mark.parametrize("limit", [1, 20])
def test_where_every_answer_differs_the_first_are_shown_and_all_are_marked(tmp_path: Path, limit: int) -> None:
    names = [f"{number:04}" for number in range(600)]
    first = run_of(tmp_path / "a", dict.fromkeys(names, LONG))
    second = run_of(tmp_path / "b", dict.fromkeys(names, "short"))
    found = flaky(first, second)
    assert (found["flaky"], len(found["questions"])) == (600, 500)
    assert len(found["questions"][0]["answers"]["a"]) < len(LONG)
    wanted = SampleQuery(None, "", frozenset(), 600 - limit, limit)
    page = asyncio.run(EvalReports().samples(first, wanted, [second]))
    assert [one["flaky"] for one in page["samples"]] == ["answer"] * limit
