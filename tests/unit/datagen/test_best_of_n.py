"""best_of_n: rejection sampling and preference data in TRL's formats."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stepserve.contract import BatchItem, BatchOutput
from stepserve.jobs.errors import BadJob
from tests.unit.datagen.run_setup import RunSetup, SayingEngine, prompt_of, said

SUMS: dict[str, Any] = {
    "template": "What is {{a}}+{{b}}?",
    "rows": [{"a": a, "b": 20} for a in range(10, 16)],
    "verify": "executed",
    "n": 4,
    "seed": 3,
}


class Sampling(SayingEngine):
    """Of the samples of a question the first is wrong, the second right, the third right at length, the fourth cut off;
    of an odd first number all are right."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        super().__init__(self._say)

    def _say(self, item: BatchItem) -> BatchOutput:
        question = prompt_of(item)
        a, b = (int(number) for number in question.removeprefix("What is ").removesuffix("?").split("+"))
        self._seen[question] += 1
        wrong = str(a + b + (a % 2 == 0))
        return [said(wrong), said(str(a + b)), said(f"The sum is {a + b}"), said(str(a + b), "length")][
            (self._seen[question] - 1) % 4
        ]


@pytest.fixture
def run_setup(tmp_path: Path) -> RunSetup:
    return RunSetup(tmp_path / "base")


def test_rejection_sampling_keeps_one_right_answer_a_question(run_setup: RunSetup) -> None:
    result = run_setup.run(Sampling(), "best_of_n", **SUMS)
    rows = run_setup.rows()
    assert (result["accepted"], result["partial"]) == (6, True)
    assert [row["messages"][1]["content"] for row in rows] == [str(a + 20) for a in range(10, 16)]
    assert {row["metadata"]["verify_method"] for row in rows} == {"executed"}
    assert set(rows[0]) == {"id", "messages", "metadata"}


def test_pairs_for_dpo(run_setup: RunSetup) -> None:
    result = run_setup.run(Sampling(), "best_of_n", format="dpo", **SUMS)
    rows = run_setup.rows()
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        ([{"role": "assistant", "content": str(a + 20)}], [{"role": "assistant", "content": str(a + 21)}])
        for a in (10, 12, 14)
    ]
    assert rows[0]["prompt"] == [{"role": "user", "content": "What is 10+20?"}]
    assert (rows[0]["score_chosen"], rows[0]["score_rejected"]) == (1.0, 0.0)
    assert result["rejected"] == {"no_contrast": 3}, "where all answers are right none is worse"
    with pytest.raises(BadJob, match="duplicate_of_earlier_shard 3"):
        run_setup.run(Sampling(), "best_of_n", job="data_gen_2", format="dpo", **SUMS)


def test_every_answer_with_a_label_for_kto_and_in_order_as_ranked(run_setup: RunSetup) -> None:
    run_setup.run(Sampling(), "best_of_n", format="kto", output_dir="kto", **SUMS)
    rows = run_setup.rows("kto")
    assert [(row["completion"][0]["content"], row["label"]) for row in rows[:3]] == [
        ("30", True), ("The sum is 30", True), ("31", False),
    ]  # fmt: skip
    assert len(rows) == len({row["id"] for row in rows}) == 9
    assert [facts[0] for facts in run_setup.ledger.facts.values()] == [9], "rows of the shard"
    run_setup.run(
        Sampling(), "best_of_n", job="data_gen_2", format="ranked", output_dir="ranked", against_earlier_shards=False,
        **SUMS,
    )  # fmt: skip
    (first, *_) = run_setup.rows("ranked")
    assert [one[0]["content"] for one in first["completions"]] == ["30", "The sum is 30", "31"]
    assert first["scores"] == [1.0, 1.0, 0.0]


def test_verifiers_rank_where_no_answer_is_known(run_setup: RunSetup) -> None:
    config = SUMS | {"verify": "none", "verifiers": [{"name": "regex", "pattern": "sum"}]}
    run_setup.run(Sampling(), "best_of_n", format="dpo", **config)
    rows = run_setup.rows()
    assert len(rows) == 6
    assert {row["chosen"][0]["content"].split()[0] for row in rows} == {"The"}
    assert {row["metadata"]["verify_method"] for row in rows} == {"regex"}


def test_a_question_without_a_right_answer_is_dropped_with_its_reason(run_setup: RunSetup) -> None:
    with pytest.raises(BadJob, match="rejected: no_right_solution 6"):
        run_setup.run(SayingEngine(lambda _: "7"), "best_of_n", **SUMS)


@pytest.mark.parametrize(
    ("strategy", "config", "reason"),
    [
        ("best_of_n", {"verify": "none"}, "needs something to rank by: verify, verifiers or judge"),
        ("best_of_n", {"n": 1}, "config.n:"),
        ("custom", {"format": "dpo", "n": None}, "format dpo needs a strategy that ranks answers, such as best_of_n"),
    ],
)
def test_what_cannot_rank_is_refused(run_setup: RunSetup, strategy: str, config: dict[str, Any], reason: str) -> None:
    asked = {name: value for name, value in (SUMS | config).items() if value is not None}
    assert reason in run_setup.refusal(strategy, **asked)
