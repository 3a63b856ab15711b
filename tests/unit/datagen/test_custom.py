"""custom with answers that are known, and the judge that marks whatever a strategy makes."""

from pathlib import Path
from typing import Any

import pytest

from stepserve.contract import BatchItem, BatchOutput
from tests.unit.datagen.run_setup import RunSetup, SayingEngine, prompt_of, said

CAPITALS: list[dict[str, Any]] = [
    {"id": "fr", "land": "France", "answer": "Paris"},
    {"id": "it", "land": "Italy", "answer": "Rome"},
    {"id": "pe", "land": "Peru", "answer": "Lima"},
    {"id": "xx", "land": "Nowhere", "answer": None},
]
TEMPLATE = "What is the capital of {{land}}? Write the name alone."
KNOWN = {"France": "Paris", "Italy": "Milan"}


@pytest.fixture
def run_setup(tmp_path: Path) -> RunSetup:
    return RunSetup(tmp_path)


def land_of(item: BatchItem) -> str:
    return prompt_of(item).removeprefix("What is the capital of ").partition("?")[0]


def test_gold_keeps_what_the_row_says(run_setup: RunSetup) -> None:
    result = run_setup.run(
        SayingEngine(lambda item: f"The answer is {KNOWN.get(land_of(item), '...')}."),
        "custom",
        template=TEMPLATE,
        rows=CAPITALS,
        verify="gold",
        num_examples=4,
    )
    (row,) = run_setup.rows()
    assert row["metadata"] | {"source_id": "fr", "verify_method": "gold", "answer": "Paris"} == row["metadata"]
    assert (result["accepted"], result["partial"], result["verified_by"]) == (1, True, {"gold": 1})
    assert result["rejected"]["no_gold"] == 1
    assert sum(result["rejected"].values()) == 3


def test_only_what_the_model_gets_wrong_without_sampling(run_setup: RunSetup) -> None:
    """Right by chance, and only for Italy and Peru not by heart."""

    def answer(item: BatchItem) -> str:
        assert item.sampling is not None
        gold = next(str(row["answer"]) for row in CAPITALS if row["land"] == land_of(item))
        sampled = item.sampling.seed is not None
        return gold if sampled or land_of(item) == "France" else "Atlantis"

    result = run_setup.run(
        SayingEngine(answer),
        "custom",
        template=TEMPLATE,
        rows=CAPITALS,
        verify="gold",
        only_unsolved=True,
        max_similarity=1.0,
    )
    assert {row["metadata"]["source_id"] for row in run_setup.rows()} == {"it", "pe"}
    assert result["rejected"] == {"already_solved": 1, "no_gold": 1}


def test_the_judge_lets_pass_what_it_marks_high_enough(run_setup: RunSetup) -> None:
    marks = {"France": "5", "Italy": "Mark: 3", "Peru": "I like it."}

    def answer(item: BatchItem) -> BatchOutput:
        text = prompt_of(item)
        if "Mark:" not in text:
            return said(f"A city of {land_of(item)}.")
        return said(next((mark for land, mark in marks.items() if land in text), "1"))

    judged: dict[str, Any] = {"template": TEMPLATE, "rows": CAPITALS, "num_examples": 4, "max_similarity": 1.0}
    result = run_setup.run(SayingEngine(answer), "custom", **judged, judge={"min_score": 4})
    assert [row["metadata"]["source_id"] for row in run_setup.rows()] == ["fr"]
    assert result["rejected"] == {"judge": 2, "judge_without_mark": 1}
    lower = run_setup.check(
        "custom", **judged, judge={"min_score": 3}, output_dir="lower", against_earlier_shards=False
    )
    run_setup.go(run_setup.context(lower, SayingEngine(answer), "data_gen_2"))
    assert {row["metadata"]["source_id"] for row in run_setup.rows("lower")} == {"fr", "it"}
