"""Choosing among the samples of a run without reading all of them whole."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evals.metrics import metrics_named
from evals.record import MetricScore, SampleRecord
from evals.sample_index import SampleIndices
from evals.sample_page import sample_page
from stepserve.jobs.errors import Conflict, Invalid
from stepserve.jobs.eval_ports import DoneEval, SampleQuery


def record(number: int, *, right: bool, **changes: Any) -> SampleRecord:
    score = MetricScore(value=float(right), correct=right)
    whole: dict[str, Any] = {
        "id": f"q{number}", "index": number, "input": f"What is {number}+1?", "target": str(number + 1),
        "prediction": "Größe" if right else "no", "extracted": None, "correct": right, "score": score.value,
        "scores": {"numeric": score, "f1": MetricScore(value=number / 10)}, "finish_reason": "stop",
        "prompt_tokens": 5, "completion_tokens": number, "latency_s": 0.1, "loss": None, "reference_logprob": None,
        "reference_tokens": 0, "model_digest": "sha256:a", "error": None,
    }  # fmt: skip
    return SampleRecord(**whole | changes)


def run_of(folder: Path, *records: SampleRecord) -> DoneEval:
    folder.mkdir()
    lines = [one.model_dump_json(exclude_defaults=True) for one in records]
    (folder / "samples.jsonl").write_text("\n".join([*lines, '{"id": "torn']))
    result = {"accuracy_metric": metrics_named(["numeric"])[0].name}
    return DoneEval("eval_1", "m", "sha256:a", {"metrics": ["numeric"]}, result, folder, datetime.now(UTC))


@pytest.fixture
def done(tmp_path: Path) -> DoneEval:
    """Ten, the odd ones right, the last one failed; one is there twice."""
    rest = [record(number, right=number % 2 == 1) for number in range(9)]
    failed = record(9, right=False, error="no room", finish_reason=None)
    return run_of(tmp_path / "run", *rest, failed, record(3, right=False))


def found(done: DoneEval, **wanted: Any) -> list[str]:
    page = sample_page(done, SampleQuery(**{"limit": 100, **wanted}), SampleIndices())
    return [str(sample["id"]) for sample in page["samples"]]


def test_the_worst_come_first_and_each_once(done: DoneEval) -> None:
    assert found(done) == ["q9", "q0", "q2", "q4", "q6", "q8", "q1", "q3", "q5", "q7"]
    page = sample_page(done, SampleQuery(offset=1, limit=2), SampleIndices())
    assert (page["total"], [sample["id"] for sample in page["samples"]]) == (10, ["q0", "q2"])
    assert (page["metrics"], page["finish_reasons"]) == (["f1", "numeric"], ["stop"])


def test_they_are_chosen_by_length_ending_score_and_verdict(done: DoneEval) -> None:
    assert found(done, verdict="right", min_tokens=2, max_tokens=6) == ["q3", "q5"]
    assert found(done, metric="f1", min_score=0.75) == ["q9", "q8"]
    assert found(done, metric="f1", max_score=0.1) == ["q0", "q1"]
    assert found(done, finish_reason="length") == []
    assert found(done, ids=frozenset({"q1", "nobody"})) == ["q1"]


def test_text_is_found_in_any_case_and_alphabet(done: DoneEval) -> None:
    assert found(done, text="WHAT IS 4+") == ["q4"]
    assert found(done, text="GRÖSSE") == ["q1", "q3", "q5", "q7"]
    assert found(done, text="finish_reason") == [], "a field's name is no text of a sample"


def test_what_changed_since_another_run(done: DoneEval, tmp_path: Path) -> None:
    before = run_of(tmp_path / "before", *(record(number, right=number < 4) for number in range(6)))
    page = sample_page(done, SampleQuery(limit=100), SampleIndices(), before)
    assert [(one["id"], one["verdict_before"], one["verdict"]) for one in page["samples"]] == [
        ("q0", "right", "wrong"), ("q2", "right", "wrong"), ("q5", "wrong", "right"),
    ]  # fmt: skip


def test_what_cannot_be_chosen_by_is_named(done: DoneEval, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="metric: 'bleu' was not measured in this run; there is f1, numeric"):
        found(done, metric="bleu")
    (done.run_dir / "samples.jsonl").unlink()
    with pytest.raises(Conflict, match="eval_1 kept no samples"):
        found(done)


def test_a_run_that_is_written_anew_is_read_anew(done: DoneEval) -> None:
    indices = SampleIndices()
    assert sample_page(done, SampleQuery(), indices)["total"] == 10
    (done.run_dir / "samples.jsonl").write_text(record(1, right=True).model_dump_json() + "\n")
    assert sample_page(done, SampleQuery(), indices)["total"] == 1
