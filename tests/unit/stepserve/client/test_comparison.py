"""Two evals in a sentence."""

from typing import Any

import pytest

from stepserve.client.comparison import doubt, sentence

TOLD: dict[str, Any] = {
    "a": {"model_id": "step-500", "job_id": "eval_1"}, "b": {"model_id": "step-1500", "job_id": "eval_2"},
    "difference": 0.0633, "difference_ci95": [0.045, 0.083], "fixed": 38, "broken": 0, "p": 1e-9, "paired": 600,
    "smallest_detectable_difference": 0.021,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "step-1500 is better than step-500: +6.3 points (4.5 to 8.3), 38 fixed, 0 broken, p < 0.001."),
        (
            {"difference": -0.02, "difference_ci95": [-0.04, -0.001], "fixed": 1, "broken": 13, "p": 0.04},
            "step-1500 is worse than step-500: -2.0 points (-4.0 to -0.1), 1 fixed, 13 broken, p = 0.04.",
        ),
        (
            {"difference": 0.01, "difference_ci95": None, "p": 0.31},
            "step-1500 cannot be told from step-500: +1.0 points, 38 fixed, 0 broken, p = 0.31.",
        ),
        (
            {"difference": 0.0, "p": 0.0001},
            "step-1500 cannot be told from step-500: +0.0 points (4.5 to 8.3), 38 fixed, 0 broken, p < 0.001.",
        ),
    ],
)
def test_which_is_better_and_how_sure_that_is(changes: dict[str, Any], said: str) -> None:
    assert sentence(TOLD | changes) == said


def test_two_runs_of_one_model_are_told_apart_by_their_jobs() -> None:
    told = TOLD | {"b": {"model_id": "step-500", "job_id": "eval_2"}}
    assert sentence(told).startswith("step-500 (eval_2) is better than step-500 (eval_1): ")


def test_only_what_is_not_sure_says_how_many_more_questions_would_help() -> None:
    assert doubt(TOLD) == ""
    assert doubt(TOLD | {"p": 0.4}).startswith(
        "600 questions show a difference of 2.1 points or more four times in five;"
    )
