"""Samples of lm-eval as runs of ours."""

import json
from typing import Any

import pytest

from evals.interchange.answers import Unreadable
from evals.interchange.imported import ImportedRun, imported


def line(number: int, name: str, value: float) -> dict[str, Any]:
    return {
        "doc_id": number,
        "doc": {"question": f"q{number}"},
        "target": "1",
        "filtered_resps": [f"by {name}"],
        "filter": name,
        "metrics": ["exact_match"],
        "exact_match": value,
    }


# As lm-eval writes a task that reads each answer in two ways.
LINES = [line(n, name, value) for n in range(2) for name, value in (("strict-match", 0.0), ("flexible-extract", 1.0))]


def run(metric: str | None) -> ImportedRun:
    body = "".join(json.dumps(one) + "\n" for one in LINES).encode()
    return imported(body, "lm_eval", metric, model_id="m", digest="sha256:m", name="n")


@pytest.mark.parametrize(
    ("metric", "accuracy", "said"),
    [
        (None, 0.0, "by strict-match"),
        ("exact_match", 0.0, "by strict-match"),
        ("exact_match,flexible-extract", 1.0, "by flexible-extract"),
    ],
)
def test_of_several_filters_one_counts(metric: str | None, accuracy: float, said: str) -> None:
    found = run(metric)
    assert (found.result["accuracy"], [one.prediction for one in found.records]) == (accuracy, [said, said])


def test_a_filter_that_is_not_there_is_named() -> None:
    with pytest.raises(Unreadable, match="'none'"):
        run("exact_match,none")
