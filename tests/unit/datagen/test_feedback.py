"""Rows of what people said of answers, in the formats that trainers and evals read."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from datagen.feedback import FeedbackRows
from evals.formats import parse_sample
from stepserve.jobs.datagen_ports import RatedAnswer

TURNS = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2?"}]
ROWS = FeedbackRows()


def rated(answer: str, rating: int, correction: str | None = None, prompt: Any = None, age: int = 0) -> RatedAnswer:
    at = datetime(2026, 1, 31, tzinfo=UTC) - timedelta(hours=age)
    return RatedAnswer(f"r{age}", at, "m", "sha256:d", prompt or TURNS, answer, rating, correction)


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pairs(*answers: RatedAnswer) -> list[tuple[Any, Any]]:
    return [(row["chosen"], row["rejected"]) for row in ROWS.rows("dpo", answers)]


def test_a_correction_is_preferred_to_what_it_corrects() -> None:
    (row,) = ROWS.rows("dpo", [rated("5", -1, "4")])
    assert (row["prompt"], row["chosen"], row["rejected"]) == (TURNS, said("4"), said("5"))
    assert (row["metadata"]["source_id"], row["metadata"]["verify_method"]) == ("r0", "feedback")


def test_a_good_answer_is_preferred_to_a_bad_one_to_the_same_prompt() -> None:
    assert pairs(rated("4", 1), rated("5", -1), rated("6", -1)) == [(said("4"), said("5"))]
    assert pairs(rated("4", 1), rated("5", -1, "four")) == [(said("four"), said("5"))], "rejected once"
    assert pairs(rated("4", 1), rated("4", -1)) == [], "people do not agree"
    assert pairs(rated("4", 1)) == pairs(rated("5", -1)) == pairs(rated("4", 1, "4")) == []


def test_every_judgement_is_a_row_of_kto() -> None:
    rows = ROWS.rows("kto", [rated("4", 1), rated("5", -1), rated("6", -1, "4")])
    assert [(row["completion"], row["label"]) for row in rows] == [
        (said("4"), True), (said("5"), False), (said("4"), True), (said("6"), False),
    ]  # fmt: skip
    assert len({tuple(row) for row in rows}) == 1, "every row has the same keys"


def test_the_newest_correction_is_what_an_eval_expects() -> None:
    rows = ROWS.rows("eval", [rated("9", 1), rated("5", -1, "4"), rated("6", -1, "four", age=1)])
    (sample,) = [parse_sample(json.dumps(row).encode(), line=1, index=0) for row in rows]
    assert (sample.format, sample.input, sample.target) == ("messages", TURNS, "4")
    assert sample.metadata["source_id"] == "r0"
    assert ROWS.rows("eval", [rated("9", 1)]) == []
    assert ROWS.rows("eval", [rated("9", -1, "4", prompt=[*TURNS, *said("The sum")])]) == [], "no question is open"


def test_texts_make_plain_rows() -> None:
    answers = [rated(" 5", -1, " 4", prompt="2+2 =")]
    (pair,) = ROWS.rows("dpo", answers)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("2+2 =", " 4", " 5")
    assert [(row["completion"], row["label"]) for row in ROWS.rows("kto", answers)] == [(" 4", True), (" 5", False)]
    (row,) = ROWS.rows("eval", answers)
    sample = parse_sample(json.dumps(row).encode(), line=1, index=0)
    assert (sample.format, sample.input, sample.target) == ("prompt_answer", "2+2 =", " 4")
